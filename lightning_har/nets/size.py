"""How large a network is."""

from __future__ import annotations

from torch import nn

from lightning_har.nets.backbones.mobilenetv2_quant import QuantizedConv2d


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """All parameters and the trainable ones; a shared one counts once.

    The integer weights and biases of a quantized network count as frozen ones, though PyTorch keeps them as buffers;
    those of the ImageNet classifier that it carries too.

    Returns:
        (all, with ``requires_grad``).
    """
    parameters = list(module.parameters())
    quantized = [m for m in module.modules() if isinstance(m, QuantizedConv2d)]
    parameters_and_codes = [*parameters, *(t for m in quantized for t in (m.weight, m.bias))]
    return sum(p.numel() for p in parameters_and_codes), sum(p.numel() for p in parameters if p.requires_grad)
