"""Exported files against PyTorch: run on clips that were not traced, and at other sizes where axes stay open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_har.edge.calibration import Clips
from lightning_har.edge.graphs import Kind, example_video, feature_frames, head_names
from lightning_har.edge.refusal import reason
from lightning_har.edge.runtime import Recognizer, open_graph
from lightning_har.edge.writers import MOST_FRAMES, Dynamic, Format
from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.types import Video

TOLERANCE = 1e-4
"""Of a float file's logits, times the greatest where that is over 1."""


@dataclass(frozen=True)
class Parity:
    """How exported files compare with PyTorch.

    Attributes:
        max_error: Greatest difference of a logit from PyTorch's float.
        agreement: Share of clips with the same top-1 as PyTorch's float; None for a float export.
        clips: Clips that were compared.
        held_out: Whether those clips were not calibrated on.
    """

    max_error: float
    agreement: float | None
    clips: int
    held_out: bool


@torch.no_grad()
def compare(
    module: ActionRecognizer,
    files: Mapping[str, Path],
    format: Format,
    kind: Kind,
    clips: Clips | None,
    state: list[np.ndarray[Any, Any]],
    dynamic: tuple[Dynamic, ...],
) -> Parity:
    """Run files and PyTorch on the same clips.

    Args:
        module: What was exported; it is left as it is.
        files: By part.
        format: Of the files.
        kind: How the network was cut.
        clips: Those that int8 was calibrated on, and those to compare; None for float, compared on random ones.
        state: What "stream" starts from.
        dynamic: Axes that stay open, each tried at another size.

    Raises:
        ConfigError: A file refuses an open axis, gives NaN, or differs though it is float.
    """
    graphs = {part: open_graph(path) for part, path in files.items()}
    heads = head_names(module)
    specs = [module.spec] if not isinstance(module.spec, Mapping) else list(module.spec.values())
    frames = specs[0].num_frames if specs[0] is not None else feature_frames(module)
    recognizer = Recognizer(graphs, kind, frames, heads, state)
    # Others than that which was traced.
    shown = clips.check if clips is not None else [example_video(module, seed=1), example_video(module, seed=2)]
    device = next(module.parameters()).device
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        errors, agreed, greatest = [], [], 0.0
        for clip in shown:
            expected = _logits(module, clip, device)
            given = _run(recognizer, graphs, _in_order(module, clip))
            for x, y in zip(given, expected, strict=True):
                errors.append(float(np.abs(x - y).max()))
                greatest = max(greatest, float(np.abs(y).max()))
            agreed.append(all((x.argmax(-1) == y.argmax(-1)).all() for x, y in zip(given, expected, strict=True)))
        for what, clip in _other_sizes(module, dynamic, frames):
            expected = _logits(module, clip, device)
            try:
                given = _run(recognizer, graphs, _in_order(module, clip))
            except Exception as error:  # the engine's own
                raise ConfigError(
                    f"the exported {format} graph does not take {what}, though the axis was to stay open: "
                    f"{reason(error)}. Leave it out of dynamic"
                ) from error
            for x, y in zip(given, expected, strict=True):
                if x.shape != y.shape:
                    raise ConfigError(f"the exported {format} graph gives logits {x.shape} of {what}, not {y.shape}")
                if clips is None or not np.isfinite(x).all():  # int8 logits of noise say nothing else
                    errors.append(float(np.abs(x - y).max()))
                    greatest = max(greatest, float(np.abs(y).max()))
    finally:
        for part, mode in modes.items():  # module.train() would wake those that were in eval mode alone
            part.training = mode
    worst = float(np.max(errors))  # unlike Python's max, NaN wherever one is
    if not np.isfinite(worst):
        raise ConfigError(f"the exported {format} graph gives NaN or infinite logits")
    if clips is None and worst > TOLERANCE * max(1.0, greatest):
        raise ConfigError(
            f"the exported {format} graph's logits differ from PyTorch's by {worst:.2e}; allowed are {TOLERANCE:.0e} "
            f"(logits reach {greatest:.1f}). An export leaves its files for inspection, a bundle none"
        )
    agreement = None if clips is None else float(np.mean(agreed))
    held_out = clips.held_out if clips is not None else True
    return Parity(worst, agreement, len(shown), held_out)


def _logits(module: ActionRecognizer, clip: Video, device: torch.device) -> list[np.ndarray[Any, Any]]:
    """PyTorch's, (B, K) of each head."""
    logits = module({k: v.to(device) for k, v in clip.items()} if isinstance(clip, Mapping) else clip.to(device))
    return [x.float().cpu().numpy() for x in (logits.values() if isinstance(logits, dict) else (logits,))]


def _other_sizes(module: ActionRecognizer, dynamic: tuple[Dynamic, ...], frames: int) -> Iterator[tuple[str, Video]]:
    """For each open axis a clip of another size than was traced, and its size in words."""
    if "batch" in dynamic:
        yield "a batch of 3", example_video(module, batch_size=3, seed=3)
    if "time" in dynamic:
        other = 2 * frames if frames <= MOST_FRAMES // 2 else frames // 2
        yield f"{other} frames", example_video(module, num_frames=other, seed=3)


def _in_order(module: ActionRecognizer, clip: Video) -> Video:
    """Of a dict the modalities that the graph takes, in its order."""
    return {name: clip[name] for name in module.spec} if isinstance(clip, Mapping) else clip  # type: ignore[union-attr]


def _run(recognizer: Recognizer, graphs: Mapping[str, Any], clip: Video) -> list[np.ndarray[Any, Any]]:
    """(B, K) of each head, the way the runtime does it, which takes one clip at a time from "frames" and "stream"."""
    if recognizer.kind == "clip":
        values = clip.values() if isinstance(clip, Mapping) else (clip,)
        out: list[np.ndarray[Any, Any]] = graphs["model"]([x.numpy() for x in values])
        return out
    assert isinstance(clip, Tensor)
    if clip.shape[0] > 1:
        features = [graphs["frame"]([frame.contiguous().numpy()])[0] for frame in clip.unbind(2)]
        out = graphs["head"]([np.stack(features, 1)])
        return out
    logits = recognizer.clip(clip[0].permute(1, 2, 3, 0).numpy())
    return [x[None] for x in logits.values()]
