"""What a channel looks for: pictures that excite it most, found by gradient ascent.

Source: Erhan et al., "Visualizing Higher-Layer Features of a Deep Network", 2009 (activation maximisation); Olah,
Mordvintsev and Schubert, "Feature Visualization", Distill 2017 (the spectrum as parameters, jitter as regularisation).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError
from lightning_har.nets.backbones import Backbone

STUDY_C_BLOCKS = (1, 4, 8, 12)
"""Blocks of MobileNetV2 that study C's figure 5 shows."""


def mobilenetv2_block(number: int) -> str:
    """The timm name of a MobileNetV2's inverted residual block.

    Counted as Keras does, from 0: study C's network is Keras's.

    Args:
        number: 0 to 16.

    Returns:
        Such as "blocks.2.1" for block 4.

    Raises:
        ConfigError: No such block.

    Examples:
        >>> [mobilenetv2_block(number) for number in STUDY_C_BLOCKS]
        ['blocks.1.0', 'blocks.2.1', 'blocks.3.2', 'blocks.4.2']
    """
    rest = number
    for stage, repeats in enumerate((1, 2, 3, 4, 3, 3, 1)):  # Sandler et al. 2018, table 2
        if 0 <= rest < repeats:
            return f"blocks.{stage}.{rest}"
        rest -= repeats
    raise ConfigError(f"MobileNetV2 has no block {number}; its blocks are 0 to 16")


STUDY_C_LAYERS = tuple(mobilenetv2_block(number) for number in STUDY_C_BLOCKS)


def maximize_activation(
    backbone: Backbone,
    layer: str,
    channels: Sequence[int],
    *,
    size: int = 96,
    steps: int = 96,
    seed: int = 0,
) -> Tensor:
    """Pictures that maximise the mean activation of channels.

    Args:
        backbone: A 2D network from ``build_backbone``; run in eval mode, and left as it was.
        layer: Name of a submodule of ``backbone.net``, whose output is (N, C, h, w).
        channels: One picture for each.
        size: Height and width in pixels.
        steps: Of the ascent (Adam, learning rate 0.05).
        seed: Of the first noise and the jitter; the same seed gives the same pictures on one machine.

    Returns:
        (N, 3, size, size) float in [0, 1], RGB.

    Raises:
        ConfigError: No such layer or channel; a layer without a map; a backbone of other than 3 channels, or one
            without a gradient (in integers).
    """
    net = backbone.net
    assert isinstance(net, nn.Module)
    try:
        part = net.get_submodule(layer)
    except AttributeError:
        near = difflib.get_close_matches(layer, [n for n, _ in net.named_modules()], 4)
        raise ConfigError(f"{backbone.name} has no layer {layer!r}; nearest: {', '.join(near) or 'none'}") from None
    device = next(iter([*backbone.parameters(), *backbone.buffers()])).device
    generator = torch.Generator().manual_seed(seed)
    frequencies = (torch.fft.fftfreq(size)[:, None] ** 2 + torch.fft.rfftfreq(size)[None] ** 2).sqrt()
    scale = (1 / frequencies.clamp_min(1 / size)).to(device)  # natural pictures' spectrum falls as 1 / f
    spectrum = 0.01 * torch.randn(len(channels), 3, *frequencies.shape, 2, generator=generator)
    spectrum = spectrum.to(device).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=0.05)
    outputs: list[Tensor] = []

    def stop(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(output)
        raise _Reached  # nothing after the layer matters

    hook = part.register_forward_hook(stop)
    parts = list(backbone.modules())
    training = [one.training for one in parts]
    backbone.eval()
    try:
        for _ in range(steps):
            outputs.clear()
            picture = _picture(spectrum, scale, size)
            shift = torch.randint(-8, 9, (2,), generator=generator).tolist()
            with contextlib.suppress(_Reached):
                backbone.forward_map(_normalized(picture.roll(shift, (2, 3)), backbone))
            activation = _mean_activation(outputs, channels, layer)
            if not activation.requires_grad:
                raise ConfigError(f"no gradient passes through {backbone.name}: it computes in integers")
            spectrum.grad = torch.autograd.grad(-activation, spectrum)[0]
            optimizer.step()
    finally:
        hook.remove()
        for one, mode in zip(parts, training, strict=True):
            one.training = mode
    return _picture(spectrum.detach(), scale, size).cpu()


def save_features(
    backbone: Backbone,
    path: str | Path,
    layers: Sequence[str] = STUDY_C_LAYERS,
    *,
    channels: int = 6,
    size: int = 96,
    steps: int = 96,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw what the first channels of some layers look for, a row a layer: study C's figure 5 by default.

    Args:
        backbone: A 2D network.
        path: PNG to write.
        layers: Names of submodules of ``backbone.net``; by default blocks 1, 4, 8 and 12 of a MobileNetV2.
        channels: Pictures of each layer.
        size: See ``maximize_activation``.
        steps: Likewise.
        titles: What is written above the rows; None writes the layers' names.

    Raises:
        ConfigError: See ``maximize_activation``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [maximize_activation(backbone, layer, range(channels), size=size, steps=steps) for layer in layers]
    figure = Figure(figsize=(1.4 * channels, 1.7 * len(rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(len(rows), 1, squeeze=False)
    for panel, pictures, title in zip(panels[:, 0], rows, titles or layers, strict=True):
        panel.suptitle(title, fontsize=10)
        for axes, picture in zip(panel.subplots(1, channels, squeeze=False)[0], pictures, strict=True):
            axes.imshow(picture.permute(1, 2, 0).numpy())
            axes.set_axis_off()
    figure.savefig(path)


class _Reached(Exception):
    """The layer has given its output."""


def _picture(spectrum: Tensor, scale: Tensor, size: int) -> Tensor:
    picture = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(size, size), norm="ortho")
    return torch.sigmoid(picture)


def _normalized(picture: Tensor, backbone: Backbone) -> Tensor:
    low, high = backbone.value_range
    mean = picture.new_tensor(backbone.mean).view(1, -1, 1, 1)
    std = picture.new_tensor(backbone.std).view(1, -1, 1, 1)
    picture = picture.flip(1) if backbone.channel_order == "bgr" else picture
    return (picture * (high - low) + low - mean) / std


def _mean_activation(outputs: list[Tensor], channels: Sequence[int], layer: str) -> Tensor:
    if not outputs or not isinstance(outputs[-1], Tensor) or outputs[-1].ndim != 4:
        raise ConfigError(f"layer {layer} gives no maps (N, C, h, w); give a convolutional one")
    maps = outputs[-1]
    if not 0 <= min(channels) <= max(channels) < maps.shape[1]:
        raise ConfigError(f"layer {layer} has channels 0 to {maps.shape[1] - 1}; asked for {list(channels)}")
    return torch.stack([maps[i, channel].mean() for i, channel in enumerate(channels)]).sum()
