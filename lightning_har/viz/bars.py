"""Classes one by one: precision, recall and F1 as bars, and the pairs most often confused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lightning_har.errors import ConfigError
from lightning_har.viz.confusion import most_confused

Measure = Literal["recall", "precision", "f1"]


def class_scores(counts: Tensor) -> dict[str, Tensor]:
    """Precision, recall and F1 of every class from a confusion matrix.

    Args:
        counts: (K, K) counts, rows true.

    Returns:
        "precision", "recall", "f1", (K,) float64 each; NaN where a ratio has nothing in its denominator.
    """
    right = counts.diagonal().double()
    true, predicted = counts.sum(1), counts.sum(0)
    return {
        "precision": right / predicted,
        "recall": right / true,
        "f1": 2 * right / (true + predicted),
    }


def save_class_bars(
    counts: Tensor,
    class_names: Sequence[str],
    path: str | Path,
    *,
    measure: Measure = "recall",
    worst: int | None = None,
) -> None:
    """Draw a bar a class, best first, with the number of its clips; a line marks the mean over classes.

    Args:
        counts: (K, K) counts, rows true.
        class_names: K names.
        path: PNG to write.
        measure: "recall" (a class's own accuracy), "precision" or "f1".
        worst: Draw only so many classes, the worst ones; None draws all.

    Raises:
        ConfigError: Shapes do not fit, an unknown measure, or no class with a value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if tuple(counts.shape) != (len(class_names), len(class_names)):
        raise ConfigError(f"counts has shape {tuple(counts.shape)}; {len(class_names)} classes make it square")
    scores = class_scores(counts)
    if measure not in scores:
        raise ConfigError(f"measure is {measure!r}; it must be one of {', '.join(scores)}")
    values = scores[measure]
    known = torch.nonzero(~values.isnan())[:, 0]
    if not len(known):
        raise ConfigError(f"no class has a {measure}: there are no clips")
    order = known[values[known].argsort(descending=True, stable=True)]
    mean = float(values[known].mean())
    order = order if worst is None else order[-worst:]
    k = len(order)
    font = 8.0 if k <= 40 else 6.0
    step = 0.2 if k <= 40 else 0.11
    longest = max(len(class_names[i]) for i in order.tolist())
    figure = Figure((5.0 + longest * font * 0.62 / 72, step * k + 0.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = values[order].tolist()
    axes.barh(range(k), drawn, color=["#2980b9" if value >= mean else "#e67e22" for value in drawn], height=0.75)
    axes.axvline(mean, color="#888888", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(k), [class_names[i] for i in order.tolist()], fontsize=font)
    axes.set_ylim(k - 0.4, -0.6)
    axes.set_xlim(0, 1.16)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    clips = counts.sum(1)
    plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for place, (i, value) in enumerate(zip(order.tolist(), drawn, strict=True)):
        axes.text(value + 0.01, place, f"{value:.2f} of {int(clips[i])}", va="center", fontsize=font - 1).set_bbox(
            plate
        )
    silent = len(class_names) - len(known)
    left_out = f"; {silent} classes have none" if silent else ""
    axes.set_title(f"{measure} by class, mean {mean:.3f} (dashed){left_out}", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    figure.savefig(path)


def save_most_confused(counts: Tensor, class_names: Sequence[str], path: str | Path) -> None:
    """Draw the 15 pairs most often taken for each other: true class, what it was taken for, how many clips.

    Args:
        counts: (K, K) counts, rows true.
        class_names: K names.
        path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    pairs = most_confused(counts, class_names, top=15)
    labels = [f"{true}  taken for  {said}" for true, said, _ in pairs]
    longest = max((len(label) for label in labels), default=20)
    figure = Figure((3.5 + longest * 8 * 0.6 / 72, 0.26 * max(len(pairs), 2) + 0.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if not pairs:
        axes.text(0.5, 0.5, "no clip is wrong", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        shares = [n / int(counts[class_names.index(true)].sum()) for true, _, n in pairs]
        axes.barh(range(len(pairs)), [n for _, _, n in pairs], color="#c0392b", height=0.7)
        axes.set_yticks(range(len(pairs)), labels, fontsize=8)
        axes.invert_yaxis()
        for place, ((_, _, n), share) in enumerate(zip(pairs, shares, strict=True)):
            axes.text(n, place, f" {share:.0%} of the class", va="center", fontsize=7)
        axes.set_xlim(0, 1.4 * pairs[0][2])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("clips", fontsize=8)
    wrong = int(counts.sum() - counts.diagonal().sum())
    axes.set_title(f"most confused of {wrong} wrong clips", fontsize=9)
    figure.savefig(path)
