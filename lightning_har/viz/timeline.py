"""What a recogniser says along a long video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lightning_har.errors import ConfigError


def save_timeline(
    windows: Sequence[tuple[float, float]], scores: Tensor, class_names: Sequence[str], path: str | Path
) -> None:
    """Draw the scores of the four strongest classes over time, and the verdict of every window as a band below.

    A stretch of one verdict carries its name where there is room for it; the legend names every colour.

    Args:
        windows: N (start, stop) in seconds.
        scores: (N, K) softmax probabilities.
        class_names: K names.
        path: PNG to write.

    Raises:
        ConfigError: Lengths do not fit.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if tuple(scores.shape) != (len(windows), len(class_names)) or not len(windows):
        raise ConfigError(f"{len(windows)} windows of {len(class_names)} classes need as many scores: {scores.shape}")
    verdicts = scores.argmax(1).tolist()
    shown = scores.amax(0).topk(min(4, len(class_names))).indices.tolist()
    said = dict.fromkeys([*shown, *verdicts])
    palette = colormaps["tab10" if len(said) <= 10 else "tab20"]
    colours = {k: palette(i % palette.N) for i, k in enumerate(said)}
    figure = Figure((8, max(3.2, 0.17 * len(said) + 1.4)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    middles = [(start + stop) / 2 for start, stop in windows]
    for k in shown:
        upper.plot(middles, scores[:, k].tolist(), color=colours[k], marker="o", markersize=3, label=class_names[k])
    upper.set(ylim=(0, 1.02), ylabel="score")
    upper.grid(alpha=0.3)
    for k in said:
        if k not in shown:  # a verdict, but never among the strongest
            upper.plot([], [], color=colours[k], linewidth=6, label=class_names[k])
    upper.legend(fontsize=8, loc="lower left", bbox_to_anchor=(1, 0))
    per_letter = (windows[-1][1] - windows[0][0]) / 90  # seconds that a letter takes, in about 6 inches
    begins = 0
    for i, k in enumerate(verdicts):
        if i + 1 < len(verdicts) and verdicts[i + 1] == k:
            continue
        start, stop = windows[begins][0], windows[i][1]
        begins = i + 1
        lower.axvspan(start, stop, color=colours[k], linewidth=0)
        if (len(class_names[k]) + 1) * per_letter <= stop - start:
            lower.text((start + stop) / 2, 0.5, class_names[k], fontsize=8, ha="center", va="center")
    lower.set(yticks=[], xlabel="seconds", xlim=(windows[0][0], windows[-1][1]))
    figure.savefig(path)
