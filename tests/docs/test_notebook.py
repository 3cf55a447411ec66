import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "first_steps.ipynb"


@pytest.mark.slow
def test_every_cell_runs_offline(tmp_path: Path) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code"), "clear the outputs"
    (tmp_path / "notebook.py").write_text("\n".join(cells), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LIGHTNING_HAR_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "notebook.py"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CNNRNNModule ('sit_down', 'stand_up', 'open_door')" in done.stdout
    assert "'test_video_top1'" in done.stdout
    for name in ("samples", "curves", "confusion", "gradcam"):
        assert (tmp_path / "pictures" / f"{name}.png").is_file()
