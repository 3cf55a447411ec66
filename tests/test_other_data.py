"""``--on``: a recipe on other data than its own. ``--refit-all``: on all of it, for deployment."""

import json
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch

from lightning_har.arguments import parse
from lightning_har.data.features import FeatureDataModule
from lightning_har.data.hmdb51 import HMDB51DataModule
from lightning_har.data.synthetic import generate
from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.errors import ConfigError, DataError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import REFITTED, run

SMALL = {"backbone": "mobilenetv2_035", "pretrained": False, "num_frames": 2, "input_size": 32, "hidden": 8}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("clips"), clips_per_class=(2, 1, 1), size=32)


@pytest.fixture
def call(tmp_path):
    """A recipe of UCF101 as it would be run without UCF101."""

    def call(*argv, out="run", trainer=None, **kwargs):
        data = partial(UCF101DataModule, root=str(tmp_path / "nowhere"), batch_size=6, num_workers=0, split=1)
        trainer = {"max_epochs": 1, "num_sanity_val_steps": 0, **(trainer or {})}
        argv = ["--out", str(tmp_path / out), *argv]
        return run(partial(CNNRNNModule, **SMALL), data, name="r", argv=argv, trainer=trainer, **kwargs)["r"]

    return call


@pytest.mark.slow
def test_on_a_csv_keeps_what_any_data_takes(call, clips, tmp_path):
    report = call("--on", str(clips))
    assert report["protocol"]["data"] == "VideoFolderDataModule"
    assert report["files"]["scored"] == 12
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "batch_size: 6" in config
    assert "split: 1" not in config  # UCF101's own
    again = call("--config", str(tmp_path / "run" / "config.yaml"), out="again")
    assert again["metrics"] == report["metrics"]
    assert again["protocol"] == report["protocol"]


@pytest.mark.slow
def test_on_another_official_data_set(call, tmp_path):
    HMDB51DataModule.fake(tmp_path / "hmdb51")
    report = call("--on", f"hmdb51:{tmp_path / 'hmdb51'}", "--data.split", "2")
    assert report["protocol"]["data"] == "HMDB51DataModule"
    assert "split: 2" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("fold", [["--data.fold", "3"], ["--data.fold=3"]])
def test_the_folds_of_official_data_are_their_splits(fold, tmp_path):
    args = parse(partial(CNNRNNModule, **SMALL), partial(UCF101DataModule, root="x"), {}, fold, recipe="r")
    assert args.data["split"] == 3


def test_on_features_the_backbone_is_left_out(call, tmp_path):
    FeatureDataModule.fake(tmp_path / "features")
    report = call("--on", f"features:{tmp_path / 'features'}", extra_metrics=lambda said: {"never": 1.0})
    assert report["protocol"]["data"] == "FeatureDataModule"
    assert report["cost"]["parameters"] < 5000  # a GRU of 8 units on 16 features, not a MobileNetV2
    assert "never" not in report["metrics"]["test"]["action"]["video"]  # named by the recipe's own classes


def test_the_width_is_that_of_the_features_in_use(tmp_path):
    FeatureDataModule.fake(tmp_path / "features")
    for path in (tmp_path / "features").rglob("*.npy"):
        np.save(path, np.load(path)[:, :8])
    manifest = tmp_path / "features" / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("label", "verb", 1))
    module = partial(CNNRNNModule, **SMALL)
    for data, on in (
        (partial(UCF101DataModule, root="x"), ["--on", f"features:{manifest}"]),
        (partial(FeatureDataModule, manifest=str(manifest), heads=["verb"]), []),
    ):
        assert parse(module, data, {}, on, recipe="r").module["feature_dim"] == 8
        faked = parse(module, data, {}, [*on, "--smoke"], recipe="r", smoke_folder=tmp_path / "smoke")
        assert faked.module["feature_dim"] == 16
        assert faked.module["backbone"] is None
    FeatureDataModule.fake(tmp_path / "wide")
    given = partial(FeatureDataModule, manifest=str(tmp_path / "wide" / "manifest.csv"))
    other = ["--data.manifest", str(manifest), "--data.heads", "[verb]"]
    assert parse(module, given, {}, other, recipe="r").module["feature_dim"] == 8


def test_another_seed_is_another_order_of_the_same_clips(call, tmp_path, monkeypatch):
    FeatureDataModule.fake(tmp_path / "features")
    orders = []

    def step(self, batch, index, plain=CNNRNNModule.training_step):
        orders[-1].setdefault(self.current_epoch, []).extend(batch["id"])
        return plain(self, batch, index)

    monkeypatch.setattr(CNNRNNModule, "training_step", step)
    reports = []
    for number, seed in enumerate("011"):
        orders.append({})
        on = ("--on", f"features:{tmp_path / 'features'}", "--seed", seed, "--epochs", "2")
        reports.append(call(*on, out=f"run{number}"))
    first, other, again = orders
    assert other == again
    drawn = [run[epoch] for run in (first, other) for epoch in (0, 1)]
    assert all(a != b for a, b in combinations(drawn, 2))  # nor is a seed's order the next one's of an epoch later
    assert len({tuple(sorted(order)) for order in drawn}) == 1
    assert len({report["protocol"]["file_list_sha256"] for report in reports}) == 1


def test_on_a_fold(call, clips, tmp_path):
    import csv

    with clips.open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = clips.parent / "folds.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "fold"])
        writer.writerows((r["path"], r["label"], i % 2) for i, r in enumerate(rows))
    report = call("--on", str(table), "--data.fold", "1")
    assert report["protocol"]["split"] == "test, fold 1"
    assert report["files"]["scored"] == 24
    with pytest.raises(DataError, match="fold"):
        call("--on", str(table), "--data.fold", "7", out="other")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--on", "ucf1001:x"], "did you mean ucf101"),
        (["--on", "no/such/place"], "no data at no/such/place"),
        (["--on", "synthetic", "--data.splt", "1"], "takes no --data.splt"),
    ],
)
def test_on_what_is_not_there(call, argv, message):
    with pytest.raises(ConfigError, match=message):
        call(*argv)


def test_refit_all_trains_on_everything_and_says_that_no_score_is_left(call, clips, tmp_path, capsys):
    report = call("--on", str(clips), "--refit-all", "--epochs", "2")
    assert REFITTED in capsys.readouterr().out
    assert report["note"] == REFITTED == "trained on all data, test clips included: no held-out score exists"
    assert report["metrics"] == {}
    assert report["files"] == {"scored": 0, "skipped": 0}
    folder = tmp_path / "run"
    assert json.loads((folder / "report.json").read_text())["note"] == REFITTED
    assert not (folder / "predictions.csv").exists()
    # 48 clips in batches of 6, twice; the last state is kept, since nothing could choose another.
    last = torch.load(folder / "last.ckpt", weights_only=True)
    best = torch.load(folder / "best.ckpt", weights_only=True)
    assert last["global_step"] == 16
    for name, value in best["state_dict"].items():
        torch.testing.assert_close(value, last["state_dict"][name], rtol=0, atol=0)
    assert report["cost"]["checkpoint_bytes"] == (folder / "best.ckpt").stat().st_size
    assert report["latency"]["p50_ms"] > 0  # on a black clip


def test_refit_all_wants_to_know_how_long(call, clips):
    with pytest.raises(ConfigError, match="--epochs N"):
        call("--on", str(clips), "--refit-all")
    with pytest.raises(ConfigError, match="plateau"):
        call("--on", str(clips), "--refit-all", "--epochs", "1", "--module.schedule", "plateau", out="p")
