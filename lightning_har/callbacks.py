"""What the recipe runner hangs on a Trainer: epoch log, a stop at NaN, a checkpoint at Ctrl-C, a test's outputs."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_har._files import whole_file
from lightning_har._lightning import Callback, pl
from lightning_har.bench.memory import PeakMemory
from lightning_har.errors import ConfigError, HarError
from lightning_har.types import Batch, Failure, Video

EarlyStopping = pl.callbacks.EarlyStopping
"""Lightning's own, of whichever of its two packages is in use."""
EarlyStoppingReason = pl.callbacks.early_stopping.EarlyStoppingReason
"""Why it has stopped, likewise."""


class DataClock(Callback):  # type: ignore[misc]
    """Times an epoch's training and the part of it that was spent waiting for the loader.

    Attributes:
        waited_s: Seconds of the epoch between the end of one step and the arrival of the next batch.
        trained_s: Seconds of the epoch in training, ``waited_s`` included, validation not.
    """

    def __init__(self) -> None:
        self.waited_s = self.trained_s = 0.0
        self._mark = 0.0

    @property
    def share(self) -> float:
        """``waited_s / trained_s``, in [0, 1]."""
        return self.waited_s / self.trained_s if self.trained_s else 0.0

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock here too: an epoch that is resumed in its middle has no start."""
        self._lap()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the epoch's clock."""
        self.waited_s = self.trained_s = 0.0
        self._lap()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """The batch is here: what passed was waiting."""
        lap = self._lap()
        self.waited_s += lap
        self.trained_s += lap

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """The step is done: what passed was work."""
        self.trained_s += self._lap()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """What passed was validation: it counts as neither."""
        self._lap()


class CountUnread(Callback):  # type: ignore[misc]
    """Counts the videos that training and validation could not read (``on_error="skip"``), and names each once.

    Attributes:
        counts: Of the last epoch: ``train_skipped``, ``val_scored``, ``val_skipped``.
    """

    def __init__(self) -> None:
        self.counts = {"train_skipped": 0, "val_scored": 0, "val_skipped": 0}
        self._failures: dict[str, list[Failure]] = {"train": [], "val": []}
        self._scored: list[str] = []
        self._told: set[tuple[str, str]] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Note what the batch lacks."""
        self._failures["train"] += batch["failures"]

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Note what the batch has and what it lacks."""
        if not trainer.sanity_checking:
            self._failures["val"] += batch["failures"]
            self._scored += batch["id"]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Count over all processes; say what was not said before."""
        failures, scored = self._failures, self._scored
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (failures, scored))
            failures = {split: [f for one in gathered for f in one[0][split]] for split in failures}
            scored = [id_ for one in gathered for id_ in one[1]]
        self.counts = {
            "train_skipped": len({f.id for f in failures["train"]}),
            "val_scored": len(set(scored)),
            "val_skipped": len({f.id for f in failures["val"]}),
        }
        for split, found in failures.items():
            new = list({f.id: f for f in found if (split, f.id) not in self._told}.values())
            self._told |= {(split, f.id) for f in new}
            if new and trainer.is_global_zero:
                shown = "; ".join(f"{f.path}: {f.reason}" for f in new[:3]) + ("; ..." if len(new) > 3 else "")
                print(f"{len(new)} {split} videos could not be read and are left out: {shown}", flush=True)  # noqa: T201
        self._failures, self._scored = {"train": [], "val": []}, []


class EpochLog(pl.callbacks.Checkpoint):  # type: ignore[misc]
    """``metrics.csv``: a row an epoch, with every logged metric. Prints a line an epoch where asked.

    It derives from Lightning's Checkpoint because those run last, when the epoch's metrics are all logged.

    Args:
        path: The CSV; the rows of earlier epochs that it holds are kept, so that a resumed run has one
            history.
        clock: Tells the time and the share of waiting.
        unread: Tells how many videos the epoch's scores cover.
        echo: Also print each row.

    Attributes:
        rows: Of the epochs so far.
        memory: Tells the peak of training, if set before it begins.
    """

    def __init__(self, path: Path, clock: DataClock, unread: CountUnread, *, echo: bool = False) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        self.memory: PeakMemory | None = None
        self._clock = clock
        self._unread = unread
        self._echo = echo
        self._trained = False
        self._started = 0.0
        self._lr: float | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Read the rows that are there: a run that is resumed after its training starts no epoch."""
        if stage == "fit" and self.path.is_file():
            with self.path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Keep the rows of the epochs before this one."""
        # An epoch that is resumed in its middle has no start.
        self.on_train_epoch_start(trainer, pl_module)
        self.rows = [row for row in self.rows if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Note the time, and the learning rate before the schedule moves it on."""
        self._started = time.perf_counter()
        self._lr = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch's row."""
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train_", "val_"))
        }
        row = {
            "epoch": str(trainer.current_epoch),
            "step": str(trainer.global_step),
            "seconds": f"{time.perf_counter() - self._started:.2f}",
            "data_wait_share": f"{self._clock.share:.4f}",
        }
        if self._lr is not None:
            row["lr"] = f"{self._lr:.6g}"
        peak = self.memory.so_far() if self.memory is not None else None
        if peak is not None:
            row["peak_bytes"] = str(peak)
        row |= {name: f"{value:.6g}" for name, value in sorted(metrics.items())}
        row |= {name: str(count) for name, count in self._unread.counts.items()}
        self.rows.append(row)
        self._trained = True
        if trainer.is_global_zero:
            self._write()
            if self._echo:
                print(self._line(trainer, row), flush=True)  # noqa: T201

    def row_of(self, epoch: int) -> dict[str, float]:
        """Metrics of an epoch, by name; empty where it was not logged."""
        for row in self.rows:
            if int(row["epoch"]) == epoch:
                return {name: float(value) for name, value in row.items() if value}
        return {}

    def peak_bytes(self) -> int | None:
        """Of training, the parts of a run before it was resumed included; None where none was measured."""
        peaks = [int(row["peak_bytes"]) for row in self.rows if row.get("peak_bytes")]
        if peaks and self._trained and self.memory is not None and self.memory.peak_bytes is not None:
            peaks.append(self.memory.peak_bytes)  # the last checkpoint is written after the last row
        return max(peaks, default=None)

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with whole_file(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

    def _line(self, trainer: Any, row: Mapping[str, str]) -> str:
        shown = [n for n in row if n.endswith(("train_loss", "val_loss", "_top1"))]
        values = "  ".join(f"{name} {float(row[name]):.3f}" for name in shown)
        of = f"/{trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        waiting = f"waiting for data {self._clock.share:.0%}"
        return f"epoch {trainer.current_epoch + 1}{of}  {values}  {row['seconds']} s, {waiting}"


class ModelCheckpoint(pl.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """Lightning's own, but of a run that goes on in a moved folder it knows the best epoch so far.

    It bears Lightning's name, by which a checkpoint finds the state of its callbacks.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state back, its paths in the folder as it is called now: Lightning drops the scores of another.

        Raises:
            ConfigError: The best checkpoint is not in that folder.
        """

        def here(path: str) -> str:
            return str(Path(self.dirpath, Path(path).name)) if path else path

        paths = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})
        if self.monitor is not None and self.best_model_path and not Path(self.best_model_path).is_file():
            raise ConfigError(
                f"{self.best_model_path}, the best epoch so far, is not there; copy it from where the run was, or "
                "train anew"
            )


class StepSeed(Callback):  # type: ignore[misc]
    """Draws a step's dropout and mixing from (seed, epoch, step, rank) alone: a resumed run draws as it would have.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Seed PyTorch's generators anew."""
        # Not once an epoch: how often a loader draws from them depends on its workers, and on when they started.
        mixed = np.random.SeedSequence((self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))
        torch.manual_seed(int(mixed.generate_state(1)[0]))


class StopOnNaN(Callback):  # type: ignore[misc]
    """Ends the run before a step whose loss is NaN or infinite, naming the files of the batch."""

    def __init__(self) -> None:
        self._paths: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Remember the files."""
        self._paths = batch["path"]

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Look at the loss.

        Raises:
            HarError: It is not finite.
        """
        if not bool(torch.isfinite(loss).all()):
            raise HarError(
                f"the loss is {float(loss)} at step {trainer.global_step} (epoch {trainer.current_epoch}), "
                f"on the files: {', '.join(self._paths)}\ntry a smaller learning rate (--module.lr) or "
                "--trainer.gradient_clip_val 1.0; if it is always these files, look at them"
            )


class StayStopped(Callback):  # type: ignore[misc]
    """Trains no further epoch where early stopping had ended the run that is resumed: Lightning forgets that it had."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the callbacks, whose states are restored by now."""
        trainer.should_stop |= any(
            # By the epoch alone, a stop in the first, of number 0, looks like none.
            one.stopped_epoch > 0 or one.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
            for one in trainer.callbacks
            if isinstance(one, EarlyStopping)
        )


class SaveOnInterrupt(Callback):  # type: ignore[misc]
    """Writes a checkpoint when training is interrupted (Ctrl-C), for ``--resume``.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save, unless it was an error: then the weights may be the reason."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit" and trainer.global_step:
            trainer.save_checkpoint(self._path)


class CollectOutputs(Callback):  # type: ignore[misc]
    """Keeps what a test says of every video, gathered from all processes.

    Attributes:
        ids: Of the videos scored.
        paths: Likewise.
        logits: (N, K) on the CPU, by head; "action" is the head of a module with one.
        labels: (N,), by head.
        failures: Videos that could not be read.
        example: The first view of the first batch, (B, C, T, H, W) on the CPU; None if nothing was read.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.paths: list[str] = []
        self.logits: dict[str, Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        self.failures: list[Failure] = []
        self.example: Video | None = None
        self._parts: list[tuple[list[str], list[str], dict[str, Tensor], dict[str, Tensor]]] = []

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the batch's verdicts to the CPU."""
        self.failures += batch["failures"]
        if outputs is None:
            return
        if self.example is None:
            self.example = _first_view(batch["video"], 4 if pl_module.spec is None else 6)
        logits, labels = _by_head(outputs["logits"]), _by_head(outputs["label"])
        if "action" in logits and len(logits) == 1 and "action" not in labels:
            raise HarError(f"the module has one head; the data gives labels for {sorted(labels)}")
        self._parts.append((outputs["id"], outputs["path"], logits, {h: labels[h] for h in logits}))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Gather, and drop what a sampler repeated to even out the processes."""
        parts, failures = self._parts, self.failures
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (parts, failures))
            parts = [part for one in gathered for part in one[0]]
            failures = list(dict.fromkeys(f for one in gathered for f in one[1]))
        self.failures = failures
        if not parts:
            return
        ids = [id_ for part in parts for id_ in part[0]]
        first = list({id_: i for i, id_ in reversed(list(enumerate(ids)))}.values())[::-1]
        paths = [path for part in parts for path in part[1]]
        self.ids, self.paths = [ids[i] for i in first], [paths[i] for i in first]
        for head in parts[0][2]:
            self.logits[head] = torch.cat([part[2][head] for part in parts])[first]
            self.labels[head] = torch.cat([part[3][head] for part in parts])[first]


def _by_head(values: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    heads = values if isinstance(values, Mapping) else {"action": values}
    return {
        head: value.detach().float().cpu() if value.is_floating_point() else value.cpu()
        for head, value in heads.items()
    }


def _first_view(video: Video, rank_of_views: int) -> Video:
    if isinstance(video, Mapping):
        return {name: clip[:, 0].cpu() if clip.ndim == rank_of_views else clip.cpu() for name, clip in video.items()}
    return video[:, 0].cpu() if video.ndim == rank_of_views else video.cpu()
