"""Confusion matrices as pictures, readable from a dozen classes to hundreds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELLS_WITH_NUMBERS = 20
_EVERY_LABEL = 130


def save_confusion_matrix(
    counts: Tensor,
    class_names: Sequence[str],
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    normalize: bool = True,
) -> None:
    """Draw a confusion matrix: rows true classes, columns predicted ones, dark is many (on a square-root scale).

    Up to 20 classes the cells carry their counts; up to 130 every class is named; beyond, as many as are
    legible, evenly spread. Classes without a clip have an empty row.

    Args:
        counts: (K, K) counts, rows true.
        class_names: K names.
        path: PNG to write (or any suffix that matplotlib knows).
        classes: Draw only these classes, in this order; a last column counts what went to any other class.
        normalize: Colour by the share of the true class's clips, so that classes of any size compare.

    Raises:
        ConfigError: Shapes do not fit, or an unknown class.
    """
    confusion_figure(counts, class_names, classes=classes, normalize=normalize).savefig(path)


def confusion_figure(
    counts: Tensor,
    class_names: Sequence[str],
    *,
    classes: Sequence[str] | None = None,
    normalize: bool = True,
) -> Figure:
    """The picture of ``save_confusion_matrix``, as matplotlib's figure: to be shown in a notebook, or gone on with.

    Args:
        counts: (K, K) clips, by true and predicted class.
        class_names: K names.
        classes: Only these, in this order; a last column counts what went to any other class.
        normalize: Colour by the share of the true class's clips.

    Returns:
        A figure that is not one of pyplot's.

    Raises:
        ConfigError: Shapes do not fit, or an unknown class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    if tuple(counts.shape) != (len(class_names), len(class_names)):
        raise ConfigError(f"counts has shape {tuple(counts.shape)}; {len(class_names)} classes make it square")
    total = int(counts.sum())
    right = int(counts.diagonal().sum())
    columns = list(class_names)
    rows = list(class_names)
    if classes is not None:
        counts, rows, columns = _select(counts, list(class_names), list(classes))
        total, right = int(counts.sum()), int(counts.diagonal().sum())
    cells = counts.double()
    if normalize:
        cells = cells / cells.sum(dim=1, keepdim=True)  # 0 / 0 is NaN, which stays blank

    k = len(rows)
    longest = max(len(name) for name in columns)
    step = 1 if k <= _EVERY_LABEL else -(-k // 80)
    font = 9.0 if k <= 30 else 6.5
    side = max(3.0, min(0.42 * k, 10.0) if k <= 30 else min(18.0, 0.14 * k))
    margin = longest * font * 0.62 / 72
    figure = Figure(figsize=(side + margin + 1.2, side + margin + 0.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # The square root lets a rare confusion be seen beside the diagonal.
    norm = PowerNorm(0.5, vmin=0, vmax=1 if normalize else max(1, int(counts.max())))
    image = axes.imshow(cells.numpy(), cmap="Blues", norm=norm, interpolation="nearest")
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=90, fontsize=font)
    axes.set_yticks(range(0, k, step), rows[::step], fontsize=font)
    axes.tick_params(length=2 if k <= 30 else 1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{right} of {total} right ({right / max(total, 1):.1%})", fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the true class" if normalize else "clips")
    if k <= _CELLS_WITH_NUMBERS:
        for i, j in torch.nonzero(counts).tolist():
            colour = "white" if norm(float(cells[i, j])) > 0.6 else "black"
            axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=font - 1, color=colour)
    return figure


def _select(counts: Tensor, names: list[str], chosen: list[str]) -> tuple[Tensor, list[str], list[str]]:
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ConfigError(f"no class {', '.join(unknown[:3])}; the classes are {', '.join(names[:10])}, ...")
    index = torch.tensor([names.index(name) for name in chosen])
    rows = counts[index]
    kept = rows[:, index]
    other = rows.sum(dim=1, keepdim=True) - kept.sum(dim=1, keepdim=True)
    return torch.cat([kept, other], dim=1), chosen, [*chosen, "(other)"]


def most_confused(counts: Tensor, class_names: Sequence[str], top: int = 10) -> list[tuple[str, str, int]]:
    """The pairs most often taken for each other.

    Args:
        counts: (K, K) counts, rows true.
        class_names: K names.
        top: Pairs at most.

    Returns:
        (true, predicted, clips), most clips first; only pairs that occur.

    Examples:
        >>> counts = torch.tensor([[5, 1, 2], [0, 7, 3], [0, 0, 9]])
        >>> most_confused(counts, ["sit", "stand", "walk"], top=2)
        [('stand', 'walk', 3), ('sit', 'walk', 2)]
    """
    wrong = counts.clone()
    wrong.fill_diagonal_(0)
    values, places = wrong.flatten().sort(descending=True, stable=True)
    k = len(class_names)
    pairs = zip(places.tolist()[:top], values.tolist()[:top], strict=True)
    return [(class_names[p // k], class_names[p % k], n) for p, n in pairs if n > 0]
