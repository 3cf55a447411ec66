"""Memory of testing TSN on 25 segments × 10 crops: in one batch, streamed view by view, and with one crop alone.

What counts is the peak resident memory above what is there before testing starts: the interpreter, the loaded model
and the decoded uint8 frames. Each way is measured in a process of its own, from its first forward pass on. The times
are taken in a further process, in which the ways alternate; what counts is the ratio within a turn (its median over
turns), since a machine that others use slows both.

The crops are cut from the decoded frames when their turn comes; in one batch, all of them before the pass.

    python benchmarks/view_memory.py [--segments 25] [--size 224] [--turns 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from lightning_har import TSNModule
from lightning_har.bench.memory import PeakMemory
from lightning_har.bench.report import commit, hardware
from lightning_har.data.decode import read_frames
from lightning_har.data.fake import write_fake_video
from lightning_har.nets import tsn

RESULTS = Path(__file__).parent / "results" / "view_memory.csv"
BACKBONES = ("resnet50", "bn_inception")
WAYS = ("one_shot", "streamed", "one_crop")
REPORTED = """Study A, TSN with BN-Inception on UCF101: 17 GB at 84.5 % with 25 segments × 10 crops, 1.77 GB at 84.48 %
with 25 segments × 1 crop; its table 3 does not say what of the process or device was counted."""


def crops(frames: Tensor, size: int) -> Iterator[Tensor]:
    """The ten crops, corners and centre and their mirror images, as views of uint8 frames (T, H, W, C).

    Yields:
        (1, 1, C, T, size, size).
    """
    dy, dx = frames.shape[1] - size, frames.shape[2] - size
    for top, left in ((0, 0), (0, dx), (dy, 0), (dy, dx), (dy // 2, dx // 2)):
        crop = frames[:, top : top + size, left : left + size].permute(3, 0, 1, 2)[None, None]
        yield crop
        yield crop.flip(-1)


def test(module: TSNModule, frames: Tensor, size: int, way: str) -> Tensor:
    """Logits of a video by its ten crops, (1, K); by the centre crop alone where the way is "one_crop"."""
    if way == "one_crop":
        logits = module.forward_views(list(crops(frames, size))[8])
    elif way == "streamed":
        logits = module.forward_views(crops(frames, size))
    else:
        # TSN lets frames pass its backbone in parts, where it may; one batch is what that is compared with.
        with mock.patch.object(tsn, "FRAMES_AT_ONCE", 10 * len(frames)):
            logits = module.forward_views(torch.cat(list(crops(frames, size)), 1), view_batch_size=10)
    assert isinstance(logits, Tensor)
    return logits


def prepare(backbone: str, args: argparse.Namespace, video: Path) -> tuple[TSNModule, Tensor]:
    """The model, and the frames decoded from the video at a short side of size / 0.875."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    module = TSNModule(101, backbone=backbone, num_segments=3, pretrained=False).eval()
    side = round(args.size / 0.875)
    indices = np.linspace(0, args.segments * 4 - 1, args.segments).round().astype(int)
    return module, torch.from_numpy(read_frames(video, indices.tolist(), size=(side, side * 4 // 3)))


@torch.inference_mode()
def measure_memory(backbone: str, way: str, args: argparse.Namespace, video: Path) -> dict[str, object]:
    """Peak memory of one way, above what is held before it starts."""
    module, frames = prepare(backbone, args, video)
    before = resident_bytes()
    with PeakMemory() as peak:
        logits = test(module, frames, args.size, way)
    assert peak.peak_bytes is not None, "this system does not tell the memory of a process"
    return {"bytes": peak.peak_bytes - before, "before": before, "logits": logits.flatten().tolist()}


@torch.inference_mode()
def measure_time(backbone: str, args: argparse.Namespace, video: Path) -> dict[str, object]:
    """Seconds of each way, turn by turn."""
    module, frames = prepare(backbone, args, video)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(args.turns + 1):
        for way in WAYS if turn % 2 else WAYS[::-1]:
            start = time.perf_counter()
            test(module, frames, args.size, way)
            if turn:  # the first warms up
                times[way].append(time.perf_counter() - start)
    return {"times": times}


def resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def in_a_process(what: str, backbone: str, args: argparse.Namespace, video: Path) -> dict[str, object]:
    command = [sys.executable, __file__, "--only", what, "--backbones", backbone, "--video", str(video)]
    for name in ("segments", "size", "turns", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(backbone: str, args: argparse.Namespace, video: Path) -> list[dict[str, object]]:
    """A row for each way."""
    memory = {way: in_a_process(way, backbone, args, video) for way in WAYS}
    times = in_a_process("time", backbone, args, video)["times"]
    logits = {way: torch.tensor(memory[way]["logits"]) for way in WAYS}
    ratios = {w: statistics.median(b / a for a, b in zip(times["one_shot"], times[w], strict=True)) for w in WAYS}
    return [
        {
            "backbone": backbone,
            "way": way,
            "segments": args.segments,
            "crops": 1 if way == "one_crop" else 10,
            "size": args.size,
            "peak_mib_above_model_and_frames": round(memory[way]["bytes"] / 2**20, 1),
            "memory_over_one_shot": round(memory[way]["bytes"] / memory["one_shot"]["bytes"], 4),
            "mib_before": round(memory[way]["before"] / 2**20, 1),
            "median_s": round(statistics.median(times[way]), 3),
            "min_s": round(min(times[way]), 3),
            "time_over_one_shot": round(ratios[way], 4),
            # One crop is another test, whose logits are meant to differ.
            "max_abs_logit_difference": ""
            if way == "one_crop"
            else f"{(logits[way] - logits['one_shot']).abs().max().item():.1e}",
            "max_abs_logit": round(logits[way].abs().max().item(), 4),
            "turns": args.turns,
            "load_1m": round(os.getloadavg()[0], 2),
            "torch": torch.__version__,
            "commit": commit(),
            **hardware(),
            "threads": args.threads,
        }
        for way in WAYS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--segments", type=int, default=25)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=(*WAYS, "time"), help=argparse.SUPPRESS)
    parser.add_argument("--video", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only == "time":
        print(json.dumps(measure_time(args.backbones[0], args, args.video)))
        return
    if args.only:
        print(json.dumps(measure_memory(args.backbones[0], args.only, args, args.video)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        write_fake_video(video, seed=0, num_frames=args.segments * 4, size=(256, 340))
        for backbone in args.backbones:
            rows += compare(backbone, args, video)
            for row in rows[-len(WAYS) :]:
                print(
                    f"{backbone:13s} {row['way']:9s} {row['peak_mib_above_model_and_frames']:8.1f} MiB "
                    f"({row['memory_over_one_shot']:.3f})  {row['median_s']:7.3f} s ({row['time_over_one_shot']:.3f})"
                    f"  logits differ by {row['max_abs_logit_difference'] or '–'}"
                )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
