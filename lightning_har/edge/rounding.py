"""Weights onto their int8 grids, after training, the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""What has weights in int8."""

_STEPS_PER_CHANNEL = 264
"""Step widths that are tried for each output channel: from 0.7 to 2 times its greatest weight / 127, each 0.4 % wider
than the last, so that weights which already lie on a grid of up to 127 codes are found to."""

_WEIGHTS_LOOKED_AT = 256
"""Of each channel, evenly spread, to choose its step by; and its greatest."""


def weight_scales(weight: Tensor) -> Tensor:
    """The int8 step of each output channel that loses least, in squares; codes are -127..127, without a zero point.

    Weights that come from 8 bits, or were trained with rounding, keep their grid and lose nothing; the greatest weight
    over 127, as quantizers take it, would move nearly all of them by up to half a step.

    Args:
        weight: (O, ...).

    Returns:
        (O,), float32.
    """
    flat = weight.detach().float().flatten(1)
    # A dead channel's step must not be so small that its bias leaves int32.
    greatest = flat.abs().amax(1).clamp_min(max(float(flat.abs().amax()) * 1e-4, 1e-12))
    if flat.shape[1] > _WEIGHTS_LOOKED_AT:
        most = flat.gather(1, flat.abs().argmax(1, keepdim=True))
        flat = torch.cat((flat[:, :: -(-flat.shape[1] // _WEIGHTS_LOOKED_AT)], most), 1)
    scales = torch.empty_like(greatest)
    for part in torch.arange(len(flat)).split(max(1, 2**16 // flat.shape[1])):  # stays in the processor's cache
        scales[part] = _search(flat[part], greatest[part] / 127)
    return scales


def _search(flat: Tensor, usual: Tensor) -> Tensor:
    best, scales = torch.full_like(usual, torch.inf), usual
    for width in torch.logspace(math.log10(0.7), math.log10(2.0), _STEPS_PER_CHANNEL).tolist():
        step = usual * width
        codes = (flat / step[:, None]).round_().clamp_(-127, 127)
        # With the codes fixed, the step of least squares.
        step = torch.where(codes.any(1), (codes * flat).sum(1) / codes.square().sum(1).clamp_min(1), step)
        error = codes.mul_(step[:, None]).sub_(flat).square().sum(1)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, step, scales)
    return scales


@torch.no_grad()
def round_and_correct_bias(net: nn.Module, inputs: Iterable[tuple[Tensor, ...]]) -> None:
    """Put the weights of convolutions and linear layers on their int8 grids, in place, and mend the biases.

    Rounding moves the mean of an output channel, most where a channel has few weights: depthwise ones have nine. What
    it moves on the calibration data is taken off the bias (Nagel et al. 2019, section 4.2).

    Args:
        net: In eval mode.
        inputs: Calibration values.
    """
    sums: dict[nn.Module, Tensor] = {}
    counts: dict[nn.Module, int] = {}

    def see(layer: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach().float()
        x = x.flatten(0, -2) if isinstance(layer, nn.Linear) else x.transpose(0, 1).flatten(1).T
        sums[layer] = sums.get(layer, 0) + x.sum(0)
        counts[layer] = counts.get(layer, 0) + x.shape[0]

    layers = [m for m in net.modules() if isinstance(m, LAYERS)]
    handles = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        for values in inputs:
            net(*values)
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if layer not in sums:
            continue
        scales = weight_scales(layer.weight).view(-1, *[1] * (layer.weight.ndim - 1))
        rounded = (layer.weight / scales).round().clamp(-127, 127) * scales
        moved = (rounded - layer.weight).flatten(2).sum(2) if layer.weight.ndim > 2 else rounded - layer.weight
        groups = getattr(layer, "groups", 1)
        mean = (sums[layer] / counts[layer]).view(groups, -1).repeat_interleave(moved.shape[0] // groups, 0)
        shift = (moved * mean).sum(1)
        layer.weight = nn.Parameter(rounded, requires_grad=False)
        layer.bias = nn.Parameter(-shift if layer.bias is None else layer.bias - shift, requires_grad=False)
