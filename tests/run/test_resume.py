"""Runs that were stopped and go on, runs that are done, and what cannot be resumed."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import Interrupt, InterruptTest, contents, rows

from lightning_har._lightning import Callback
from lightning_har.callbacks import EarlyStopping
from lightning_har.errors import ConfigError, HarError


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
    ):
        with pytest.raises((HarError, ValueError, RuntimeError)):
            call("--resume", str(folder), "--epochs", "2", *refused, out="")
        assert contents(folder) == before, refused
    # Nor does one that is stopped before it begins, and it does not say that `--resume` alone goes on with it.
    stopped = {"max_epochs": 1, "callbacks": [InterruptSetup()]}
    with pytest.raises(KeyboardInterrupt, match="nothing has changed, so give the same command again"):
        call("--resume", str(folder), "--epochs", "2", out="", trainer=stopped)
    assert contents(folder) == before


def test_a_new_run_that_is_refused_leaves_no_folder(call: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in ("new/run", "mine/run"):
        with pytest.raises(ConfigError, match="num_workers is -1"):
            call("--data.num_workers", "-1", out=out)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    assert not any((tmp_path / "mine").iterdir())
    with pytest.raises(ConfigError, match="num_workers is -1"):
        call("--data.num_workers", "-1", out="mine")
    assert (tmp_path / "mine").is_dir()


class Fail(Callback):  # type: ignore[misc]
    """Runs out of memory in the first batch of all."""

    def on_validation_batch_start(self, *args: Any) -> None:
        raise RuntimeError("out of memory")


def test_what_fails_in_its_first_batch_says_how_it_was_called(call: Any, tmp_path: Path) -> None:
    """The benchmark, which then looks for a smaller batch, reads there how large it was."""
    with pytest.raises(RuntimeError, match="out of memory"):
        call(trainer={"max_epochs": 1, "num_sanity_val_steps": 1, "callbacks": [Fail()]})
    assert set(contents(tmp_path / "run")) == {"config.yaml"}


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
