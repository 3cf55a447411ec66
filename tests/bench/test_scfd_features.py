"""The features of benchmarks/scfd_features.py, of videos that are made up, by a network that knows nothing."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import write_video

from lightning_har.nets.backbones import build_backbone

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("scfd_features")
    torch.manual_seed(0)
    monkeypatch.setattr(module, "build_backbone", lambda name, pretrained: build_backbone(name, pretrained=False))
    yield module
    sys.modules.pop("scfd_features", None)


def test_every_clip_has_its_features_which_are_kept(script, tmp_path, monkeypatch):
    rows = [
        ["path", "label", "group", "fold"],
        ["fight/a.mp4", "fight", "g", "0"],
        ["noFight/b.mp4", "noFight", "h", "1"],
    ]
    for frames, (path, *_) in zip((3, 30), rows[1:], strict=True):
        write_video(tmp_path / path, frames)
    with (tmp_path / "folds.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    made = script.extract(tmp_path / "folds.csv", Path("w"), tmp_path / "kept")
    assert [row["fold"] for row, _ in made] == ["0", "1"]
    widths = {f"{s}_{k}": d for s in ("rgb", "diff", "flow") for k, d in (("last", 1280), ("mid", 192))}
    for frames, (_, clip) in zip((3, 25), made, strict=True):  # as many as it has, if fewer than 25
        shapes = {name: (frames - (not name.startswith("rgb")), d) for name, d in (widths | {"motion": 30}).items()}
        assert {name: values.shape for name, values in clip.items()} == shapes | {"file": (1, 5)}
        assert all(np.isfinite(values).all() for values in clip.values())
    assert made[1][1]["file"].tolist()[0][:4] == [25, 30, 48, 80]
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"fight-a.npz", "noFight-b.npz"}
    monkeypatch.setattr(script, "pictures", None)  # nothing is computed again
    again = script.extract(tmp_path / "folds.csv", Path("w"), tmp_path / "kept")
    for (_, one), (_, other) in zip(made, again, strict=True):
        assert all((one[name] == other[name]).all() for name in one)
