import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_har.cli.init import KINDS, write
from lightning_har.cli.main import main


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_its_own_test(kind: str, tmp_path: Path) -> None:
    _, test = write(kind, f"my_{kind}", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_python_and_lints(kind: str, tmp_path: Path) -> None:
    file, test = write(kind, f"my_{kind}", tmp_path / "new" / "folder")
    for path in (file, test):
        compile(path.read_text(), str(path), "exec")
        assert "$" not in path.read_text()
    config = Path(__file__).resolve().parents[2] / "pyproject.toml"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(config), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "My-Model"], "such as my_model"),
        (["model", "class"], "cannot be imported"),
        (["recipe", "../up"], "such as up"),
        (["model", "there"], "is there already"),
    ],
)
def test_wrong_names(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.py").write_text("mine")
    assert main(["init", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["there.py"]
    assert (tmp_path / "there.py").read_text() == "mine"
