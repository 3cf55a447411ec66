"""Where commands are called wrongly."""

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a new user may name by mistake."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "directory").mkdir()  # no word of ours, as folder is to `data fake`
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "recipe.py").write_text("print('not a recipe')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path / "zoo"))  # nothing is asked of the network
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path
