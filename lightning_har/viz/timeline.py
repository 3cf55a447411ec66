"""What a recogniser says along a long video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lightning_har.errors import ConfigError


def save_timeline(
    windows: Sequence[tuple[float, float]],
    scores: Tensor,
    class_names: Sequence[str],
    path: str | Path,
    *,
    top: int = 4,
) -> None:
    """Draw the scores of the strongest classes over time, and the verdict of every window as a band below.

    Args:
        windows: N (start, stop) in seconds.
        scores: (N, K) softmax probabilities.
        class_names: K names.
        path: PNG to write.
        top: Classes to draw: those with the highest score anywhere.

    Raises:
        ConfigError: Lengths do not fit.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if tuple(scores.shape) != (len(windows), len(class_names)) or not len(windows):
        raise ConfigError(f"{len(windows)} windows of {len(class_names)} classes need as many scores: {scores.shape}")
    verdicts = scores.argmax(1).tolist()
    shown = scores.amax(0).topk(min(top, len(class_names))).indices.tolist()
    colours = {k: colormaps["tab10"](i % 10) for i, k in enumerate(dict.fromkeys([*shown, *verdicts]))}
    figure = Figure((8, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    middles = [(start + stop) / 2 for start, stop in windows]
    for k in shown:
        upper.plot(middles, scores[:, k].tolist(), color=colours[k], marker="o", markersize=3, label=class_names[k])
    upper.set(ylim=(0, 1.02), ylabel="score")
    upper.grid(alpha=0.3)
    upper.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    previous = None
    for (start, stop), k in zip(windows, verdicts, strict=True):
        lower.axvspan(start, stop, color=colours[k], linewidth=0)
        if k != previous:
            lower.text(start, 0.5, f" {class_names[k]}", fontsize=8, va="center", clip_on=True)
        previous = k
    lower.set(yticks=[], xlabel="seconds", xlim=(windows[0][0], windows[-1][1]))
    figure.savefig(path)
