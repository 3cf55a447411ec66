"""What the Trainer, the module and the runner's callbacks add to a training step.

    python benchmarks/overhead.py

The same network, weights, optimizer and batches, once in a bare loop (``reference/bare_loop.py``) and once as a module
in a Trainer with all callbacks that a recipe has. Rounds alternate, so that a machine that slows down slows both; the
ratio is of the medians over all rounds. Target: at most 1.05.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reference.bare_loop import train

from lightning_har._lightning import Callback, Trainer, pl, quiet_lightning
from lightning_har.bench.report import commit, hardware, versions
from lightning_har.callbacks import CountUnread, DataClock, EpochLog, SaveOnInterrupt, StopOnNaN
from lightning_har.modules.cnn_rnn import CNNRNNModule

RESULTS = Path(__file__).resolve().parent / "results" / "overhead.csv"


class Ready(Dataset[Any]):
    """Batches that are in memory already."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Any]:
        video, label = self.batches[step % len(self.batches)]
        names = [str(i) for i in range(len(label))]
        return {"video": video, "label": label, "id": names, "path": names, "failures": []}


class StepTimer(Callback):
    """Seconds from one step's end to the next one's: all that the Trainer does in between."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._mark: float | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Note the time."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds.append(now - self._mark)
        self._mark = now


def with_trainer(module: Any, batches: list[tuple[Tensor, Tensor]], steps: int, accelerator: str) -> list[float]:
    """Seconds of each step under the Trainer, but the first, whose start is not seen."""
    timer, clock, unread = StepTimer(), DataClock(), CountUnread()
    with tempfile.TemporaryDirectory() as folder, quiet_lightning():
        last = pl.callbacks.ModelCheckpoint(dirpath=folder, save_on_train_epoch_end=True)
        log = EpochLog(Path(folder) / "metrics.csv", clock, unread)
        trainer = Trainer(
            max_epochs=1,
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[last, clock, unread, log, StopOnNaN(), SaveOnInterrupt(Path(folder) / "last.ckpt"), timer],
        )
        trainer.fit(module, DataLoader(Ready(batches, steps), batch_size=None))
    return timer.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv2_035")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--no-write", action="store_true", help=f"do not write {RESULTS.name}")
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(args.accelerator)
    shape = (args.batch_size, 3, args.frames, args.size, args.size)
    batches = [
        (torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, 12, (args.batch_size,))) for _ in range(4)
    ]
    module = CNNRNNModule(
        12,
        backbone=args.backbone,
        temporal="gru",
        hidden=128,
        num_frames=args.frames,
        input_size=args.size,
        pretrained=False,
        freeze_backbone=False,
        lr=1e-4,
    )
    mean, std = torch.tensor(module.spec.mean), torch.tensor(module.spec.std)
    bare: list[float] = []
    ours: list[float] = []
    for _ in range(args.rounds):
        net = copy.deepcopy(module.net).to(device)
        # One step warms up, as the Trainer's first does.
        steps = train(net, batches, mean=mean, std=std, lr=1e-4, steps=args.steps + 1, device=device)
        bare += steps[1:]
        ours += with_trainer(copy.deepcopy(module), batches, args.steps + 1, args.accelerator)
    ratio = statistics.median(ours) / statistics.median(bare)
    row = {
        "backbone": args.backbone,
        "clip": "x".join(map(str, shape)),
        "steps": len(bare),
        "bare_ms": f"{1000 * statistics.median(bare):.3f}",
        "trainer_ms": f"{1000 * statistics.median(ours):.3f}",
        "ratio": f"{ratio:.4f}",
        "target": "1.05",
        **{name: str(value) for name, value in hardware(device).items()},
        "torch": versions()["torch"],
        "lightning": versions().get("pytorch-lightning", ""),
        "commit": commit() or "",
    }
    for name, value in row.items():
        print(f"{name:12} {value}")
    if not args.no_write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
