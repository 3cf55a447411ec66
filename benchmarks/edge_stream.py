"""int8 MobileNetV2-GRU on a live video, on one thread: frames per second, and from a frame's arrival to its label.

Two ways to cut the network: "stream", a step from a frame and a state to the logits, and "frames", the features of each
frame and, over the last 25 of them, the head. A bundle of each recognises a clip as fast as it can (decoded, resized,
recognised: frames_per_s; network_ms is the network's part of a frame) and then at the clip's own pace, as a camera's,
every frame of it: from the time at which a frame arrives to its label, and how many frames were dropped for newer ones.
The head is random: only the costs mean something.

    python benchmarks/edge_stream.py --videos clips/ [--tflite mobilenet.tflite]
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_har.bench.report import commit, hardware
from lightning_har.data.decode import open_video
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.edge.bundle import bundle
from lightning_har.modules.cnn_rnn import CNNRNNModule

FRAMES = 25
CUTS = ("stream", "frames")
REPEAT = 5
"""Clips recognised as fast as possible, for each cut."""


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """The bundle's runner, on one thread; what it says of its time."""
    command = [sys.executable, str(folder / "run.py"), *arguments, "--threads", "1", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def long_enough(videos: Sequence[Path]) -> Path:
    """The first that fills the window of "frames", which gives no label before it is full."""
    for path in videos:
        video = open_video(path)
        count = video.num_frames
        video.close()
        if count >= FRAMES:
            return path
    raise SystemExit(f"none of the {len(videos)} validation clips has {FRAMES} frames; give longer --videos")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="a folder of clips per class, or a CSV")
    parser.add_argument("--tflite", type=Path, help="weights of the backbone (default: random)")
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results" / "edge_stream.csv")
    args = parser.parse_args()
    torch.manual_seed(0)
    data = VideoFolderDataModule(args.videos, batch_size=1, num_workers=0)
    pretrained = str(args.tflite) if args.tflite else False
    module = CNNRNNModule(data.num_classes, "mobilenetv2_100", "gru", 256, pretrained=pretrained, num_frames=FRAMES)
    module.class_names = data.class_names
    module.eval()
    video = long_enough([data.manifests["val"].root / record.path for record in data.manifests["val"]])
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for cut in CUTS:
            folder = Path(place) / cut
            bundle(module, folder, int8=True, calibration=data, kind=cut, name=cut)
            fast = run(folder, str(video), "--repeat", str(REPEAT))
            live = run(folder, str(video), "--live", "--span", "0.01")
            if not live["frame_to_label"]:
                raise SystemExit(
                    f"no label of {video}, {live['dropped']} frames of which were dropped; take longer --videos"
                )
            rows.append(
                {
                    "cut": cut,
                    "frames_per_s": fast["fps"],
                    "network_p50_ms": round(fast["network"]["p50_ms"] / fast["frames_per_clip"], 3),
                    "live_frames_per_s": live["fps"],
                    "arrival_to_label_p50_ms": live["frame_to_label"]["p50_ms"],
                    "arrival_to_label_p95_ms": live["frame_to_label"]["p95_ms"],
                    "live_frames": live["frames"],
                    "dropped": live["dropped"],
                    "threads": 1,
                    "cpu": hardware()["cpu"],
                    "commit": commit(),
                }
            )
            print("  ".join(f"{k} {v}" for k, v in rows[-1].items()))
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {args.csv}")


if __name__ == "__main__":
    main()
