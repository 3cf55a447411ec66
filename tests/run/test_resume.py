"""Runs that were stopped and go on, runs that are done, and what cannot be resumed."""

import json
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, WRITTEN, Interrupt, InterruptTest, contents, rows

from lightning_har._lightning import Callback, make_trainer
from lightning_har.callbacks import EarlyStopping
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.errors import ConfigError, HarError, WeightsError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.tsn import TSNModule
from lightning_har.run import run


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


@pytest.mark.slow
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


def test_the_folder_of_all_variants_may_bear_the_name_of_one(call: Any, tmp_path: Path) -> None:
    variants = {"avg": {"module.temporal": "avg"}, "gru": {"module.temporal": "gru"}}
    trainer = {"max_epochs": 1, "num_sanity_val_steps": 0}
    with pytest.raises(KeyboardInterrupt) as stopped:
        call("--variant", "avg", out="avg", variants=variants, trainer={**trainer, "callbacks": [InterruptTest()]})
    place = str(stopped.value).rpartition("--resume ")[2]
    assert list(call("--resume", place, out="", variants=variants, trainer=trainer)) == ["avg"]
    own = str(tmp_path / "avg" / "avg")
    assert list(call("--resume", own, out="", variants=variants, trainer=trainer)) == ["avg"], "done before"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no last.ckpt, neither has .* \(avg, gru\)"):
        call("--resume", str(tmp_path / "empty"), out="", variants=variants)


@pytest.mark.slow
def test_a_stop_before_a_later_variants_first_step_says_how_to_go_on(call: Any, tmp_path: Path) -> None:
    class StopTheSecond(Callback):  # type: ignore[misc]
        def on_train_start(self, *args: Any) -> None:
            if (tmp_path / "run" / "avg" / "report.json").exists():
                raise KeyboardInterrupt

    variants = {name: {"module.temporal": name} for name in ("avg", "gru")}
    trainer = {"max_epochs": 1, "num_sanity_val_steps": 0}
    with pytest.raises(KeyboardInterrupt, match=f"--resume {tmp_path / 'run'}$"):
        call(trainer={**trainer, "callbacks": [StopTheSecond()]}, variants=variants)
    assert list(call("--resume", str(tmp_path / "run"), out="", variants=variants, trainer=trainer)) == ["avg", "gru"]


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


@pytest.mark.parametrize(
    ("threshold", "interrupt", "epochs"),
    [
        pytest.param(1e9, InterruptTest(), 1, id="it had stopped"),
        pytest.param(None, Interrupt(6), 3, id="it had not"),
    ],
)
def test_a_run_that_early_stopping_ended_at_once_is_not_gone_on_with(
    call: Any, tmp_path: Path, threshold: float | None, interrupt: Callback, epochs: int
) -> None:
    """Lightning notes the number of the epoch, which is 0 then, as where nothing has stopped."""
    trainer = {"max_epochs": 3, "num_sanity_val_steps": 0}
    early = EarlyStopping("val_loss", patience=9, stopping_threshold=threshold)
    with pytest.raises(KeyboardInterrupt, match="--resume"):
        call(trainer={**trainer, "callbacks": [early, interrupt]})
    call("--resume", str(tmp_path / "run"), out="", trainer={**trainer, "callbacks": [early]})
    assert len(rows(tmp_path / "run" / "metrics.csv")) == epochs


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


@pytest.mark.filterwarnings("error:.*dirpath has changed")
def test_a_moved_run_keeps_its_best_epoch(call: Any, tmp_path: Path) -> None:
    # Of an average nothing changes at a rate of 0: epochs tie, and the first of the best is kept.
    arguments = ["--module.temporal", "avg", "--module.lr", "0"]
    stopped = {"num_sanity_val_steps": 0, "callbacks": [InterruptTest()]}
    with pytest.raises(KeyboardInterrupt):
        call(*arguments, "--epochs", "1", trainer=stopped)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(KeyboardInterrupt):
        call("--resume", str(moved), "--epochs", "2", out="", trainer=stopped)
    assert torch.load(moved / "best.ckpt", weights_only=True)["epoch"] == 0
    # Where nothing is left to train, the old place is not asked for.
    again = moved.rename(tmp_path / "again")
    report = call("--resume", str(again), out="")["tiny"]
    assert report["metrics"]["val"]["action"]["video"]["top1"] == float(rows(again / "metrics.csv")[0]["val_top1"])
    (again / "best.ckpt").unlink()
    before = contents(again)
    with pytest.raises(ConfigError, match=f"{again / 'best.ckpt'}, the best epoch so far, is not there"):
        call("--resume", str(again), "--epochs", "3", out="")
    assert contents(again) == before


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
        ("--resume {run}/predictions.csv", r"predictions\.csv is no PyTorch file, .* takes a run's folder"),
        ("--resume {run}/text.ckpt", r"text\.ckpt is no PyTorch file"),
        ("--resume {run}/cut.ckpt", r"cut\.ckpt is damaged or cut short"),
        ("--resume {run}/last.ckpt", r"nothing to resume: .*last\.ckpt is refused: .* or is damaged"),
        ("--resume {run}/mine.ckpt", "weights only"),
        ("--resume {run}", r"nothing to resume: .*last\.ckpt is refused: .* or is damaged"),
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
    (folder / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, folder / "mine.ckpt")
    (folder / "cut.ckpt").write_bytes((folder / "mine.ckpt").read_bytes()[:-100])
    torch.save({"state_dict": {}, "optimizer_states": []}, folder / "good.ckpt")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=message) as error:
        call(*line.format(run=folder).split(), out="")
    assert len(str(error.value).splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def other_classes(clips: Path, rename: Callable[[str, str], str | None]) -> Path:
    """The clips with other names of classes, by name and the last one's; None leaves a clip out."""
    head, *lines = clips.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    renamed = [(row, rename(row[4], rows[-1][4])) for row in rows]
    other = clips.with_name("other.csv")
    other.write_text("\n".join([head, *(",".join([*r[:4], name, *r[5:]]) for r, name in renamed if name)]) + "\n")
    return other


def test_weights_that_do_not_fit_what_is_built(call: Any, clips: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text("kept")
    saver = make_trainer(logger=False)
    saver.strategy.connect(CNNRNNModule(12, **SMALL))
    saver.save_checkpoint(folder / "last.ckpt")
    fewer = other_classes(clips, lambda name, last: None if name == last else name)
    before = contents(folder)

    def refused(*arguments: str, by: Any = call) -> str:
        with pytest.raises(WeightsError) as error:
            by("--resume", str(folder), *arguments, out="")
        told = str(error.value)
        assert len(told.splitlines()) == 1
        assert told.startswith(f"the weights in {folder / 'last.ckpt'}")
        assert told.endswith("(a run's are in its config.yaml), or train anew without them.")
        assert contents(folder) == before
        return told

    told = refused("--module.hidden", "16")
    assert re.search(
        r"do not fit CNNRNNModule: \d+ of another shape: .*\(expected \(\d*16.*\), given \(\d*8.*\)\)", told
    )
    told = refused("--module.backbone", "mobilenetv2_050")
    assert re.search(r"of another shape: net\.backbone.* \(expected \(.*\), given \(.*\)\).* and \d+ more", told)
    told = refused("--module.temporal", "avg")
    assert "left over: net." in told
    told = refused("--data.root", str(fewer))
    assert re.search(r"\(expected \(11,\), given \(12,\)\)", told)

    other = partial(TSNModule, backbone="mobilenetv2_035", pretrained=False, input_size=32)
    data = partial(VideoFolderDataModule, root=str(clips), batch_size=6, num_workers=0)
    told = refused(by=lambda *argv, out: run(other, data, name="other", argv=argv))
    assert ", of a CNNRNNModule, do not fit TSNModule: " in told


def test_a_run_is_not_resumed_on_other_classes(call: Any, clips: Path, tmp_path: Path) -> None:
    call("--epochs", "1")
    before = contents(tmp_path / "run")

    def turned(name: str, last: str) -> str:  # so that in alphabetical order the first is the last
        return f"{255 - ord(name[0])}{name}"

    for name in (lambda name, last: "swims" if name == last else name, turned):
        other = other_classes(clips, name)
        with pytest.raises(ConfigError, match="the checkpoint's classes are not this module's, in this order") as error:
            call("--resume", str(tmp_path / "run"), "--epochs", "2", "--data.root", str(other), out="")
        _, theirs, ours = str(error.value).splitlines()
        assert re.match(r"the checkpoint: \(12\) \w+, ", theirs)
        assert ours.startswith("this module: (12) ")
        assert ours.partition("(12)")[2] != theirs.partition("(12)")[2]
        assert contents(tmp_path / "run") == before


class InterruptSetup(Callback):  # type: ignore[misc]
    """Presses Ctrl-C before anything is trained."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt


def test_a_run_that_is_refused_loses_nothing(call: Any, tmp_path: Path) -> None:
    call("--epochs", "1")
    folder = tmp_path / "run"
    before = contents(folder)
    for refused in (
        ["--data.num_workers", "-1"],  # by the data module's constructor
        ["--module.dropout", "7"],  # by that of a layer
        ["--data.root", str(tmp_path / "nowhere")],
        ["--module.hidden", "16"],  # other shapes than the checkpoint's
        ["--module.optimizer", "sgd"],
        ["--module.freeze_backbone", "false"],
        ["--module.lr", "0.5"],  # the optimizer's own would win, and config.yaml say otherwise
        ["--module.schedule", "cosine"],
    ):
        with pytest.raises(HarError) as error:
            call("--resume", str(folder), "--epochs", "2", *refused, out="")
        assert contents(folder) == before, refused
        if refused[0] == "--module.dropout":
            assert re.match("CNNRNNModule cannot be built as told: .*dropout.* 7", str(error.value))
        if refused[0] == "--module.freeze_backbone":
            assert str(error.value).startswith(f"the optimizer in {folder / 'last.ckpt'} does not fit: ")
        elif refused[0] in ("--module.optimizer", "--module.lr", "--module.schedule"):
            name = refused[0].removeprefix("--module.")
            assert re.match(f"{name} is .*{refused[1]}.*, but a resumed run goes on with", str(error.value))
            assert "config.yaml" in str(error.value)
    # Nor does one that is stopped before it begins, and it does not say that `--resume` alone goes on with it.
    stopped = {"max_epochs": 1, "callbacks": [InterruptSetup()]}
    with pytest.raises(KeyboardInterrupt, match="nothing has changed, so give the same command again"):
        call("--resume", str(folder), "--epochs", "2", out="", trainer=stopped)
    assert contents(folder) == before
    # Said or not, a default is the same.
    call("--resume", str(folder), "--epochs", "2", "--module.lr", "0.001", "--module.milestones", "[]", out="")
    assert len(rows(folder / "metrics.csv")) == 2
