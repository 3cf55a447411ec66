"""The share of training that is spent waiting for the loader, for TSN and I3D, from video files.

``python benchmarks/data_wait.py [--clips DIR] [--count N] [--batch-size N]``: trains TSN-ResNet50 (3 segments at 224)
and I3D Inception-v1 (16 frames at 224), from random weights, on the same clips (default: those of
../shared/data/scfd where present, else rendered ones) for one epoch after a first that does not count. The share is
that which a run prints and stores beside its time per epoch: from the end of a step to the arrival of the next batch,
over the time of training. The loader's own time for a batch stands beside it: what each step would wait without
worker processes. There is no target: on a fast accelerator the same loader is waited for more.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from data_loading import chosen_files
from pytorch_lightning import Trainer

from lightning_har.bench.report import hardware
from lightning_har.callbacks import DataClock
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.modules.i3d import I3DModule
from lightning_har.modules.tsn import TSNModule

HERE = Path(__file__).resolve().parent
MODULES = {
    "TSN-ResNet50, 3 segments": lambda: TSNModule(2, backbone="resnet50", num_segments=3, pretrained=False),
    "I3D Inception-v1, 16 frames": lambda: I3DModule(2, num_frames=16, pretrained=False),
}


def measure(name: str, root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One network's row."""
    module = MODULES[name]()
    data = VideoFolderDataModule(
        root, spec=module.spec, train_sampling=module.train_sampling, batch_size=args.batch_size,
        num_workers=args.num_workers, val_fraction=0.1, test_fraction=0,
    )  # fmt: skip
    clock = DataClock()
    Trainer(
        max_epochs=2,
        accelerator=args.accelerator,
        precision=args.precision,
        callbacks=[clock],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)
    steps = len(data.train_dataloader())
    data.num_workers = 0
    start = time.perf_counter()
    for _ in data.train_dataloader():
        pass
    loading = time.perf_counter() - start
    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() and args.accelerator != "cpu" else ""
    return {
        "network": name,
        "wait_share": round(clock.share, 4),
        "step_s": round(clock.trained_s / steps, 3),
        "waited_s_per_step": round(clock.waited_s / steps, 4),
        "loading_s_per_step_in_one_process": round(loading / steps, 3),
        "batch_size": args.batch_size,
        "steps": steps,
        "workers": args.num_workers,
        "precision": args.precision,
        "hardware": f"{device}{hardware()['cpu']}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="folder of mp4 files")
    parser.add_argument(
        "--count", type=int, default=36, help="clips, a tenth of them for validation, which is left out"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "data_wait.csv")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        _, files = chosen_files(args.clips, args.count, Path(scratch))
        root = Path(scratch) / "by_class"
        for i, path in enumerate(files):  # labels do not matter
            link = root / "ab"[i % 2] / f"{i}.mp4"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        for name in MODULES:
            rows.append(measure(name, root, args))
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    with open(args.out, "w", newline="", encoding="utf-8") as file:
        writer_ = csv.DictWriter(file, rows[0])
        writer_.writeheader()
        writer_.writerows(rows)


if __name__ == "__main__":
    main()
