"""Matrices as 8-bit codes with a scale for each row: a quarter of the bytes, in the same safetensors file.

A tensor ``x`` is stored as ``x``, int8, and ``x.scale``, float32, one for each row (output channel); its values are
codes × scale. A scale has at most 16 significant bits, so that these products are exact in float32: every machine
gets the same weights, and weights that were rounded once are not changed by being rounded again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_har.errors import WeightsError
from lightning_har.weights.in_place import Place, by_row

SCALE = ".scale"
_MOST = 127
"""Codes are symmetric: -127 to 127."""


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to the nearest of 255 equal steps.

    Args:
        weight: (K, ...), finite.

    Returns:
        Codes, int8 (K, ...), and scales, float32 (K,).

    Raises:
        WeightsError: A value is not finite.
    """
    rows = weight.detach().float().flatten(1)
    if not bool(rows.isfinite().all()):
        raise WeightsError("weights with NaN or infinite values cannot be stored in 8 bits")
    scale = rows.abs().amax(1) / _MOST
    # Up to the next float32 whose last 8 bits are zero.
    scale = ((scale.view(torch.int32) + 0xFF) & ~0xFF).view(torch.float32)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = (rows / scale[:, None]).round().clamp(-_MOST, _MOST).to(torch.int8)
    return codes.view(weight.shape), scale


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """Codes (K, ...) and scales (K,) to float32 (K, ...)."""
    return codes.float() * by_row(scale, codes.ndim)


def matrices(net: nn.Module) -> list[str]:
    """Names of what is stored in 8 bits: float parameters of two axes or more, as of linear layers and convolutions."""
    return [name for name, p in net.named_parameters() if p.ndim > 1 and p.is_floating_point()]


@torch.no_grad()
def round_weights(net: nn.Module) -> None:
    """Give a network the weights that it will have when it was stored in 8 bits.

    Raises:
        WeightsError: It has no float matrices, or values that are not finite.
    """
    names = matrices(net)
    if not names:
        raise WeightsError(f"{type(net).__name__} has no float matrices to store in 8 bits")
    for name in names:
        weight = net.get_parameter(name)
        weight.copy_(dequantize(*quantize(weight)))


def stored(net: nn.Module) -> dict[str, Tensor]:
    """A network's state dict with its matrices in 8 bits, and their scales."""
    state: dict[str, Tensor] = dict(net.state_dict())
    for name in matrices(net):
        state[name], state[f"{name}{SCALE}"] = quantize(state[name])
    return state


def join_scales(places: Mapping[str, Place], what: str) -> dict[str, Place]:
    """A file's tensors, those in 8 bits with their scales.

    Args:
        places: As ``in_place.read_places`` found them, where a scale is a tensor like another.
        what: What the weights are, to begin an error with.

    Raises:
        WeightsError: Scales that do not fit their tensor.
    """
    joined = dict(places)
    for name, place in places.items():
        scale = places.get(f"{name}{SCALE}") if place.dtype is torch.int8 else None
        if scale is None:
            continue
        if scale.dtype is not torch.float32 or scale.shape != place.shape[:1]:
            raise WeightsError(
                f"{what}: {name}{SCALE} is {scale.dtype} {scale.shape}; {name}, in 8 bits, needs float32 "
                f"{place.shape[:1]}. Fetch it again"
            )
        joined[name] = place._replace(scale=scale)
        del joined[f"{name}{SCALE}"]
    return joined
