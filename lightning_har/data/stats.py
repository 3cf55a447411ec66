"""What a data set is made of: clips per class, lengths, sizes, frame rates; a table and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_har.data.decode import probe
from lightning_har.data.frames import FrameFolder
from lightning_har.data.manifest import Manifest
from lightning_har.data.parallel import Died, Engine, map_unordered, progress
from lightning_har.errors import DecodeError

if TYPE_CHECKING:
    from rich.table import Table


class ClipInfo(NamedTuple):
    """Of a clip: a file, or the stretch of one.

    Attributes:
        frames: Their number.
        seconds: 0 where the frame rate is not known.
        height: In pixels.
        width: In pixels.
        fps: Frames per second; 0 where not known.
    """

    frames: int
    seconds: float
    height: int
    width: int
    fps: float


class Stats(NamedTuple):
    """Of a data set.

    Attributes:
        clips: Splits, each with the number of clips by class, classes without clips counted as 0.
        infos: Of every clip that can be read.
        unreadable: Paths that cannot.
    """

    clips: dict[str, dict[str, int]]
    infos: list[ClipInfo]
    unreadable: list[str]


def gather(manifests: Mapping[str, Manifest], *, workers: int | None = None, engine: Engine = "processes") -> Stats:
    """Look into every file, decoding one frame of each.

    Args:
        manifests: By split.
        workers: Processes; None takes one per core.
        engine: "processes" or "ray".
    """
    files = {str(m.file(r).absolute()): r.path for m in manifests.values() for r in m}
    found: dict[str, ClipInfo | None] = {}
    with progress("looking into files", len(files)) as advance:
        for file, info in map_unordered(_look, files, workers=workers, engine=engine):
            found[file] = None if isinstance(info, Died) else info
            advance(1)
    infos = []
    for manifest in manifests.values():
        for r in manifest:
            whole = found[str(manifest.file(r).absolute())]
            if whole is not None:
                stop = whole.frames if r.stop is None else min(r.stop, whole.frames)
                frames = max(stop - (r.start or 0), 0)
                infos.append(whole._replace(frames=frames, seconds=frames / whole.fps if whole.fps else 0.0))
    unreadable = sorted(path for file, path in files.items() if found[file] is None)
    return Stats({split: class_counts(m) for split, m in manifests.items()}, infos, unreadable)


def class_counts(manifest: Manifest) -> dict[str, int]:
    """Clips by class name; of several heads, "head: name"."""
    names = manifest.class_names
    if isinstance(names, dict):
        counts = {f"{head}: {name}": 0 for head, of_head in names.items() for name in of_head}
        counts |= Counter(f"{h}: {n}" for r in manifest for h, n in manifest.label_names(r).items())
        return counts
    counts = dict.fromkeys(names or (), 0)
    return counts | Counter(manifest.label_names(r)["label"] for r in manifest)


def _look(file: str) -> ClipInfo | None:
    try:
        if Path(file).is_dir():
            source = FrameFolder(file)
            _, h, w, _ = source.read([0]).shape
            return ClipInfo(source.num_frames, 0.0, h, w, 0.0)
        info = probe(file)
    except DecodeError:
        return None
    return ClipInfo(info.num_frames, info.duration, info.height, info.width, info.fps)


def stats_tables(stats: Stats) -> list[Table]:
    """Tables of the splits, of lengths and sizes, and of the classes: of many the ten largest and smallest.

    Args:
        stats: From ``gather``.
    """
    from rich.table import Table

    splits = Table("split", "clips", "classes", "smallest class", "largest class", title="clips")
    for split, counts in stats.clips.items():
        filled = {name: n for name, n in counts.items() if n}
        ends = (
            [f"{f(filled, key=filled.__getitem__)} ({f(filled.values())})" for f in (min, max)] if filled else ["-"] * 2
        )
        splits.add_row(split, f"{sum(counts.values()):,}", f"{len(filled)} of {len(counts)}", *ends)
    numbers = Table("", "least", "median", "most", title="lengths and sizes")
    for name, values in _numbers(stats).items():
        if len(values):
            numbers.add_row(name, *(f"{f(values):,.4g}" for f in (np.min, np.median, np.max)))
    total = sum((Counter(c) for c in stats.clips.values()), Counter())
    names = list({n: None for c in stats.clips.values() for n in c})
    names.sort(key=lambda n: (-total[n], n))
    shown = names if len(names) <= 20 else [*names[:10], "...", *names[-10:]]
    classes = Table("class", *stats.clips, title=f"{len(names)} classes")
    for name in shown:
        classes.add_row(
            name,
            *(["..."] * len(stats.clips) if name == "..." else [str(c.get(name, 0)) for c in stats.clips.values()]),
        )
    return [splits, numbers, classes]


def _numbers(stats: Stats) -> dict[str, list[float]]:
    return {
        "frames": [float(i.frames) for i in stats.infos],
        "seconds": [i.seconds for i in stats.infos if i.seconds],
        "frames per second": [i.fps for i in stats.infos if i.fps],
        "short side, pixels": [float(min(i.height, i.width)) for i in stats.infos],
        "long side, pixels": [float(max(i.height, i.width)) for i in stats.infos],
    }


def save_stats_picture(stats: Stats, path: str | Path) -> None:
    """Four panels as a PNG: clips per class, lengths, sizes, frame rates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    per_class, lengths, sizes, rates = figure.subplots(2, 2).flat
    names = list({n: None for c in stats.clips.values() for n in c})
    below = np.zeros(len(names))
    for split, counts in stats.clips.items():
        values = np.array([counts[n] for n in names], float)
        per_class.bar(np.arange(len(names)), values, bottom=below, width=0.9, label=split)
        below += values
    per_class.set(title=f"clips per class ({len(names)} classes)", ylabel="clips")
    if len(names) <= 20:
        per_class.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    else:
        per_class.set_xlabel("class, by its label")
    per_class.legend(fontsize=8)
    numbers = _numbers(stats)
    unit = "seconds" if numbers["seconds"] else "frames"
    lengths.hist(numbers[unit], bins=40)
    lengths.set(title="length of a clip", xlabel=unit, ylabel="clips")
    shapes: Counter[tuple[int, int]] = Counter((i.width, i.height) for i in stats.infos)
    if shapes:
        x, y = zip(*shapes, strict=True)
        area = 400 * np.sqrt(np.array(list(shapes.values())) / max(shapes.values()))
        sizes.scatter(x, y, s=area, alpha=0.5)
    sizes.set(title=f"size ({len(shapes)} different)", xlabel="width, pixels", ylabel="height, pixels")
    rates.hist(numbers["frames per second"], bins=40)
    rates.set(title="frame rate", xlabel="frames per second", ylabel="clips")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
