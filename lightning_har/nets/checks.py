"""What every network asks of its input, said once and clearly."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_har.errors import ConfigError


def check_clip(video: Tensor, *, channels: int, min_frames: int, min_size: int, name: str) -> None:
    """Refuse a clip that the network cannot take, before a convolution refuses it in its own words.

    Args:
        video: The clip, expected float (B, C, T, H, W).
        channels: C that the first layer was built for.
        min_frames: Least T; below it some layer would be left without a frame.
        min_size: Least H and W.
        name: The network, for the message.

    Raises:
        ConfigError: Wrong rank, wrong channel count, integer values, or a clip too short or too small.
    """
    if torch.compiler.is_compiling():  # symbolic sizes: comparing them would pin the exported graph to one size
        return
    shape = tuple(video.shape)
    if video.ndim != 5:
        raise ConfigError(
            f"{name} takes a clip of rank 5, (B, C, T, H, W); got rank {video.ndim}, {shape}. "
            "Fold views into the batch first; a single frame needs a time axis."
        )
    if not video.is_floating_point():
        raise ConfigError(
            f"{name} takes float values already scaled; got {video.dtype}. "
            "Scale the clip by its InputSpec (a module does this by itself)."
        )
    if shape[1] != channels:
        raise ConfigError(
            f"{name} was built for {channels} channels; the clip {shape} has {shape[1]} on axis 1. "
            "RGB has 3, optical flow 2: choose the modality to match, or build with in_channels="
            f"{shape[1]}."
        )
    if shape[2] < min_frames:
        raise ConfigError(
            f"{name} needs at least {min_frames} frames; the clip {shape} has {shape[2]} on axis 2. "
            "Sample more frames per clip."
        )
    if min(shape[3:]) < min_size:
        raise ConfigError(
            f"{name} needs at least {min_size}×{min_size} pixels; the clip {shape} has {shape[3]}×{shape[4]}."
        )


def check_images(images: Tensor, *, channels: int, name: str) -> None:
    """Refuse a batch of images that a 2D network cannot take.

    Args:
        images: Expected float (N, C, H, W).
        channels: C that the first layer was built for.
        name: The network, for the message.

    Raises:
        ConfigError: Wrong rank, wrong channel count or integer values.
    """
    if torch.compiler.is_compiling():
        return
    shape = tuple(images.shape)
    if images.ndim != 4:
        raise ConfigError(f"{name} takes images of rank 4, (N, C, H, W); got rank {images.ndim}, {shape}.")
    if not images.is_floating_point():
        raise ConfigError(f"{name} takes float values already scaled; got {images.dtype}.")
    if shape[1] != channels:
        raise ConfigError(f"{name} was built for {channels} channels; the images {shape} have {shape[1]}.")
