"""The clips that a quantizer learns its ranges from, checked before they are believed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_har.data.datamodule import EVAL_SAMPLING, TRAIN_SAMPLING
from lightning_har.edge.graphs import Graph, example_video
from lightning_har.errors import ConfigError
from lightning_har.modules.base import IGNORE, ActionRecognizer
from lightning_har.types import Batch, Video

Calibration: TypeAlias = Any
"""A LightningDataModule, whose training clips calibrate and whose validation clips check; or batches."""

MAX_CLIPS = 32
"""Clips that calibrate, and as many that check. Ranges of activations change little beyond some hundred frames."""


@dataclass(frozen=True)
class Clips:
    """Single clips, each with B = 1.

    Attributes:
        fit: To calibrate on.
        check: To compare predictions on.
        held_out: False where there were not enough clips to keep the two apart.
    """

    fit: list[Video]
    check: list[Video]
    held_out: bool


def collect(module: ActionRecognizer, source: Calibration | None, max_clips: int = MAX_CLIPS) -> Clips:
    """Take clips for calibration and for checking it.

    Args:
        module: Whose InputSpec a copy of a data module is given, and whose samplings where it has none of its own.
        source: A data module, or an iterable of labelled batches.
        max_clips: Of each kind.

    Raises:
        ConfigError: No data or loader, clips of one class only, or values that are not finite.
    """
    if source is None:
        raise ConfigError(
            "int8 needs calibration data, which says what values the activations take: give calibration=, a data "
            "module or labelled batches"
        )
    if hasattr(source, "train_dataloader"):
        source = _introduced(module, source)
        source.prepare_data()
        source.setup("fit")
        fit, labels = _take(_loader(source, "train_dataloader"), max_clips)
        check, _ = _take(_spread(_loader(source, "val_dataloader"), max_clips), max_clips)
    else:
        fit, labels = _take(source, 2 * max_clips)
        check = []
        if len(fit) > max_clips:
            fit, labels, check = _part(fit, labels)
    if not fit:
        raise ConfigError("the calibration data holds no clips; give at least a few of each class")
    if len(set(labels)) < 2 and _classes(module) > 1:
        names = getattr(source, "class_names", None) or module.class_names  # the data may count its own classes
        raise ConfigError(
            f"all {len(fit)} calibration clips are of one class ({_name(names, labels)}); ranges learnt from it would "
            "cut off the others' values: give clips of several classes, shuffled"
        )
    return Clips(fit, check or fit, bool(check))


def _introduced(module: ActionRecognizer, source: Any) -> Any:
    """A copy of the data that knows what the network takes, and samples as the module was trained and a bundle will."""
    source = copy.copy(source)
    # A copy shares the dicts that a data module keeps its data sets in.
    vars(source).update({name: dict(value) for name, value in vars(source).items() if type(value) is dict})
    source.spec = module.spec
    if getattr(source, "train_sampling", None) is TRAIN_SAMPLING and module.train_sampling is not None:
        source.train_sampling = module.train_sampling
    if getattr(source, "eval_sampling", None) is EVAL_SAMPLING and module.eval_sampling is not None:
        # One view from the middle, as the runner takes it, whatever the protocol averages over, and the spec's frames:
        # those that are traced.
        one = module.eval_sampling
        source.eval_sampling = replace(
            one, num_clips=1, num_frames=None, crop="full" if one.crop == "full" else "center"
        )
    return source


def _loader(source: Any, name: str) -> Any:
    """What a data module's method gives; Lightning's own, in core.hooks, only raises."""
    method = getattr(source, name, None)
    loader = None if method is None or str(method.__module__).endswith("core.hooks") else method()
    if loader is None:
        raise ConfigError(
            f"{type(source).__name__} gives no {name}; int8 calibrates on a data module's training clips and compares "
            f"on its validation clips: give it a {name}, or give labelled batches, which are parted"
        )
    return loader


def _spread(loader: Any, count: int) -> Any:
    """Samples from all of a loader's length: lists of clips are often sorted by class."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    total = len(loader.dataset)  # type: ignore[arg-type]
    taken = [i * total // count for i in range(count)] if total > count else range(total)
    return DataLoader(loader.dataset, batch_size=1, sampler=taken, collate_fn=loader.collate_fn)


def _part(clips: list[Video], labels: list[Any]) -> tuple[list[Video], list[Any], list[Video]]:
    """Clips to calibrate on and their labels, and clips to check on: of each class in turn, the first calibrates."""
    seen: Counter[Any] = Counter()
    fit, of_fit, check = [], [], []
    for clip, label in zip(clips, labels, strict=True):
        if seen[label] % 2:
            check.append(clip)
        else:
            fit.append(clip)
            of_fit.append(label)
        seen[label] += 1
    return fit, of_fit, check


def _take(batches: Iterable[Batch], count: int) -> tuple[list[Video], list[Any]]:
    clips: list[Video] = []
    labels: list[Any] = []
    for batch in batches:
        if not isinstance(batch, Mapping) or "video" not in batch:
            raise ConfigError(f"calibration takes batches (lightning_har.types.Batch), got {type(batch).__name__}")
        if "label" not in batch:
            raise ConfigError("calibration batches need labels, to see that more than one class is there")
        if not batch["id"]:
            continue
        for index, clip in enumerate(_single(batch["video"])):
            clips.append(clip)
            labels.append(_label(batch["label"], index))
            if len(clips) == count:
                return clips, labels
    return clips, labels


def _single(video: Video) -> list[Video]:
    if isinstance(video, Mapping):
        parts = {name: _single(x) for name, x in video.items()}
        count = min(len(p) for p in parts.values())
        return [{name: p[i] for name, p in parts.items()} for i in range(count)]  # type: ignore[misc]
    if video.is_floating_point() and not bool(video.isfinite().all()):
        raise ConfigError("a calibration clip holds NaN or infinite values; mend the data, or leave the clip out")
    if video.ndim == 6:
        video = video[:, 0]  # views of one video are much alike
    return list(video.cpu().split(1))


def check_shapes(module: ActionRecognizer, clips: Clips, any_time: bool = False) -> None:
    """Refuse clips that the graphs do not take; an engine would refuse them too, and blame the format.

    Nothing resizes them here: a graph normalises, no more.

    Args:
        module: What is exported.
        clips: Taken for it.
        any_time: Whether the graphs take any number of frames, and not the module's own alone.

    Raises:
        ConfigError: Other modalities, another shape or type than a graph takes.
    """
    wanted = _by_modality(example_video(module))
    for role, some in (("calibration clip", clips.fit), ("clip to compare", clips.check)):
        for clip in some:
            given = _by_modality(clip)
            if not wanted.keys() <= given.keys():
                names = " and ".join(wanted) if "" not in wanted else "one clip, no dict of clips"
                raise ConfigError(f"a {role} holds {', '.join(given) or 'one clip'}; this network takes {names}")
            for name, example in wanted.items():
                _check_shape(f"a {role}" + f" ({name})" * bool(name), given[name], example, any_time)


def _by_modality(video: Video) -> Mapping[str, Tensor]:
    return video if isinstance(video, Mapping) else {"": video}


def _check_shape(what: str, given: Tensor, wanted: Tensor, any_time: bool) -> None:
    """Compare (1, C, T, H, W), or (1, T, D), with an example."""
    axes = ["frames", "features"] if wanted.ndim == 3 else ["channels", "frames", "height", "width"]
    time = axes.index("frames")
    shape, fit = list(given.shape[1:]), list(wanted.shape[1:])
    if any_time and len(shape) == len(fit):
        fit[time] = shape[time]
    if shape != fit:
        takes = ["any" if any_time and axis == "frames" else str(n) for axis, n in zip(axes, fit, strict=True)]
        remedy = f"give clips of {' × '.join(takes)}"
        if len(shape) == len(fit) and shape[time] != fit[time]:
            remedy += "; a data module's frames are set by num_frames of its samplings"
        raise ConfigError(
            f"{what} is {' × '.join(map(str, shape))} ({' × '.join(axes)}), not what the network takes: {remedy}"
        )
    if given.dtype != wanted.dtype:
        remedy = (
            "uint8 as decoders give it, the graph normalises" if wanted.dtype == torch.uint8 else "float32 features"
        )
        raise ConfigError(f"{what} is {given.dtype}; the network takes {wanted.dtype}: give {remedy}")


def _label(label: Tensor | Mapping[str, Tensor], index: int) -> Any:
    if isinstance(label, Mapping):
        return tuple(int(x[index]) for x in label.values())
    return int(label[index])


def _classes(module: ActionRecognizer) -> int:
    counts = [module.num_classes] if isinstance(module.num_classes, int) else list(module.num_classes.values())
    return max(counts)


def _name(names: Any, labels: list[Any]) -> str:
    if not labels or labels[0] == IGNORE:
        return "unknown"
    return repr(names[labels[0]]) if isinstance(names, tuple) and isinstance(labels[0], int) else str(labels[0])


MAX_INPUTS = 256
"""Inputs that a quantizer sees of each graph."""


def inputs_of(graph: Graph, clips: Sequence[Video]) -> Iterable[tuple[Tensor, ...]]:
    """What a graph would see on these clips; of many frames every n-th."""
    fed = chain.from_iterable(graph.feed(clip) for clip in clips)
    if not graph.by_frame:
        return fed
    frames = sum(clip.shape[2] for clip in clips if isinstance(clip, Tensor))
    return islice(fed, 0, None, -(-frames // MAX_INPUTS))


@torch.no_grad()
def check_finite(net: torch.nn.Module, inputs: Iterable[tuple[Tensor, ...]], name: str) -> None:
    """Refuse a network that answers calibration clips with NaN.

    Raises:
        ConfigError: It does.
    """
    for values in inputs:
        if not all(bool(x.isfinite().all()) for x in net(*values)):
            raise ConfigError(f"the network's part {name!r} gives NaN or infinite values on a calibration clip")
