"""What a run writes, repeats and counts."""

import csv
import json
import weakref
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from small_runs import SMALL, WRITTEN, rows

from lightning_har._lightning import Callback, Trainer
from lightning_har.bench.predictions import Predictions
from lightning_har.data.features import FeatureDataModule
from lightning_har.data.kinetics import KineticsDataModule
from lightning_har.data.synthetic import generate
from lightning_har.errors import ConfigError, DecodeError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.pretrained import load_model
from lightning_har.run import run


def test_a_run_writes_what_it_promises(call: Any, tmp_path: Path) -> None:
    def extra(said: Predictions) -> dict[str, float]:
        return {"wave_top1": said.top1_within(["wave"])}

    reports = call("--seed", "3", extra_metrics=extra)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == WRITTEN
    report = json.loads((folder / "report.json").read_text())
    assert report == json.loads(json.dumps(reports["tiny"]))
    assert set(report) == {
        "schema_version", "recipe", "commit", "versions", "hardware", "seed", "protocol", "files", "metrics", "cost",
        "memory", "latency", "reading", "note", "runs",
    }  # fmt: skip
    assert set(report["protocol"]) == {
        "data", "split", "file_list_sha256", "sampling", "views", "crop", "coverage", "batch_size", "precision",
        "num_workers",
    }  # fmt: skip
    assert [report["protocol"][key] for key in ("batch_size", "precision", "num_workers")] == [6, "32-true", 0]
    assert report["protocol"]["coverage"] is None, "a folder has no list that it could be a part of"
    assert (report["recipe"], report["seed"], report["files"]) == ("tiny", 3, {"scored": 12, "skipped": 0})
    assert report["runs"] == [{key: value for key, value in report.items() if key != "runs"}]
    assert set(report["cost"]) == {
        "parameters", "trainable_parameters", "macs", "checkpoint_bytes", "checkpoint_sha256"}  # fmt: skip
    assert set(report["memory"]) == {"train_peak_bytes", "test_peak_bytes"}
    assert set(report["latency"]) == set(report["reading"]) == {"p50_ms", "p95_ms", "clips_per_s"}
    assert report["cost"]["checkpoint_bytes"] == (folder / "best.ckpt").stat().st_size
    assert report["cost"]["parameters"] == report["cost"]["trainable_parameters"] + frozen_parameters(folder)
    assert report["memory"]["train_peak_bytes"] > 10 * 2**20

    said = rows(folder / "predictions.csv")
    right = sum(row["label"] == row["predicted"] for row in said)
    video = report["metrics"]["test"]["action"]["video"]
    assert video["top1"] == pytest.approx(right / 12)
    assert video["wave_top1"] in (0.0, 1.0)
    scored = {"top1", "top5", "precision_macro", "recall_macro", "f1_macro", "num_predicted_classes"}
    assert set(report["metrics"]["test"]["action"]["clip"]) >= scored
    assert set(video) >= scored | {"loss"}
    epochs = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in epochs] == ["0", "1"]
    best = torch.load(folder / "best.ckpt", weights_only=True)["epoch"]
    assert report["metrics"]["val"]["action"]["video"]["top1"] == float(epochs[best]["val_top1"])


def frozen_parameters(folder: Path) -> int:
    module = load_model(str(folder))
    assert module.class_names is not None
    assert len(module.class_names) == 12
    assert module.eval_sampling is not None
    return sum(p.numel() for p in module.parameters() if not p.requires_grad)


def test_how_much_of_the_list_is_on_disk_stands_beside_the_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, data = partial(CNNRNNModule, **SMALL), partial(KineticsDataModule, root="elsewhere")
    run(module, data, name="kinetics", argv=["--smoke", "--out", str(tmp_path / "run")])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["protocol"]["data"] == "KineticsDataModule"
    assert report["protocol"]["coverage"] == {
        "train": {"listed": 15, "on_disk": 12}, "test": {"listed": 6, "on_disk": 6}}  # fmt: skip
    assert report["runs"][0]["protocol"] == report["protocol"]
    assert "Kinetics: on disk are train 12 of 15 (80.0 %), test 6 of 6 (100.0 %)" in capsys.readouterr().err


def test_config_repeats_the_run(call: Any, tmp_path: Path) -> None:
    first = call("--module.lr", "0.01", "--data.eval_sampling.num_clips", "2", "--seed", "5", out="a")["tiny"]
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["module"]["lr"] == 0.01
    assert config["seed"] == 5
    again = call("--config", str(tmp_path / "a" / "config.yaml"), out="b")["tiny"]
    assert again["metrics"] == first["metrics"]
    assert again["protocol"] == first["protocol"]
    assert first["protocol"]["views"] == 2
    assert yaml.safe_load((tmp_path / "b" / "config.yaml").read_text()) == config


@pytest.mark.parametrize(("monitor", "epoch"), [("val_top1", 0), (None, 1)])
def test_without_a_monitor_the_last_epoch_is_tested(call: Any, tmp_path: Path, monitor: str | None, epoch: int) -> None:
    # Of an average nothing changes at a rate of 0: epochs tie, and the first of the best is kept.
    report = call("--module.temporal", "avg", "--module.lr", "0", monitor=monitor)["tiny"]
    assert torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["epoch"] == epoch
    measured = [float(row["val_top1"]) for row in rows(tmp_path / "run" / "metrics.csv")]
    assert measured[0] == measured[1] == report["metrics"]["val"]["action"]["video"]["top1"]
    assert report["files"]["scored"] == 12


@pytest.mark.parametrize("last", [["--trainer.check_val_every_n_epoch", "2"], ["--refit-all"]], ids=["rare", "refit"])
def test_the_last_epoch_is_the_last_though_nothing_validates_it(call: Any, tmp_path: Path, last: list[str]) -> None:
    call("--module.temporal", "avg", "--epochs", "3", *last, monitor=None)
    assert torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["epoch"] == 2


def test_one_head_may_have_a_name(tmp_path: Path) -> None:
    FeatureDataModule.fake(tmp_path)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("label", "verb", 1))
    (tmp_path / "extract.json").write_text(json.dumps({"class_names": {"verb": ["clap", "jump", "wave"]}}))
    module = partial(CNNRNNModule, backbone=None, feature_dim=16, temporal="avg", pretrained=False)
    data = partial(FeatureDataModule, manifest=str(manifest))
    argv = ["--epochs", "1", "--out", str(tmp_path / "run"), "--data.num_frames", "4"]
    report = run(module, data, name="tiny", argv=argv)["tiny"]
    trained = load_model(tmp_path / "run")
    assert trained.eval_sampling is not None
    assert trained.eval_sampling.num_frames == 4, "of how many stored frames it was trained on"
    logged = rows(tmp_path / "run" / "metrics.csv")[0]
    assert report["metrics"]["val"]["verb"]["video"]["top1"] == float(logged["val_verb_top1"])
    assert set(report["metrics"]["test"]) == {"verb"}
    assert (tmp_path / "run" / "best.ckpt").is_file()


@pytest.mark.slow
def test_variants_differ_as_told(call: Any, tmp_path: Path) -> None:
    variants = {"avg": {"module.temporal": "avg"}, "gru": {"module.temporal": "gru"}}
    reports = call("--trainer.max_epochs", "1", variants=variants)
    assert list(reports) == ["avg", "gru"]
    assert reports["gru"]["cost"]["parameters"] > reports["avg"]["cost"]["parameters"]
    assert {path.name for path in (tmp_path / "run" / "gru").iterdir()} == WRITTEN
    only = call("--trainer.max_epochs", "1", "--variant", "gru", out="only", variants=variants)
    assert list(only) == ["gru"]
    assert not (tmp_path / "only" / "avg").exists()
    with pytest.raises(ConfigError, match="avg, gru"):
        call("--variant", "lstm", out="none", variants=variants)


def test_an_epoch_is_logged_before_its_checkpoint_is_written(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a process killed between the two would lose the row."""
    logged: list[int] = []
    save = Trainer.save_checkpoint

    def count(self: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if Path(path).name == "last.ckpt":
            logged.append(len(rows(tmp_path / "run" / "metrics.csv")))
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", count)
    call()
    assert logged == [1, 2]


class Leftovers(Callback):  # type: ignore[misc]
    """Looks in the test for what training has left."""

    optimizer: Any = None
    found: ClassVar[list[Any]] = []
    gradients: ClassVar[list[Any]] = []

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert trainer.optimizers[0].state
        self.optimizer = weakref.ref(trainer.optimizers[0])

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self.found.append(self.optimizer())
        self.gradients += [p.grad for p in pl_module.parameters()]


def test_the_memory_of_testing_is_without_that_of_training(call: Any) -> None:
    Leftovers.found.clear()
    Leftovers.gradients.clear()
    call(trainer={"max_epochs": 1, "limit_train_batches": 1, "callbacks": [Leftovers()]})
    assert Leftovers.found == [None]
    assert set(Leftovers.gradients) == {None}


@pytest.mark.slow
def test_a_smoke_run_is_repeated_with_fake_data_of_its_own(call: Any, tmp_path: Path) -> None:
    first = call("--smoke", "--module.lr", "0.01", out="a")["tiny"]
    config = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert config["smoke"] is True
    assert "root" not in config["data"]  # it was removed with the run
    again = call("--config", str(tmp_path / "a" / "config.yaml"), out="b")["tiny"]
    assert again["metrics"] == first["metrics"]
    # As values: a union of int and float may parse 2 as 2.0, by which of its two orders Python met first.
    assert yaml.safe_load((tmp_path / "b" / "config.yaml").read_text()) == config
    # A run on given data that is only as short as a smoke run keeps its place.
    clips = str(generate(tmp_path / "given", clips_per_class=(2, 1, 1), size=32))
    call("--smoke", "--data.root", clips, out="c")
    assert yaml.safe_load((tmp_path / "c" / "config.yaml").read_text())["data"]["root"] == clips


def with_broken(clips: Path, folder: Path, *splits: str) -> Path:
    """The clips' CSV with one unreadable video in each of some splits, which the CSV names bad_<split>.mp4."""
    with clips.open(newline="") as file:
        records = list(csv.DictReader(file))
    folder.mkdir()
    for name in ("train", "val", "test"):
        (folder / name).symlink_to(clips.parent / name)
    for split in splits:
        (folder / f"bad_{split}.mp4").write_bytes(b"")
        next(record for record in records if record["split"] == split)["path"] = f"bad_{split}.mp4"
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    return folder / "manifest.csv"


def test_unreadable_videos_are_counted(
    clips: Path, tmp_path: Path, call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = with_broken(clips, tmp_path / "copy", "train", "val", "test")
    report = call("--data.root", str(root), "--data.on_error", "skip")["tiny"]
    assert report["files"] == {"scored": 11, "skipped": 1}
    errors = [row for row in rows(tmp_path / "run" / "predictions.csv") if row["error"]]
    assert [row["path"] for row in errors] == ["bad_test.mp4"]
    for epoch in rows(tmp_path / "run" / "metrics.csv"):
        assert (epoch["train_skipped"], epoch["val_scored"], epoch["val_skipped"]) == ("1", "11", "1")
    assert report["metrics"]["val"]["action"]["video"]["skipped"] == 1
    said = capsys.readouterr().out
    for split in ("train", "val", "test"):
        assert said.count(f"bad_{split}.mp4: is empty") == 1, "told once, not in every epoch"


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_unreadable_video_stops_a_run(clips: Path, tmp_path: Path, call: Any, split: str) -> None:
    root = with_broken(clips, tmp_path / "copy", split)
    with pytest.raises(DecodeError, match=rf"bad_{split}\.mp4"):
        call("--data.root", str(root), "--trainer.max_epochs", "1")
