"""Accuracy against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_har.bench.rows import Row

AXES = {
    "memory": ("test_peak_bytes", 2**-20, "peak memory of testing (MiB)"),
    "training memory": ("train_peak_bytes", 2**-20, "peak memory of training (MiB)"),
    "latency": ("p50_ms", 1.0, "latency of a clip, median (ms)"),
    "size": ("checkpoint_bytes", 1e-6, "checkpoint (MB)"),
}
"""What top-1 is drawn against: the cost's name, its scale and its label."""

_NAMES_HIGH = 24
"""So many names of a legend are as high as the picture."""


def save_plots(summaries: Sequence[Row], folder: Path) -> dict[str, Path]:
    """Draw top-1 against memory, latency and size, a point per model, with its 95 % interval where there is one.

    Args:
        summaries: From ``summarize``.
        folder: Where ``accuracy_<cost>.png`` go.

    Returns:
        The pictures by cost; a cost that no model has is left out.
    """
    found = {}
    for name, (key, scale, label) in AXES.items():
        points = [s for s in summaries if s["values"].get("top1") is not None and s["values"].get(key)]
        if points:
            found[name] = folder / f"accuracy_{name.replace(' ', '_')}.png"
            _scatter(points, key, scale, label, found[name])
    return found


def _scatter(points: Sequence[Row], key: str, scale: float, label: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = -(-len(points) // _NAMES_HIGH)
    figure = Figure(figsize=(4.2 + 2.6 * columns, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    costs = [s["values"][key] * scale for s in points]
    for number, (summary, cost) in enumerate(zip(points, costs, strict=True)):
        top1, interval = summary["values"]["top1"], summary["top1_interval"]
        bars: Any = [[max(0.0, top1 - interval[0])], [max(0.0, interval[1] - top1)]] if interval else None
        colour = f"C{number % 10}"
        mark = "osD^v"[number // 10 % 5]
        axes.errorbar(
            cost, top1, yerr=bars, fmt=mark, color=colour, ecolor=colour, alpha=0.9, capsize=2, label=summary["name"]
        )
    if max(costs) > 8 * min(costs):
        axes.set_xscale("log")
    else:  # from 0, or a hair's breadth would fill the picture
        axes.set_xlim(0, 1.08 * max(costs))
    axes.set_xlabel(label)
    axes.set_ylabel("top-1, test videos")
    axes.grid(alpha=0.3)
    # Names beside the points would lie on each other as soon as two models are alike.
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, ncols=columns)
    figure.savefig(path)
