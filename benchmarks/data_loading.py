"""25 uniform frames at 224 from H.264 clips: our loader, bare PyAV and pytorchvideo, one process, one run.

``python benchmarks/data_loading.py [--clips DIR] [--count N] [--rounds N]``: DIR holds mp4 files (default: those of
../shared/data/scfd where present, else 2-second clips that are rendered here). Each round reads every clip with
every reader, in turn clip by clip, so that other load on the machine falls on all alike; a reader's time for a clip
is its best over the rounds. "loader" is an item of our dataset: opened, sampled, decoded, resized to 224×224, turned
into a uint8 tensor (C, T, H, W). "loader, short side" resizes the short side to 256 and cuts the centre: more pixels,
so it has no target. pytorchvideo gives full-size frames, of which 25 are taken and resized by torchvision.
Targets: loader at least 0.9 of bare PyAV, at least 5 times pytorchvideo.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from reference.bare_pyav import read_uniform

from lightning_har.data.dataset import ActionDataset
from lightning_har.data.decode import PyAVVideo
from lightning_har.data.manifest import Manifest, Record
from lightning_har.spec import InputSpec, Sampling

FRAMES, SIZE = 25, 224
HERE = Path(__file__).resolve().parent


def render(folder: Path, count: int) -> None:
    """Clips of 2 seconds, 640×360, with texture that moves."""
    for c in range(count):
        rng = np.random.default_rng(c)
        scene = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        with av.open(str(folder / f"{c}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for i in range(50):
                frame = av.VideoFrame.from_ndarray(scene[i : i + 360, 2 * i : 2 * i + 640], format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def dataset(files: list[Path], crop: str) -> ActionDataset:
    """Our loader over the files, with frame counts in the manifest as after the first epoch."""
    records = []
    for i, path in enumerate(files):
        with PyAVVideo(path) as video:
            records.append(Record(str(i), str(path), num_frames=video.num_frames))
    spec = InputSpec(FRAMES, (SIZE, SIZE))
    opener = partial(_open, Path())
    return ActionDataset(
        Manifest(tuple(records), None, Path()), {"rgb": spec}, {"rgb": Sampling(crop=crop)}, {"rgb": opener}
    )


def _open(root: Path, record: Record, threads: int) -> PyAVVideo:
    return PyAVVideo(root / record.path, threads)


def read_pytorchvideo(path: Path) -> torch.Tensor:
    """As pytorchvideo's tutorials do: the whole clip, then 25 of its frames, resized."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    video = EncodedVideo.from_path(str(path), decode_audio=False)
    frames = video.get_clip(0, video.duration)["video"]
    video.close()
    indices = torch.linspace(0, frames.shape[1] - 1, FRAMES).round().long()
    chosen = frames[:, indices].transpose(0, 1)
    return torch.nn.functional.interpolate(chosen, size=(SIZE, SIZE), mode="bilinear").transpose(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="folder of mp4 files")
    parser.add_argument("--count", type=int, default=60, help="clips to read")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shared = HERE.parent.parent / "shared/data/scfd"
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.clips or (shared if shared.is_dir() else Path(scratch))
        if folder == Path(scratch):
            render(folder, arguments.count)
        everything = sorted(folder.rglob("*.mp4"))
        files = everything[:: max(len(everything) // arguments.count, 1)][: arguments.count]
        if not files:
            raise SystemExit(f"{folder} has no mp4 files")
        source = "generated" if folder == Path(scratch) else folder.name
        rows = measure(files, arguments.rounds)
    report(rows, source, len(files), arguments)


def measure(files: list[Path], rounds: int) -> dict[str, float]:
    """Clips per second of each reader."""
    threads = os.cpu_count() or 1
    full, center = dataset(files, "full"), dataset(files, "center")
    readers: dict[str, Callable[[int], Any]] = {
        "bare PyAV": lambda i: read_uniform(files[i], FRAMES, SIZE, threads),
        "loader": lambda i: full[i]["video"],
        "loader, short side 256 and centre crop": lambda i: center[i]["video"],
        "pytorchvideo EncodedVideo": lambda i: read_pytorchvideo(files[i]),
    }
    for i in range(min(3, len(files))):
        bare, ours = readers["bare PyAV"](i), readers["loader"](i)
        assert (bare == ours.permute(1, 2, 3, 0).numpy()).all(), f"{files[i]}: the readers differ"
    best = {name: np.full(len(files), np.inf) for name in readers}
    for turn in range(rounds):
        for i in range(len(files)):
            names = list(readers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.perf_counter()
                readers[name](i)
                best[name][i] = min(best[name][i], time.perf_counter() - start)
    return {name: len(files) / times.sum() for name, times in best.items()}


def report(rates: dict[str, float], source: str, count: int, arguments: argparse.Namespace) -> None:
    """Print the table and write it beside this script."""
    hardware = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{count} clips ({source}), {FRAMES} frames at {SIZE}, {hardware}, PyAV {av.__version__}")
    rows = []
    for name, rate in rates.items():
        row = [name, f"{rate:.2f}", *(f"{rate / rates[b]:.3f}" for b in ("bare PyAV", "pytorchvideo EncodedVideo"))]
        rows.append([*row, source, count, arguments.rounds, hardware, av.__version__])
        print(f"{name:42s} {row[1]:>8} clips/s {row[2]:>7} of bare PyAV {row[3]:>8} × pytorchvideo")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with open(results / "data_loading.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["reader", "clips_per_s", "of_bare_pyav", "times_pytorchvideo", "clips", "count", "rounds",
             "hardware", "pyav"]
        )  # fmt: skip
        writer.writerows(rows)


if __name__ == "__main__":
    main()
