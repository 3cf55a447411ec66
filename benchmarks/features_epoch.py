"""A training epoch from cached features against one through the frozen backbone.

``python benchmarks/features_epoch.py [--clips 64] [--epochs 3]``: clips of 2 s, 25 frames at 224, a frozen MobileNetV2
1.0 (random weights: time does not depend on them), a GRU of 256 units, batches of 8. The same head, the same clips; the
epoch through the backbone decodes them too, as training does. Extraction is timed apart. After a first epoch each,
the best of the rest counts.
Target: at least 50 times faster.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lightning_har import CNNRNNModule, FeatureDataModule, VideoFolderDataModule
from lightning_har.bench.report import hardware
from lightning_har.data.extract import extract_features
from lightning_har.data.fake import fake_frames, write_video
from lightning_har.nets.preprocess import normalize

HERE = Path(__file__).resolve().parent


def epoch(module: Any, loader: Any, optimizer: Any) -> float:
    """Seconds of one epoch of plain steps."""
    start = time.perf_counter()
    for batch in loader:
        optimizer.zero_grad()
        logits = module(batch["video"])
        torch.nn.functional.cross_entropy(logits, batch["label"]).backward()
        optimizer.step()
    return time.perf_counter() - start


def best(module: Any, data: Any, epochs: int) -> float:
    """Of some epochs after a first."""
    module.train()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 1e-3)
    data.setup("fit")
    loader = data.train_dataloader()
    return min([epoch(module, loader, optimizer) for _ in range(epochs + 1)][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i in range(args.clips):
            write_video(root / "clips" / "ab"[i % 2] / f"{i}.mp4", fake_frames(i, 50, (240, 320)))
        whole = CNNRNNModule(2, "mobilenetv2_100", "gru", pretrained=False)
        options = {"batch_size": 8, "num_workers": 0, "test_fraction": 0, "val_fraction": 0.1}
        clips = VideoFolderDataModule(root / "clips", spec=whole.spec, eval_sampling=whole.eval_sampling, **options)
        start = time.perf_counter()
        done = extract_features(
            lambda video: whole.net.frame_features(normalize(video, whole.spec)), clips, root / "features"
        )
        extraction = time.perf_counter() - start
        head = CNNRNNModule(2, None, "gru", feature_dim=1280)
        through = best(whole, clips, args.epochs)
        cached = best(head, FeatureDataModule(done.manifest, **options), args.epochs)
    row = {
        "clips": args.clips,
        "through_backbone_s": round(through, 3),
        "cached_s": round(cached, 4),
        "times_faster": round(through / cached, 1),
        "target": 50,
        "extraction_s": round(extraction, 3),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "cpu": hardware()["cpu"],
    }
    for key, value in row.items():
        print(f"{key:18} {value}")
    if args.clips >= 64:
        (HERE / "results").mkdir(exist_ok=True)
        with open(HERE / "results" / "features_epoch.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
