"""Training aids that the steps share: mixing of clips, distillation, recomputed activations."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_har.errors import ConfigError
from lightning_har.types import Logits, Video

Label = Tensor | Mapping[str, Tensor]


def mix(video: Video, label: Label, mixup: float, cutmix: float) -> tuple[Video, Label | None, float]:
    """Mix every clip of a batch with another: mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    Args:
        video: (B, C, T, H, W) float, a dict of such (mixed alike), or features (B, T, D), which know no CutMix.
        label: (B,), or by head.
        mixup: Alpha of the beta distribution of the share; 0 for none.
        cutmix: Likewise; the box is cut from all frames.

    Returns:
        The mixed clips; the labels of the clips mixed in (None where nothing was mixed); the share of the first.
    """
    if not mixup and not cutmix:
        return video, None, 1.0
    clips = list(video.values()) if isinstance(video, Mapping) else [video]
    cut = bool(cutmix) and clips[0].ndim == 5 and (not mixup or bool(torch.rand(()) < 0.5))
    alpha = cutmix if cut else mixup
    if not alpha:
        return video, None, 1.0
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(clips[0].shape[0])
    if cut:
        side, center = (1 - share) ** 0.5, torch.rand(2).tolist()
        low = [max(0.0, c - side / 2) for c in center]
        high = [min(1.0, c + side / 2) for c in center]
        mixed = []
        for clip in clips:
            height, width = clip.shape[-2:]
            top, left, bottom, right = (
                round(low[0] * height),
                round(low[1] * width),
                round(high[0] * height),
                round(high[1] * width),
            )
            clip = clip.clone()
            clip[..., top:bottom, left:right] = clip[order.to(clip.device)][..., top:bottom, left:right]
            mixed.append(clip)
        # The share of the area that is left, of the first clip where sizes differ.
        height, width = clips[0].shape[-2:]
        box = (round(high[0] * height) - round(low[0] * height)) * (round(high[1] * width) - round(low[1] * width))
        share = 1 - box / (height * width)
    else:
        mixed = [torch.lerp(clip[order.to(clip.device)], clip, share) for clip in clips]
    out: Video = dict(zip(video, mixed, strict=True)) if isinstance(video, Mapping) else mixed[0]
    other: Label = (
        {h: y[order.to(y.device)] for h, y in label.items()}
        if isinstance(label, Mapping)
        else label[order.to(label.device)]
    )
    return out, other, share


def distillation(student: Logits, teacher: Logits, temperature: float) -> Tensor:
    """Divergence of the student's softened predictions from the teacher's (Hinton et al. 2015, section 2).

    Args:
        student: (B, K), or by head; the heads are summed.
        teacher: The same.
        temperature: Both are divided by it; the result is multiplied by its square, which keeps gradients' size.

    Returns:
        A scalar.
    """
    if isinstance(student, dict) and isinstance(teacher, dict):
        return torch.stack([distillation(student[h], teacher[h], temperature) for h in student]).sum()
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    divergence = F.kl_div(
        (student.float() / temperature).log_softmax(1),
        (teacher.float() / temperature).log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    return divergence * temperature**2


def recompute(net: nn.Module, stages: Sequence[str]) -> None:
    """Have submodules compute their activations again in the backward pass instead of keeping them.

    Args:
        net: Changed in place; names in its state dict stay.
        stages: Names as in ``net.named_modules()``.

    Raises:
        ConfigError: No submodule of that name.
    """
    modules = dict(net.named_modules())
    for name in stages:
        if name not in modules:
            raise ConfigError(f"checkpoint_stages: the network has no submodule {name!r}; see net.named_modules()")
        stage = modules[name]
        stage.forward = functools.partial(checkpoint, stage.forward, use_reentrant=False)  # type: ignore[method-assign]
