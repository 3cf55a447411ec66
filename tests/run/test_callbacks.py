"""What the callbacks of a run tell, by a clock that the test sets."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_har._lightning import pl
from lightning_har.callbacks import DataClock


class Clock:
    """Stands still but where it is told to pass."""

    now = 1000.0

    def perf_counter(self) -> float:
        return self.now


class Slow(Dataset[Tensor]):
    """Items that take a while to read."""

    def __init__(self, clock: Clock, seconds: float, count: int) -> None:
        self.clock, self.seconds, self.count = clock, seconds, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Tensor:
        self.clock.now += self.seconds
        return torch.ones(1)


class Steps(pl.LightningModule):  # type: ignore[misc]
    """A step of training takes a second, one of validation a hundred."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.clock.now += 1
        return (self.weight * batch).sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.clock.now += 100

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Read(pl.Callback):  # type: ignore[misc]
    """Reads the data clock at the end of each epoch."""

    def __init__(self, clock: DataClock) -> None:
        self.clock = clock
        self.read: list[tuple[float, float, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.read.append((self.clock.waited_s, self.clock.trained_s, self.clock.share))


def test_the_share_of_waiting_is_what_was_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, data_clock = Clock(), DataClock()
    monkeypatch.setattr("lightning_har.callbacks.time", SimpleNamespace(perf_counter=clock.perf_counter))
    read = Read(data_clock)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=2,
        val_check_interval=2,
        callbacks=[data_clock, read],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Steps(clock), DataLoader(Slow(clock, 3, 4)), DataLoader(Slow(clock, 50, 2)))
    # Of each epoch: four batches that took 3 s each to come and 1 s to train on. Validation, in the middle of an epoch
    # and at its end, is no part of it.
    assert read.read == [(12, 16, 0.75)] * 2


def test_before_any_training_nothing_was_waited() -> None:
    assert DataClock().share == 0
