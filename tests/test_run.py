import csv
import json
import os
import signal
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from lightning_har._lightning import Callback, Trainer
from lightning_har.bench.predictions import Predictions
from lightning_har.callbacks import EarlyStopping
from lightning_har.cli import lightning, main
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.kinetics import KineticsDataModule
from lightning_har.data.synthetic import SyntheticActionsDataModule, generate
from lightning_har.errors import ConfigError, DecodeError, HarError, WeightsError
from lightning_har.evaluate import score_checkpoint
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.pretrained import load_model
from lightning_har.run import run

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = {
    "config.yaml",
    "metrics.csv",
    "best.ckpt",
    "last.ckpt",
    "report.json",
    "predictions.csv",
    "confusion_matrix.png",
    "curves.png",
    "classification_report.csv",
}
SMALL = {"backbone": "mobilenetv2_035", "pretrained": False, "num_frames": 2, "input_size": 32, "hidden": 8}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("clips"), clips_per_class=(2, 1, 1), size=32)


@pytest.fixture
def call(clips: Path, tmp_path: Path) -> Any:
    module = partial(CNNRNNModule, **SMALL)
    data = partial(VideoFolderDataModule, root=str(clips), batch_size=6, num_workers=0)

    def call(*argv: str, out: str = "run", **kwargs: Any) -> Any:
        arguments: dict[str, Any] = {"trainer": {"max_epochs": 2, "num_sanity_val_steps": 0}, **kwargs}
        place = [] if out == "" else ["--out", str(tmp_path / out)]
        return run(module, data, name="tiny", argv=[*place, *argv], **arguments)

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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


class Interrupt(Callback):  # type: ignore[misc]
    """Presses Ctrl-C, or stops the process as a scheduler does."""

    def __init__(self, step: int, how: signal.Signals = signal.SIGINT) -> None:
        self.step = step
        self.how = how

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.how)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on(call: Any, tmp_path: Path, how: signal.Signals) -> None:
    # 24 clips in batches of 6: step 6 is in the middle of the second epoch
    began = time.perf_counter()
    trainer = {"max_epochs": 3, "num_sanity_val_steps": 0, "callbacks": [Interrupt(6, how)]}
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        call("--module.lr", "0.002", "--trainer.max_epochs", "3", trainer=trainer)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    folder = tmp_path / "run"
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6
    assert not (folder / "report.json").exists()
    call("--resume", str(folder), out="")
    elapsed = time.perf_counter() - began
    found = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in found] == ["0", "1", "2"]
    assert found[-1]["step"] == "12"
    assert all(float(row["seconds"]) < elapsed for row in found)
    assert {float(row["lr"]) for row in found} == {0.002}  # the stopped run's arguments, not the recipe's
    assert (folder / "report.json").exists()


def test_resuming_goes_on_with_the_variants_that_wait(call: Any, tmp_path: Path) -> None:
    variants = {"avg": {"module.temporal": "avg"}, "gru": {"module.temporal": "gru"}}
    trainer = {"max_epochs": 1, "num_sanity_val_steps": 0, "callbacks": [Interrupt(2)]}
    with pytest.raises(KeyboardInterrupt) as stopped:
        call(trainer=trainer, variants=variants)
    place = str(stopped.value).rpartition("--resume ")[2]
    reports = call("--resume", place, out="", variants=variants, trainer={"max_epochs": 1})
    assert list(reports) == ["avg", "gru"]
    for name in variants:
        assert {path.name for path in (tmp_path / "run" / name).iterdir()} == WRITTEN
        assert rows(tmp_path / "run" / name / "metrics.csv")[-1]["step"] == "4"


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


class InterruptTest(Callback):  # type: ignore[misc]
    """Presses Ctrl-C in the test."""

    def on_test_batch_end(self, *args: Any) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("ended_by", ["epochs", "early stopping"])
def test_a_run_interrupted_in_its_test_goes_on(call: Any, tmp_path: Path, ended_by: str) -> None:
    early = ended_by == "early stopping"
    # No second epoch is better by so much.
    callbacks: list[Any] = [EarlyStopping("val_loss", min_delta=1e9, patience=1)] if early else []
    trainer = {"max_epochs": 4 if early else 2, "num_sanity_val_steps": 0}
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        call(trainer={**trainer, "callbacks": [*callbacks, InterruptTest()]})
    metrics = tmp_path / "run" / "metrics.csv"
    epochs = rows(metrics)
    assert len(epochs) == 2
    peak = epochs[0]["peak_bytes"]
    assert int(peak) > 10 * 2**20
    metrics.write_text(metrics.read_text().replace(peak, str(10**15)))  # of the first part, as none of the second can
    report = call("--resume", str(tmp_path / "run"), out="", trainer={**trainer, "callbacks": callbacks})["tiny"]
    assert report["files"]["scored"] == 12
    assert len(rows(metrics)) == 2, "nothing was left to train"
    assert report["memory"]["train_peak_bytes"] == 10**15
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["epoch"]
    assert report["metrics"]["val"]["action"]["video"]["top1"] == float(epochs[best]["val_top1"])


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


class Never(Callback):  # type: ignore[misc]
    """Fails where anything is trained or tested."""

    def setup(self, *args: Any) -> None:
        raise AssertionError("run again")


def test_what_is_finished_is_not_done_again(call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = call("--epochs", "1")
    folder = tmp_path / "run"
    again = call("--resume", str(folder), out="", trainer={"max_epochs": 2, "callbacks": [Never()]})
    assert json.loads(json.dumps(first)) == again
    assert "done before" in capsys.readouterr().out
    # With other arguments it is not finished, and has no report until it is.
    trainer = {"max_epochs": 2, "num_sanity_val_steps": 0, "callbacks": [Interrupt(6)]}
    with pytest.raises(KeyboardInterrupt):
        call("--resume", str(folder), "--epochs", "2", out="", trainer=trainer)
    assert not (folder / "report.json").exists()
    call("--resume", str(folder), out="")
    assert len(rows(folder / "metrics.csv")) == 2
    assert (folder / "report.json").exists()


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


def test_resuming_fetches_no_weights(call: Any, tmp_path: Path) -> None:
    call("--trainer.max_epochs", "1")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("pretrained: false", "pretrained: /not/there.safetensors"))
    report = call("--resume", str(tmp_path / "run"), "--trainer.max_epochs", "2", out="")["tiny"]
    assert len(rows(tmp_path / "run" / "metrics.csv")) == 2
    assert report["files"]["scored"] == 12


@pytest.mark.parametrize(
    ("resume", "message"),
    [("nowhere", "does not exist"), ("empty", "no last.ckpt"), ("empty/best.ckpt", "weights only")],
)
def test_what_cannot_be_resumed(call: Any, tmp_path: Path, resume: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "best.ckpt").write_bytes(b"")
    if resume == "empty":
        (tmp_path / "empty" / "best.ckpt").unlink()
    with pytest.raises(ConfigError, match=message):
        call("--resume", str(tmp_path / resume), out="")


def test_a_run_is_resumed_in_its_own_folder(call: Any, tmp_path: Path) -> None:
    """Elsewhere the best epoch so far would be forgotten."""
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": {}, "optimizer_states": []}, tmp_path / "run" / "last.ckpt")
    with pytest.raises(ConfigError, match="leave out --out"):
        call("--resume", str(tmp_path / "run"), out="other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--resume {run}/predictions.csv", "is no checkpoint"),
        ("--resume {run}/last.ckpt", "is no checkpoint"),
        ("--resume {run}/mine.ckpt", "weights only"),
        ("--resume {run}", "is no checkpoint"),
        ("--config {run}/last.ckpt", r"last\.ckpt is no config\.yaml"),
        ("--config {run}/broken.yaml", r"broken\.yaml is no config\.yaml"),
        ("--resume {run}/good.ckpt --trainer.accelerator gpuu", "Trainer refuses its arguments: .*gpuu"),
    ],
)
def test_what_cannot_be_run_leaves_the_run_that_is_there(call: Any, tmp_path: Path, line: str, message: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("report.json", "predictions.csv"):
        (folder / name).write_text("kept")
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "broken.yaml").write_text("a: [1, 2\nb: {")
    (folder / "last.ckpt").write_bytes(b"\x80\xff cut off")
    torch.save({"state_dict": {}}, folder / "mine.ckpt")
    torch.save({"state_dict": {}, "optimizer_states": []}, folder / "good.ckpt")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=message) as error:
        call(*line.format(run=folder).split(), out="")
    assert len(str(error.value).splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    class Untouched(VideoFolderDataModule):
        def load_manifests(self) -> Any:
            raise AssertionError("read")

    arguments = ["--trainer.accelerator", "gpu", "--out", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match="gpu"):
        run(partial(CNNRNNModule, **SMALL), partial(Untouched, root="x"), name="tiny", argv=arguments)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="gpu"):
        score_checkpoint("nothing.ckpt", "/no/such/data", tmp_path / "scored", trainer={"accelerator": "gpu"})
    with pytest.raises(ConfigError, match="precision"):
        score_checkpoint("nothing.ckpt", "/no/such/data", tmp_path / "scored", trainer={"precision": "bf17"})


def test_nan_stops_the_run_and_names_the_files(call: Any, tmp_path: Path) -> None:
    with pytest.raises(HarError, match=r"the loss is (nan|inf).*\.mp4") as error:
        call("--module.optimizer", "sgd", "--module.lr", "1e30")
    assert str(error.value).count(".mp4") == 6
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("where", ["disk", "hub"])
def test_weights_fail_before_data_is_touched(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = {"backbone": "mobilenetv2_050", "pretrained": where == "hub" or str(tmp_path / "none.safetensors")}
    module = partial(CNNRNNModule, **(SMALL | weights))
    data = partial(SyntheticActionsDataModule, root=str(tmp_path / "data"))
    with pytest.raises(WeightsError) as error:
        run(module, data, name="tiny", argv=["--out", str(tmp_path / "run")])
    told = str(error.value)
    which, source = (
        ("'mobilenetv2_050'", "timm/mobilenetv2_050") if where == "hub" else ("none.safetensors", str(tmp_path))
    )
    for part in (which, source, "pretrained=", "False", "file"):
        assert part in told
    assert not (tmp_path / "data").exists()


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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--module.tempral", "gru"], "did you mean --module.temporal"),
        (["--module.lr", "fast"], "module.lr"),
        (["--trainer.max_epoch", "1"], "did you mean --trainer.max_epochs"),
        (["--config", "/not/there.yaml"], "there.yaml"),
    ],
)
def test_wrong_arguments_are_named(call: Any, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        call(*argv)
    assert len(str(error.value).splitlines()) <= 3


def test_a_recipe_that_names_an_unknown_argument(clips: Path) -> None:
    data = partial(VideoFolderDataModule, root=str(clips))
    with pytest.raises(ConfigError, match=r"hiden.*module\.hidden"):
        run(partial(CNNRNNModule, hiden=3), data, name="tiny", argv=[])
    with pytest.raises(ConfigError, match="positional"):
        run(partial(CNNRNNModule, 12), data, name="tiny", argv=[])


def test_help_names_what_every_recipe_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (lightning.main, main.main):
        with pytest.raises(SystemExit) as left:
            command(["run", "--help"])
        assert left.value.code == 0
        said = capsys.readouterr().out
        for option in ("--on", "--refit-all", "--epochs", "--smoke", "--resume", "--config", "--variant", "--seed"):
            assert f"\n  {option} " in said
        for option in ("--data.root", "--trainer.precision", "--module.temporal", "--refit-all --epochs"):
            assert option in said.partition("examples:")[2]


def test_a_run_is_not_written_over(call: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="already holds a run"):
        call()
    assert (tmp_path / "run" / "report.json").read_text() == "{}"
