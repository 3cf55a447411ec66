"""What a network is fed: clips after sampling, cropping, resizing and mirroring, as a sheet of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec
from lightning_har.types import Video

_SHOWN_VIEWS = 4
_MOST_CONTRAST = 16


def save_clips(
    video: Video,
    path: str | Path,
    *,
    titles: Sequence[str] | None = None,
    spec: InputSpec | Mapping[str, InputSpec] | None = None,
    frames: int = 8,
) -> None:
    """Draw clips as rows of frames, as the network gets them.

    Flow is drawn by its two channels, x above y, grey where nothing moves; small motion is drawn with more contrast,
    and the title says how much. Several views of a video are rows of their own, four at most.

    Args:
        video: (B, C, T, H, W) or (B, V, C, T, H, W), uint8; or a dict of such by modality.
        path: PNG to write.
        titles: Of the B videos, such as their labels.
        spec: What the network takes; its normalisation is then told above the sheet.
        frames: At most so many of a clip, evenly spread.

    Raises:
        ConfigError: A wrong rank, a float video (it is normalised: its colours are gone), or no clips.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clips = dict(video) if isinstance(video, Mapping) else {"": video}
    rows: list[tuple[str, Tensor]] = []
    count = len(next(iter(clips.values())))
    if not count:
        raise ConfigError("there are no clips to draw")
    for i in range(count):
        for modality, clip in clips.items():
            rows += _rows(clip[i], " ".join(filter(None, (titles[i] if titles else "", modality))))
    most = max(len(_chosen(row, frames)) for _, row in rows)
    height, width = rows[0][1].shape[-2:]
    cell, gap, head = 1.35, 0.02, 0.3  # inches
    tall = cell * height / width
    above = 0.24  # of a row, its title
    wide, high = cell * most, head + (tall + above) * len(rows)
    figure = Figure((wide, high), dpi=120)
    FigureCanvasAgg(figure)
    figure.text(0.06 / wide, 1 - 0.1 / high, _told(clips, spec), fontsize=9, va="top", color="#555555")
    for i, (title, row) in enumerate(rows):
        top = high - head - i * (tall + above)
        figure.text(0.06 / wide, (top - above + 0.05) / high, title, fontsize=9, va="bottom")
        for column, t in enumerate(_chosen(row, frames)):
            place = (column * cell / wide, (top - above - tall) / high, (cell - gap) / wide, tall / high)
            axes = figure.add_axes(place)
            axes.set_axis_off()
            frame = row[:, t]
            shown: Any = frame.permute(1, 2, 0).numpy() if len(frame) == 3 else frame[0].numpy()
            axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
            axes.text(
                0.03, 0.97, str(t), transform=axes.transAxes, fontsize=6, color="white", va="top",
                bbox={"facecolor": "#0008", "edgecolor": "none", "pad": 2},
            )  # fmt: skip
    figure.savefig(path)


def save_samples(datamodule: Any, path: str | Path, *, split: str = "train", clips: int = 6, frames: int = 8) -> None:
    """Draw some clips of a split of a data module, always the same, after its sampling and transforms.

    Args:
        datamodule: An ``ActionDataModule`` whose ``spec`` is set.
        path: PNG to write.
        split: "train" (with its random crops and mirroring), "val", "test" or "predict".
        clips: At most so many.
        frames: Of each clip, at most.

    Raises:
        ConfigError: No spec is set.
        DataError: No such split.
        DecodeError: A video cannot be read.
    """
    if split not in datamodule.manifests:
        raise DataError(f"the data has no {split!r} split, only {', '.join(datamodule.manifests)}")
    manifest = datamodule.manifests[split]
    # Drawn at random, but always the same: the first ones would all be of one class, and so may every n-th.
    order = torch.randperm(len(manifest), generator=torch.Generator().manual_seed(0))[:clips].tolist()
    sampling = datamodule.train_sampling if split == "train" else datamodule.eval_sampling
    # Of these alone: the frames of all the others need not be counted.
    dataset = datamodule.dataset_of(manifest.with_records(manifest[i] for i in order), sampling)
    samples = [s for s in (dataset[i] for i in range(len(dataset))) if isinstance(s, dict)]
    if not samples:
        raise ConfigError(f"no clip of {len(dataset)} of {split} could be read; look with `lightning-har data check`")
    names = datamodule.class_names
    titles = [f"{_label(s.get('label'), names)}  {Path(s['path']).name}" for s in samples]
    first = samples[0]["video"]
    if isinstance(first, Mapping):
        video: Video = {m: torch.stack([s["video"][m] for s in samples]) for m in first}
    else:
        video = torch.stack([s["video"] for s in samples])
    save_clips(video, path, titles=titles, spec=datamodule.spec, frames=frames)


def _label(label: Any, names: Any) -> str:
    if label is None:
        return "no label"
    if isinstance(label, Mapping):
        return " ".join(names[head][k] for head, k in label.items())
    return str(names[label]) if names is not None else f"class {label}"


def _rows(clip: Tensor, title: str) -> list[tuple[str, Tensor]]:
    """The rows of one video, each (3 or 1, T, H, W)."""
    if clip.dtype != torch.uint8 or clip.ndim not in (4, 5):
        raise ConfigError(
            f"a video is {tuple(clip.shape)} {clip.dtype}; give uint8 (C, T, H, W), or (V, C, T, H, W): what is "
            "normalised has no colours any more"
        )
    views = clip[None] if clip.ndim == 4 else clip
    rows = []
    for v, view in enumerate(views[:_SHOWN_VIEWS]):
        of = f" view {v + 1} of {len(views)}" if len(views) > 1 else ""
        if len(view) == 2:
            moved = view.int() - 128
            # Not by the very fastest pixels, which are the estimator's errors as often as not.
            fast = float(moved.abs().float().flatten()[::7].quantile(0.99))
            times = max(1, min(int(127 / max(fast, 1.0)), _MOST_CONTRAST))
            told = f"{of}, contrast × {times}" if times > 1 else of
            clearer = (moved * times + 128).clamp(0, 255).to(torch.uint8)
            rows += [(f"{title} x{told}", clearer[:1]), (f"{title} y{told}", clearer[1:])]
        else:
            rows.append((f"{title}{of}", view))
    return rows


def _chosen(row: Tensor, frames: int) -> list[int]:
    total = row.shape[1]
    chosen: list[int] = torch.linspace(0, total - 1, min(frames, total)).round().long().tolist()
    return chosen


def _told(clips: Mapping[str, Tensor], spec: InputSpec | Mapping[str, InputSpec] | None) -> str:
    lines = []
    specs = dict(spec) if isinstance(spec, Mapping) else dict.fromkeys(clips, spec)
    for modality, clip in clips.items():
        one = specs.get(modality)
        size = f"{modality} {clip.shape[-3]} frames of {clip.shape[-2]}×{clip.shape[-1]}".strip()
        if one is not None:
            low, high = one.value_range
            means, deviations = one.mean * one.channels, one.std * one.channels  # one value may stand for all
            pairs = list(zip(means, deviations, strict=False))[: one.channels]
            spread = [(value - mean) / deviation for value in (low, high) for mean, deviation in pairs]
            size += f"; fed as {min(spread):.2f} to {max(spread):.2f}"
        lines.append(size)
    return "; ".join(lines)
