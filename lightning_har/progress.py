"""The bar that a Trainer shows on a terminal: of a whole run, not of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from lightning_har._lightning import Callback
from lightning_har.callbacks import DataClock
from lightning_har.data.parallel import bar
from lightning_har.types import Batch


class RunProgress(Callback):  # type: ignore[misc]
    """One bar on stderr for the whole run: epoch, loss, share of time spent waiting for data, time left.

    Args:
        clock: Tells the share of waiting; needed in training only.
    """

    def __init__(self, clock: DataClock | None = None) -> None:
        self._clock = clock
        self._bar: Any = None
        self._task: Any = None
        self._last = 0.0

    def _start(self, trainer: Any, description: str, total: float | None) -> None:
        if not trainer.is_global_zero:
            return
        from rich.progress import TextColumn

        self._stop()
        self._bar = bar(TextColumn("{task.fields[note]}"))
        self._bar.start()
        self._task = self._bar.add_task(description, total=total, note="")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the bar, at the step that a resumed run has reached."""
        batches, epochs = trainer.num_training_batches, trainer.max_epochs
        total = batches * epochs if epochs and epochs > 0 and math.isfinite(batches) else None
        self._start(trainer, "training", total)
        if self._bar is not None and math.isfinite(batches):
            self._bar.advance(self._task, trainer.fit_loop.total_batch_idx + 1)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Name the epoch."""
        if self._bar is not None:
            of = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
            self._bar.update(self._task, description=f"epoch {trainer.current_epoch + 1}{of}")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Move on; the loss is read at most four times a second, since reading it waits for the device."""
        if self._bar is None:
            return
        self._bar.advance(self._task)
        now = time.perf_counter()
        if now - self._last > 0.25 and isinstance(outputs, Mapping) and "loss" in outputs:
            self._last = now
            waiting = f", waiting for data {self._clock.share:.0%}" if self._clock is not None else ""
            note = f"loss {float(outputs['loss']):.3f}{waiting}"
            top1 = trainer.callback_metrics.get(f"val_{pl_module.score_prefix}top1")
            self._bar.update(self._task, note=note if top1 is None else f"{note}, val_top1 {float(top1):.3f}")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the bar away."""
        self._stop()

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Show a bar for the test."""
        total = sum(trainer.num_test_batches)
        self._start(trainer, "testing", total if math.isfinite(total) else None)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Move on."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the bar away."""
        self._stop()

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Show a bar for what is predicted."""
        total = sum(trainer.num_predict_batches)
        self._start(trainer, "predicting", total if math.isfinite(total) else None)

    on_predict_batch_end = on_test_batch_end

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the bar away."""
        self._stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._stop()
