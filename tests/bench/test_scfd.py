"""benchmarks/scfd.py and the recipe that it has the harness run, on features that are made up."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from harness_runs import write_recipe
from scripts import BENCHMARKS, load_script
from videos import write_video

from lightning_har.cli.run import run_recipe
from lightning_har.data.features import FeatureDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule


@pytest.fixture
def script():
    return load_script("scfd")


@pytest.fixture
def features(tmp_path):
    """24 clips of two classes in three folds, told apart by every feature."""
    rng = np.random.default_rng(0)
    rows = [["path", "label", "fold", "group", "id"]]
    for i in range(24):
        label = ("fight", "noFight")[i % 2]
        np.save(tmp_path / f"{i}.npy", (rng.standard_normal((25, 64)) + i % 2 - 0.5).astype(np.float32))
        rows.append([f"{i}.npy", label, str(i // 8), "", str(i)])
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return tmp_path


@pytest.mark.parametrize("model", ["avg", "tsn"])
def test_the_recipe_trains_on_features_and_tests_its_last_epoch_on_a_fold(features, model, monkeypatch):
    seen = []
    outputs = CNNRNNModule.training_outputs
    monkeypatch.setattr(
        CNNRNNModule, "training_outputs", lambda self, x: seen.append(tuple(x.shape[1:])) or outputs(self, x)
    )
    given = ["--on", f"features:{features}", "--data.fold", "1", "--epochs", "15", "--variant", model]
    run_recipe(str(BENCHMARKS / "scfd_heads.py"), [*given, "--out", str(features / "run"), "--module.lr", "0.01"])
    folder = features / "run" / model
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["test"]["action"]["video"]["top1"] == 1.0
    assert report["protocol"]["split"] == "test, fold 1"
    assert report["files"]["scored"] == 8
    assert report["protocol"]["batch_size"] == 16
    assert torch.load(folder / "best.ckpt", weights_only=True)["epoch"] == 14
    assert set(seen) == {(3 if model == "tsn" else 25, 64)}


def test_the_features_keep_their_folds(script, tmp_path, monkeypatch):
    small = {"backbone": "mobilenetv2_035", "pretrained": False, "num_frames": 3, "input_size": 32}
    monkeypatch.setattr(script, "CNNRNNModule", lambda classes, **given: CNNRNNModule(classes, temporal="avg", **small))
    rows = [["path", "label", "group", "fold"]]
    for i in range(4):
        rows.append([f"{i}.mp4", ("fight", "noFight")[i % 2], f"g{i}", i // 2])
        write_video(tmp_path / f"{i}.mp4", 5)
    with (tmp_path / "folds.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert script.extract(tmp_path / "folds.csv", Path("w.tflite"), tmp_path / "f") == ["0", "1"]
    data = FeatureDataModule(tmp_path / "f" / "manifest.csv", fold="1")
    assert [record.path for record in data.load_manifests()["test"]] == ["2.npy", "3.npy"]
    assert data.feature_shape == (3, 1280)


def test_the_features_of_a_torchscript_are_its_own(script, tmp_path, monkeypatch):
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.amin((2, 3)), x.amax((2, 3))], 1)

    torch.jit.save(torch.jit.script(Mean()), tmp_path / "w.pt")
    small = {"backbone": "inception_v3.tf_in1k", "pretrained": False, "num_frames": 3}
    monkeypatch.setattr(script, "CNNRNNModule", lambda classes, **given: CNNRNNModule(classes, temporal="avg", **small))
    rows = [["path", "label", "group", "fold"]]
    for i in range(2):
        rows.append([f"{i}.mp4", "fight", f"g{i}", i])
        write_video(tmp_path / f"{i}.mp4", 5)
    with (tmp_path / "folds.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    script.extract(tmp_path / "folds.csv", tmp_path / "w.pt", tmp_path / "f")
    features = np.load(tmp_path / "f" / "1.npy")
    assert features.shape == (3, 6)
    assert features[:, :3].min() >= -1
    assert features[:, :3].max() < 0 < features[:, 3:].min()  # pixels in [-1, 1]
    assert features[:, 3:].max() <= 1


def call(script, tmp_path, monkeypatch, *argv):
    """The script with a recipe that takes no time."""
    monkeypatch.setattr(script, "extract", lambda folds, weights, out: ["0", "1", "2"])
    monkeypatch.setattr(script, "HEADS", tmp_path / "heads.py")
    monkeypatch.setattr("sys.argv", ["scfd.py", "folds.csv", "w.tflite", "--work", str(tmp_path / "work"), *argv])
    return script.main()


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_are_what_the_harness_measured(script, tmp_path, monkeypatch):
    fold = "int(sys.argv[sys.argv.index('--data.fold') + 1])"
    write_recipe(tmp_path / "heads.py", right=f"6 * {fold} + 2 * args.seed")  # of 24 clips
    assert call(script, tmp_path, monkeypatch, "--seeds", "2", "--out", str(tmp_path / "out")) == 0
    (row,) = rows_of(tmp_path / "out" / "scfd.csv")
    assert [row[k] for k in ("model", "folds", "seeds", "hardware", "commit")] == ["heads", "3", "2", "c", "abc"]
    assert float(row["top1_mean"]) == pytest.approx(7 / 24, abs=1e-4)  # folds of 1, 7 and 13
    assert float(row["std_over_folds"]) == pytest.approx(6 / 24, abs=1e-4)
    assert float(row["ci95_over_folds"]) == pytest.approx(4.3027 * 0.25 / 3**0.5, abs=1e-4)
    runs = [(run["fold"], run["seed"], run["top1"]) for run in rows_of(tmp_path / "out/scfd/results.csv")]
    assert sorted(runs) == [(str(f), str(s), str((6 * f + 2 * s) / 24)) for f in range(3) for s in range(2)]
    assert {"results.json", "results.csv", "results.html"} <= {p.name for p in (tmp_path / "out" / "scfd").iterdir()}
    record = json.loads((tmp_path / "out" / "scfd" / "results.json").read_text())
    assert record["models"][0]["runs"] == 6


def test_a_smoke_is_small_and_leaves_the_results_alone(script, tmp_path, monkeypatch):
    write_recipe(tmp_path / "heads.py", body="print('called with', *sys.argv)")
    assert call(script, tmp_path, monkeypatch, "--smoke") == 0
    (row,) = rows_of(tmp_path / "work" / "results" / "scfd.csv")
    assert (row["folds"], row["seeds"]) == ("2", "1")
    assert "--epochs 1" in (tmp_path / "work/runs/heads/seed0-fold0.log").read_text()


def test_another_accelerator_reaches_the_runs_and_has_results_of_its_own(script, tmp_path, monkeypatch):
    write_recipe(tmp_path / "heads.py")
    for accelerator in ("cpu", "cuda"):
        given = ("--seeds", "1", "--accelerator", accelerator, "--work", str(tmp_path / accelerator))
        assert call(script, tmp_path, monkeypatch, *given, "--out", str(tmp_path / "out")) == 0
    names = ("scfd", "scfd_cuda")
    assert [rows_of(tmp_path / "out" / f"{name}.csv")[0]["hardware"] for name in names] == ["c", "cuda"]
    records = [json.loads((tmp_path / "out" / name / "results.json").read_text()) for name in names]
    title = script.TITLE.format("MobileNetV2")
    assert [record["title"] for record in records] == [title, f"{title} (cuda)"]


def test_no_table_is_written_of_half_the_runs(script, tmp_path, monkeypatch, capsys):
    write_recipe(tmp_path / "heads.py", body="if args.seed: sys.exit('error: broken')")
    assert call(script, tmp_path, monkeypatch, "--out", str(tmp_path / "out")) == 1
    assert "some runs failed" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_inception_has_results_of_its_own(script, tmp_path, monkeypatch):
    write_recipe(tmp_path / "heads.py")
    monkeypatch.setattr(script, "extract", lambda folds, weights, out: ["0", "1"])
    monkeypatch.setattr(script, "HEADS", tmp_path / "heads.py")
    given = ["--seeds", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["scfd.py", "folds.csv", "default_1.pt", *given])
    assert script.main() == 0
    record = json.loads((tmp_path / "out" / "scfd_inception" / "results.json").read_text())
    assert "Inception-v3" in record["title"]
    assert (tmp_path / "out" / "scfd_inception.csv").is_file()
