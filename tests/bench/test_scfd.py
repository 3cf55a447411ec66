"""benchmarks/scfd.py on features that are made up."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("scfd", BENCHMARKS / "scfd.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def features(tmp_path):
    """24 clips of two classes, told apart by every feature; a manifest, and their folds."""
    rng = np.random.default_rng(0)
    folds, rows = {}, [["path", "label", "split", "group", "id"]]
    for i in range(24):
        label = ("fight", "noFight")[i % 2]
        np.save(tmp_path / f"{i}.npy", (rng.standard_normal((25, 1280)) + i % 2 - 0.5).astype(np.float32))
        rows.append([f"{i}.npy", label, "", "", str(i)])
        folds[str(i)] = str(i // 8)
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path / "manifest.csv", folds


@pytest.mark.parametrize("model", ["avg", "tsn"])
def test_a_fold_is_scored(script, features, model, monkeypatch):
    monkeypatch.setattr(script, "EPOCHS", 15)  # of one batch each
    seen = []
    forward = script.CNNRNNModule.forward
    monkeypatch.setattr(
        script.CNNRNNModule,
        "training_outputs",
        lambda self, video: seen.append(tuple(video.shape[1:])) or [(forward(self, video), 1.0)],
    )
    assert script.score(*features, "1", model, 0) == 1.0
    assert set(seen) == {(script.SEGMENTS if model == "tsn" else 25, 1280)}


def test_other_models_rows_stay(script, tmp_path):
    table = tmp_path / "t.csv"
    script.update(table, ["model", "top1"], [["gru", "0.5"], ["avg", "0.6"]])
    script.update(table, ["model", "top1"], [["tsn", "0.7"], ["gru", "0.8"]])
    assert table.read_text().split() == ["model,top1", "avg,0.6", "tsn,0.7", "gru,0.8"]
    script.update(table, ["model", "top1", "hardware"], [["tsn", "0.7", "Chip"]])  # what older rows do not say
    assert table.read_text().split() == ["model,top1,hardware", "avg,0.6,", "gru,0.8,", "tsn,0.7,Chip"]
