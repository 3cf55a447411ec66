"""What bundles cost: size, memory, cold start, latency, energy where the machine tells; a table and a plot."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import TypedDict

from lightning_har.edge.runtime import load_bundle
from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table


class Row(TypedDict):
    """A bundle at a number of threads.

    Attributes:
        size_mb: Of the exported graphs on disk, in 10⁶ bytes: what the model's choice changes. The runner and its
            captions, alike for all, and the engine are not counted.
        peak_rss_mb: The process's own high-water mark, Python and the decoder included.
        cold_start_s: From starting the process to its end, one clip's label after it.
        frame_p50_ms: Of one frame's pass, which is not the same thing in each kind: of "frames" the backbone without
            the head, of "stream" a whole step; "clip", which sees no frame alone, has the network's time by its frames.
        clip_p50_ms: From file to label, decoding included: what to compare bundles of different kinds by.
        agreement: Top-1 with PyTorch's float, when the bundle was made; None for float.
        joule_per_clip: Of the whole package, idle power included, while clips are recognised; None where the machine
            does not tell.
    """

    bundle: str
    model: str
    format: str
    kind: str
    int8: bool
    threads: int
    size_mb: float
    peak_rss_mb: float | None
    cold_start_s: float
    frame_p50_ms: float
    frame_p95_ms: float
    clip_p50_ms: float
    clip_p95_ms: float
    agreement: float | None
    joule_per_clip: float | None


def measure(folder: str | Path, video: str | Path, *, threads: Sequence[int] = (1, 2), repeat: int = 20) -> list[Row]:
    """Run a bundle in fresh processes and read what they tell.

    Args:
        folder: The bundle.
        video: A clip.
        threads: Of the network, one row each.
        repeat: Times that the clip is recognised in the process that is timed.

    Raises:
        DataError: No bundle, or an altered one.
        ConfigError: Its runner fails; the message has what it said.
    """
    bundle = load_bundle(folder)
    size = sum((bundle.folder / name).stat().st_size for name in bundle.graphs.values())
    rows: list[Row] = []
    for n in threads:
        begin = time.perf_counter()
        _run(bundle.folder, video, n, 1)
        cold = time.perf_counter() - begin
        told = _run(bundle.folder, video, n, repeat)
        if not {"frame", "joule_per_clip"} <= told.keys():
            raise ConfigError(f"{bundle.folder} has an older runner, which times no frames; bundle the model again")
        # Empty where none is seen alone.
        frame = told["frame"] or {k: v / told["frames_per_clip"] for k, v in told["network"].items()}
        rows.append(
            {
                "bundle": str(folder),
                "model": bundle.name,
                "format": bundle.format,
                "kind": bundle.kind,
                "int8": bool(bundle.report["int8"]),
                "threads": n,
                "size_mb": round(size / 1e6, 3),
                "peak_rss_mb": told["peak_memory_mb"],
                "cold_start_s": round(cold, 3),
                "frame_p50_ms": round(frame["p50_ms"], 3),
                "frame_p95_ms": round(frame["p95_ms"], 3),
                "clip_p50_ms": told["clip"]["p50_ms"],
                "clip_p95_ms": told["clip"]["p95_ms"],
                "agreement": bundle.report["agreement"],
                "joule_per_clip": told["joule_per_clip"],
            }
        )
    return rows


def write_clip(path: Path, frames: int = 50, size: tuple[int, int] = (240, 320)) -> Path:
    """A moving pattern as a two-second H.264 file, for measuring without data."""
    import av

    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for t in range(frames):
            wave = 127 + 100 * np.sin((x + 3 * t) / 11) * np.cos((y - 2 * t) / 17)
            image = np.repeat(wave.astype(np.uint8)[..., None], 3, 2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def table(rows: Sequence[Row]) -> Table:
    """The rows, to print; narrow enough for a terminal of 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    out = Table(title="Bundles on this machine", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    energy = any(row["joule_per_clip"] is not None for row in rows)
    heads = [
        "MB of\ngraphs",
        "MB at\nmost",
        "s to\nlabel",
        "ms / frame\np50, p95",
        "ms / clip\np50, p95",
        "top-1 as\nfloat",
    ]
    out.add_column("bundle", overflow="fold")
    for head in heads + ["J /\nclip"] * energy:
        out.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        values = [
            _short(row["size_mb"]),
            _short(row["peak_rss_mb"]),
            _short(row["cold_start_s"]),
            f"{_short(row['frame_p50_ms'])}, {_short(row['frame_p95_ms'])}",
            f"{_short(row['clip_p50_ms'])}, {_short(row['clip_p95_ms'])}",
            _short(row["agreement"]),
            _short(row["joule_per_clip"]),
        ]
        name = f"{row['bundle']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        out.add_row(name, *values[: len(heads) + energy])
    return out


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """The rows, as CSV."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(Row.__annotations__))
        writer.writeheader()
        writer.writerows(rows)


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Agreement against a clip's latency and against size, the Pareto-best joined by a line.

    Agreement of a float bundle is 1: it was compared with PyTorch, logit by logit, when it was made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    fewest = min(row["threads"] for row in rows)
    shown = [row for row in rows if row["threads"] == fewest]
    for axes, key, label in zip(
        figure.subplots(1, 2, sharey=True),
        ("clip_p50_ms", "size_mb"),
        (f"ms from file to label, {fewest} thread{'s' * (fewest > 1)}", "MB of graphs"),
        strict=True,
    ):
        points = [(float(row[key]), _agreement(row), Path(row["bundle"]).resolve().name) for row in shown]  # type: ignore[literal-required]
        for x, y, name in points:
            axes.plot(x, y, "o")
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(0, -6), fontsize=8, ha="center", va="top")
        best = pareto([(x, y) for x, y, _ in points])
        axes.plot([x for x, _ in best], [y for _, y in best], "-", color="grey", zorder=0)
        axes.set_xscale("log")
        axes.margins(x=0.15)  # for the names
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks("{x:.3g}")
        axes.tick_params(axis="x", which="both", labelrotation=45)
        axes.set_xlabel(label)
    figure.axes[0].set_ylim(min(0.9, *(_agreement(row) - 0.05 for row in shown)), 1.01)
    figure.axes[0].set_ylabel("top-1 agreement with PyTorch float")
    figure.savefig(path, dpi=120)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points than which no other is as small in x and greater in y, or smaller in x and as great in y."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), key=lambda p: (p[0], -p[1])):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best


def _agreement(row: Row) -> float:
    return 1.0 if row["agreement"] is None else row["agreement"]


def _run(folder: Path, video: str | Path, threads: int, repeat: int) -> dict[str, Any]:
    command = [sys.executable, str(folder / "run.py"), str(Path(video).resolve()), "--json"]
    command += ["--threads", str(threads), "--repeat", str(repeat)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"{folder}: its runner failed: {done.stderr.strip() or done.returncode}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
