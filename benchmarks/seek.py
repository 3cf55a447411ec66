"""Sparse frames of a long video against decoding all of it.

``python benchmarks/seek.py [--minutes 10] [--rounds 3]``: renders one 720p H.264 file with a keyframe every 2 s (kept
in ``--file`` if given), reads 25 frames spread uniformly over it, and decodes it from beginning to end with bare PyAV
(no conversion, so that only decoding is compared). Both on as many threads as the machine has cores.
Target: at most 1/5 of the time.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lightning_har.bench.report import hardware
from lightning_har.data.decode import read_frames

HERE = Path(__file__).resolve().parent
FPS = 25


def render(path: Path, minutes: float) -> None:
    """720p, moving texture, keyframes every 2 s, B-frames as x264 likes them."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (120, 200, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    options = {"preset": "veryfast", "crf": "28", "g": str(2 * FPS), "keyint_min": str(2 * FPS), "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for i in range(round(minutes * 60 * FPS)):
            x, y = abs(i * 2 % 640 - 320), abs(i % 480 - 240)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene[y : y + 720, x : x + 1280]), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decode_all(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", os.cpu_count() or 1
        return sum(1 for _ in container.decode(stream))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path, help="where the video is kept; rendered if it is not there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder, "long.mp4")
        if not path.exists():
            render(path, args.minutes)
        total = decode_all(path)
        indices = np.linspace(0, total - 1, 25).round().astype(int)
        sparse, whole = [], []
        for _ in range(args.rounds):  # in turn, so that other load falls on both alike
            start = time.perf_counter()
            read_frames(path, indices, size=(224, 224))
            sparse.append(time.perf_counter() - start)
            start = time.perf_counter()
            decode_all(path)
            whole.append(time.perf_counter() - start)
    row = {
        "frames": total,
        "sparse_25_s": round(min(sparse), 3),
        "decode_all_s": round(min(whole), 3),
        "ratio": round(min(sparse) / min(whole), 4),
        "target": 0.2,
        "rounds": args.rounds,
        "cores": os.cpu_count(),
        "cpu": hardware()["cpu"],
    }
    for key, value in row.items():
        print(f"{key:14} {value}")
    if args.minutes == 10 or args.file:
        (HERE / "results").mkdir(exist_ok=True)
        with open(HERE / "results" / "seek.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
