"""Study C's appendix D again: uint8 against float32, plain against compressed; on disk, in memory, in loading time.

``python benchmarks/storage.py [--clips 16]``: clips of 20 frames of 256×256 (the study's), decoded once, stored as .npy
and as compressed .npz in both types, and, for comparison, left as the H.264 files they came from. Times are of
reading every clip once from a warm page cache (best of the rounds); "float batch" adds the conversion to a normalised
float32 tensor, which a uint8 clip needs too. The copy of a batch of 16 clips goes to CUDA, from pinned memory, where
that is there, else to other memory of the CPU.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_har.bench.report import hardware
from lightning_har.data.decode import read_frames
from lightning_har.data.fake import fake_frames, write_video
from lightning_har.nets.preprocess import normalize
from lightning_har.spec import InputSpec

FRAMES, SIZE = 20, 256
HERE = Path(__file__).resolve().parent


def read_all(read: Callable[[Path], Any], paths: list[Path]) -> None:
    for path in paths:
        read(path)


def best(function: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=Path, help="folder of real mp4 files; default: rendered ones")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = sorted(args.videos.rglob("*.mp4"))[: args.clips] if args.videos else []
        for i in range(args.clips - len(files)):
            files.append(root / f"{i}.mp4")
            write_video(files[-1], fake_frames(i, 50, (360, 640)))
        spec = InputSpec(FRAMES, (SIZE, SIZE))
        indices = np.linspace(0, 49, FRAMES).round().astype(int)
        clips = [read_frames(f, indices, size=(SIZE, SIZE)) for f in files]
        writers: dict[str, Callable[[Path, np.ndarray], None]] = {
            "npy": lambda path, x: np.save(path, x),
            "npz": lambda path, x: np.savez_compressed(path, x=x),
        }
        readers: dict[str, Callable[[Path], np.ndarray]] = {
            "npy": lambda path: np.load(path),
            "npz": lambda path: np.load(path)["x"],
        }

        def float_batch(x: np.ndarray) -> torch.Tensor:
            clip = torch.from_numpy(x).permute(3, 0, 1, 2)[None]
            return normalize(clip, spec) if x.dtype == np.uint8 else clip.contiguous()

        for dtype in ("uint8", "float32"):
            for kind in ("npy", "npz"):
                paths = [root / f"{i}-{dtype}.{kind}" for i in range(len(clips))]
                for path, clip in zip(paths, clips, strict=True):
                    stored = clip if dtype == "uint8" else normalize(
                        torch.from_numpy(clip).permute(3, 0, 1, 2)[None], spec
                    )[0].permute(1, 2, 3, 0).contiguous().numpy()  # fmt: skip
                    writers[kind](path, stored)
                read = readers[kind]
                rows.append(
                    {
                        "stored": f"{dtype} .{kind}",
                        "disk_mb_per_clip": sum(p.stat().st_size for p in paths) / len(paths) / 1e6,
                        "memory_mb_per_clip": read(paths[0]).nbytes / 1e6,
                        "load_ms": 1e3 * best(partial(read_all, read, paths), args.rounds) / len(paths),
                        "float_batch_ms": 1e3
                        * best(partial(read_all, lambda p, read=read: float_batch(read(p)), paths), args.rounds)
                        / len(paths),
                    }
                )

        def decode(path: Path) -> np.ndarray:
            return read_frames(path, indices, size=(SIZE, SIZE))

        rows.append(
            {
                "stored": "video",
                "disk_mb_per_clip": sum(f.stat().st_size for f in files) / len(files) / 1e6,
                "memory_mb_per_clip": clips[0].nbytes / 1e6,
                "load_ms": 1e3 * best(lambda: [decode(f) for f in files], args.rounds) / len(files),
                "float_batch_ms": 1e3 * best(lambda: [float_batch(decode(f)) for f in files], args.rounds) / len(files),
            }
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for row, dtype in ((rows[0], torch.uint8), (rows[2], torch.float32)):
            batch = torch.zeros((16, 3, FRAMES, SIZE, SIZE), dtype=dtype)
            if device.type == "cuda":
                batch = batch.pin_memory()

            def move(batch: torch.Tensor = batch) -> None:
                batch.to(device, copy=True)
                if device.type == "cuda":
                    torch.cuda.synchronize()

            move()
            row["to_device_ms_per_16"] = 1e3 * best(move, 10)
            row["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    machine = {"cores": os.cpu_count(), "cpu": hardware()["cpu"], "clips": args.clips}
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("  ".join(f"{c:>20}" for c in columns))
    for row in rows:
        cells = [row.get(c, "") for c in columns]
        print("  ".join(f"{c:>20.3f}" if isinstance(c, float) else f"{c:>20}" for c in cells))
    if args.clips >= 16:
        (HERE / "results").mkdir(exist_ok=True)
        with open(HERE / "results" / "storage.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, [*columns, *machine])
            writer.writeheader()
            writer.writerows(
                {**{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()}, **machine} for r in rows
            )


if __name__ == "__main__":
    main()
