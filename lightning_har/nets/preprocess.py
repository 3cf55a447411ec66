"""From uint8 clips to what a network eats, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_har.errors import ConfigError
from lightning_har.spec import InputSpec


def check_clip(clip: Tensor, spec: InputSpec) -> None:
    """Refuse what is not a clip of this modality.

    Args:
        clip: Meant to be (B, C, T, H, W).
        spec: Of the network.

    Raises:
        ConfigError: Naming the expected and the given rank or channel count.
    """
    if clip.ndim != 5:
        raise ConfigError(f"a clip is (B, C, T, H, W), rank 5; got rank {clip.ndim}, shape {tuple(clip.shape)}")
    if clip.shape[1] != spec.channels:
        raise ConfigError(
            f"this network takes {spec.modality} clips of {spec.channels} channels at dimension 1; "
            f"got {clip.shape[1]} in shape {tuple(clip.shape)}"
        )


def channels_last(x: Tensor) -> Tensor:
    """Put channels innermost, (N, C, H, W) or (N, C, T, H, W), where convolutions are faster; the values stay.

    Compilers choose the layout themselves, and ExecuTorch takes no other than its own: for them nothing is done.
    """
    if torch.compiler.is_compiling():
        return x
    return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)


def normalize(clip: Tensor, spec: InputSpec, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale and normalise a uint8 clip as an InputSpec says; a float clip passes as it is.

    Args:
        clip: (B, C, T, H, W), RGB or flow.
        spec: Value range, mean, std and channel order.
        dtype: Of the result.

    Returns:
        (B, C, T, H, W) in ``dtype``.

    Raises:
        ConfigError: An integer clip that is not uint8: its range is unknown.
    """
    if clip.is_floating_point():
        return clip.to(dtype)
    if clip.dtype != torch.uint8:
        raise ConfigError(f"an integer clip must be uint8 (0..255), got {clip.dtype}; scale it, or convert it")
    if spec.channel_order == "bgr" and spec.modality == "rgb":
        clip = clip.flip(1)
    low, high = spec.value_range
    # One multiply-add: ((u / 255) * (high - low) + low - mean) / std
    std = torch.tensor(spec.std, dtype=torch.float32, device=clip.device).view(1, -1, 1, 1, 1)
    mean = torch.tensor(spec.mean, dtype=torch.float32, device=clip.device).view(1, -1, 1, 1, 1)
    return torch.addcmul((low - mean) / std, clip.float(), (high - low) / 255 / std).to(dtype)
