"""Fewer channels inside MobileNetV2's blocks: a smaller backbone of the same shape outside.

Only the hidden channels of inverted residuals go, between widening and projection: nothing else reads them, so that
every other layer stays as it is. What a hidden channel matters is what it adds to the block's output on real frames
(its mean magnitude times its projection's weights), and what it adds on the mean goes into the projection's bias.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError

MULTIPLE = 8
"""Channels are kept in eights, which engines compute at once."""


@torch.no_grad()
def prune(backbone: nn.Module, share: float, frames: Iterable[Tensor]) -> nn.Module:
    """A copy of a backbone with a share of each inverted residual's hidden channels taken out.

    Train it on afterwards; the weights that are left do not make up for much by themselves. A checkpoint of the result
    fits only a network that was pruned in the same way.

    Args:
        backbone: With inverted residuals as timm's MobileNetV2 has them.
        share: Of the hidden channels of each block, 0 to 1; what is left is rounded to a multiple of 8.
        frames: Normalised images (N, C, H, W), to see which channels matter.

    Returns:
        The smaller network, in the mode of the given one.

    Raises:
        ConfigError: No inverted residuals, no frames, or a share outside 0..1.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"share is {share}; give the part of the hidden channels to take out, 0 to below 1")
    smaller = copy.deepcopy(backbone)
    blocks: list[Any] = [m for m in smaller.modules() if _is_inverted_residual(m)]
    if not blocks:
        raise ConfigError(
            f"{type(backbone).__name__} has no inverted residuals to prune; that takes a MobileNetV2 of timm's"
        )
    sums: dict[nn.Module, Tensor] = {}
    magnitudes: dict[nn.Module, Tensor] = {}
    count = 0

    def see(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].float()
        sums[layer] = sums.get(layer, 0) + x.mean((2, 3)).sum(0)
        magnitudes[layer] = magnitudes.get(layer, 0) + x.abs().mean((2, 3)).sum(0)

    handles = [block.conv_pwl.register_forward_pre_hook(see) for block in blocks]
    training = {m: m.training for m in smaller.modules()}
    smaller.eval()
    for images in frames:
        smaller(images)
        count += len(images)
    for handle in handles:
        handle.remove()
    if not count:
        raise ConfigError("pruning needs frames, to see which channels matter; there are none")
    for block in blocks:
        weight = block.conv_pwl.weight
        matter = magnitudes[block.conv_pwl] * weight.abs().flatten(1).sum(0)
        left = round(len(matter) * (1 - share) / MULTIPLE) * MULTIPLE
        keep = matter.topk(min(max(left, MULTIPLE), len(matter))).indices.sort().values
        gone = torch.ones_like(matter, dtype=torch.bool)
        gone[keep] = False
        _narrow(block, keep, weight.flatten(1)[:, gone] @ (sums[block.conv_pwl][gone] / count))
    for module, mode in training.items():
        module.training = mode
    return smaller


def _is_inverted_residual(module: nn.Module) -> bool:
    parts = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    squeezes = not isinstance(getattr(module, "se", nn.Identity()), nn.Identity)
    return all(isinstance(getattr(module, part, None), nn.Module) for part in parts) and not squeezes


def _narrow(block: Any, keep: Tensor, mean: Tensor) -> None:
    def parameter(x: Tensor, like: Tensor) -> nn.Parameter:
        return nn.Parameter(x.clone(), requires_grad=like.requires_grad)

    for conv in (block.conv_pw, block.conv_dw):
        conv.weight = parameter(conv.weight[keep], conv.weight)
        if conv.bias is not None:
            conv.bias = parameter(conv.bias[keep], conv.bias)
        conv.out_channels = len(keep)
    block.conv_dw.in_channels = block.conv_dw.groups = len(keep)
    for norm in (block.bn1, block.bn2):
        norm.weight, norm.bias = parameter(norm.weight[keep], norm.weight), parameter(norm.bias[keep], norm.bias)
        norm.running_mean, norm.running_var = norm.running_mean[keep].clone(), norm.running_var[keep].clone()
        norm.num_features = len(keep)
    project, norm = block.conv_pwl, block.bn3
    project.weight = parameter(project.weight[:, keep], project.weight)
    project.in_channels = len(keep)
    # The projection has no bias of its own; the norm behind it takes the mean off what it sees.
    norm.running_mean -= mean
