"""Learning curves from a run's metrics.csv."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from lightning_har.errors import DataError


def save_curves(metrics_csv: str | Path, path: str | Path) -> None:
    """Draw loss and top-1 of training and validation over the epochs; the best epoch is marked.

    Args:
        metrics_csv: With a column ``epoch`` and columns ``train_*`` and ``val_*``.
        path: PNG to write.

    Raises:
        DataError: The file has no rows, or no column ``epoch``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with open(metrics_csv, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "epoch" not in rows[0]:
        raise DataError(f"{metrics_csv}: has no epochs to draw")
    columns = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in columns if name.startswith(("train_", "val_"))]
    panels = {"loss": "loss", "top-1": "top1"}
    panels = {label: end for label, end in panels.items() if any(name.endswith(end) for name in names)}
    figure = Figure(figsize=(5.2 * max(len(panels), 1), 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (label, end) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name in (n for n in names if n.endswith(end)):
            points = [(int(r["epoch"]) + 1, float(r[name])) for r in rows if r.get(name)]
            points = [(epoch, value) for epoch, value in points if math.isfinite(value)]
            if not points:
                continue
            is_validation = name.startswith("val_")
            (line,) = axes.plot(
                *zip(*points, strict=True),
                label=name,
                linestyle="-" if is_validation else "--",
                marker="o" if len(points) < 30 else None,
                markersize=3,
            )
            if is_validation:
                best = (max if label == "top-1" else min)(points, key=lambda point: point[1])
                axes.plot(*best, marker="*", markersize=11, color=line.get_color())
                # Towards the middle: beside the star of the first or the last epoch it would cross the frame.
                side = "left" if 2 * best[0] < points[0][0] + points[-1][0] else "right"
                axes.annotate(f"{best[1]:.3f}", best, textcoords="offset points", xytext=(0, 9), fontsize=8, ha=side)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(y=0.12)
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=8)
    figure.savefig(path)
