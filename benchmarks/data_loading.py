"""25 uniform frames at 224 from H.264 clips: our loader, bare PyAV and pytorchvideo, one process and several, one run.

``python benchmarks/data_loading.py [--clips DIR] [--count N] [--rounds N] [--workers N]``: DIR holds mp4 files
(default: those of ../shared/data/scfd where present, else 2-second clips that are rendered here). Each round reads
every clip with every reader, in turn clip by clip, so that other load on the machine falls on all alike; a reader's
time for a clip is its best over the rounds. Then every reader does so in the worker processes of PyTorch's loader,
with one decoding thread each; what counts there is a reader's best pass over all clips. "loader" is an item of our
dataset: opened, sampled, decoded, resized to 224×224, turned into a uint8 tensor (C, T, H, W). "loader, short side"
resizes the short side to 256 and cuts the centre: more pixels, so it has no target. pytorchvideo gives full-size
frames, of which 25 are taken and resized by torchvision. Targets: loader at least 0.9 of bare PyAV, at least 5 times
pytorchvideo.
"""

from __future__ import annotations

import argparse
import csv
import os
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
from torch.utils.data import DataLoader, Dataset

from lightning_har.bench.report import hardware
from lightning_har.data.dataset import ActionDataset
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.data.manifest import Manifest, Record
from lightning_har.spec import InputSpec, Sampling

FRAMES, SIZE = 25, 224
BARE, OURS, CROPPED, PYTORCHVIDEO = NAMES = [
    "bare PyAV",
    "loader",
    "loader, short side 256 and centre crop",
    "pytorchvideo EncodedVideo",
]
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


def chosen_files(clips: Path | None, count: int, scratch: Path) -> tuple[str, list[Path]]:
    """``count`` mp4 files spread over ``clips``, or over scfd where present, or rendered; and what they are called."""
    shared = HERE.parent.parent / "shared/data/scfd"
    folder = clips or (shared if shared.is_dir() else scratch)
    if folder == scratch:
        render(folder, count)
    everything = sorted(folder.rglob("*.mp4"))
    if not everything:
        raise SystemExit(f"{folder} has no mp4 files")
    return "generated" if folder == scratch else folder.name, everything[:: max(len(everything) // count, 1)][:count]


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
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of the second part; 1: none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        source, files = chosen_files(arguments.clips, arguments.count, Path(scratch))
        rates = {1: measure(files, arguments.rounds)}
        if arguments.workers > 1:
            rates[arguments.workers] = measure_workers(files, arguments.rounds, arguments.workers)
    report(rates, source, len(files), arguments)


class Reader(Dataset[Any]):
    """Clips by one of the ways that are compared, each with ``threads`` threads where it lets one choose."""

    def __init__(self, name: str, files: list[Path], threads: int) -> None:
        self.files = files
        ours = dataset(files, "center" if "centre" in name else "full")
        ways: dict[str, Callable[[int], Any]] = {
            BARE: lambda i: torch.from_numpy(read_uniform(files[i], FRAMES, SIZE, threads)),
            OURS: lambda i: ours[i]["video"],
            CROPPED: lambda i: ours[i]["video"],
            PYTORCHVIDEO: lambda i: read_pytorchvideo(files[i]),
        }
        self.read = ways[name]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.read(index)


def measure(files: list[Path], rounds: int) -> dict[str, float]:
    """Clips per second of each reader in this process, clip by clip in turn: the best time of each clip."""
    readers = {name: Reader(name, files, os.cpu_count() or 1) for name in NAMES}
    for i in range(min(3, len(files))):
        bare, ours = readers[BARE][i], readers[OURS][i]
        assert (bare == ours.permute(1, 2, 3, 0)).all(), f"{files[i]}: the readers differ"
    best = {name: np.full(len(files), np.inf) for name in readers}
    for turn in range(rounds):
        for i in range(len(files)):
            for name in NAMES[turn % len(NAMES) :] + NAMES[: turn % len(NAMES)]:
                start = time.perf_counter()
                readers[name][i]
                best[name][i] = min(best[name][i], time.perf_counter() - start)
    return {name: len(files) / times.sum() for name, times in best.items()}


def measure_workers(files: list[Path], rounds: int, workers: int) -> dict[str, float]:
    """Clips per second of each reader in the worker processes of a loader: the best pass over all clips.

    The workers live from pass to pass, and the first pass, which starts them, does not count.
    """
    loaders = {
        name: DataLoader(Reader(name, files, 1), batch_size=None, num_workers=workers, persistent_workers=True)
        for name in NAMES
    }
    best = dict.fromkeys(NAMES, float("inf"))
    for turn in range(rounds + 1):
        for name in NAMES[turn % len(NAMES) :] + NAMES[: turn % len(NAMES)]:
            start = time.perf_counter()
            for _ in loaders[name]:
                pass
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: len(files) / seconds for name, seconds in best.items()}


def report(measured: dict[int, dict[str, float]], source: str, count: int, arguments: argparse.Namespace) -> None:
    """Print the table and write it beside this script."""
    machine = f"{hardware()['cpu']}, {os.cpu_count()} cores"
    print(f"{count} clips ({source}), {FRAMES} frames at {SIZE}, {machine}, PyAV {av.__version__}")
    rows = []
    for processes, rates in measured.items():
        for name, rate in rates.items():
            row = [name, processes, f"{rate:.2f}", *(f"{rate / rates[base]:.3f}" for base in (BARE, PYTORCHVIDEO))]
            rows.append([*row, source, count, arguments.rounds, machine, av.__version__])
            print(f"{name:42s} {processes} proc. {row[2]:>8} clips/s {row[3]:>7} of bare {row[4]:>8} × pytorchvideo")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with open(results / "data_loading.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["reader", "processes", "clips_per_s", "of_bare_pyav", "times_pytorchvideo", "clips", "count", "rounds",
             "hardware", "pyav"]
        )  # fmt: skip
        writer.writerows(rows)


if __name__ == "__main__":
    main()
