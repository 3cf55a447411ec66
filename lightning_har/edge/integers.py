"""Study E's quantized MobileNetV2 in ONNX's own integer operators: an engine sums the same codes as PyTorch does.

``nets.backbones.mobilenetv2_quant`` computes with codes that travel as float32. Written down like that the graph would
be slow and four times as large; here each of its layers becomes the operator that takes codes, weights and zero points
as they are, so that nothing is rounded anew and nothing is calibrated.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError
from lightning_har.nets.backbones.mobilenetv2_quant import QuantizedAdd, QuantizedConv2d, QuantizedMobileNetV2


def integer_operators(net: nn.Module) -> nn.Module:
    """A copy to be traced for ONNX, and for nothing else; the network itself where it holds no quantized MobileNetV2.

    Args:
        net: With a backbone that takes pixels (N, 3, H, W) and gives float32 features (N, 1280) or maps of codes
            (N, 1280, H / 32, W / 32); so does the copy's.

    Raises:
        ConfigError: This torch cannot write ONNX's operators by name; a layer ends its codes before 0 and 255.
    """
    if not any(isinstance(m, QuantizedMobileNetV2) for m in net.modules()):
        return net
    if not hasattr(torch.onnx, "ops"):
        raise ConfigError(f"torch {torch.__version__} cannot export 'mobilenetv2_quant' to ONNX; torch 2.8 can")
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, QuantizedConv2d):
                setattr(parent, name, _Convolution(layer))
            elif isinstance(layer, QuantizedAdd):
                setattr(parent, name, _Addition(layer))
    for module in list(net.modules()):
        if isinstance(module, QuantizedMobileNetV2):
            module.net = nn.Sequential(*module.net.children(), _FromCodes())
    return net


class _FromCodes(nn.Module):
    """Codes as real numbers: the mean over them is not rounded to a code."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.zero = _scale(1), _zero(0)

    def forward(self, x: Tensor) -> Tensor:
        return _operator("DequantizeLinear", (x, self.scale, self.zero), torch.float32, x.shape)


class _Convolution(nn.Module):
    """Reals are counted in codes: input and output have a scale of 1, the weights that by which sums are multiplied."""

    def __init__(self, layer: QuantizedConv2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.groups, self.padding = layer.kernel, layer.stride, layer.groups, layer.padding
        if layer.limits.tolist() != [0, 255]:
            raise ConfigError(
                f"a convolution of 'mobilenetv2_quant' gives codes of {layer.limits.tolist()} alone, which ONNX cannot "
                "say; take the same weights by backbone='mobilenetv2_100.tflite'"
            )
        source, filters, out = layer.zero_points.tolist()
        self.one, self.scale = _scale(1), _scale(layer.multiplier_bits.view(torch.float32))
        self.zero_source, self.zero_out = _zero(source), _zero(out)
        # Weights moved by 128, to have a sign, would be quicker where a processor has VNNI; on others of its family the
        # sums of such products are cut off at 16 bits.
        self.weight, self.zero_weight = nn.Buffer(layer.weight.clone()), _zero(filters)
        self.bias = nn.Buffer(layer.bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        top, bottom = self.padding(height)
        left, right = self.padding(width)
        weight = (self.weight, self.scale, self.zero_weight)
        return _operator(
            "QLinearConv",
            (x.to(torch.uint8), self.one, self.zero_source, *weight, self.one, self.zero_out, self.bias),
            torch.uint8,
            (batch, len(self.weight), -(-height // self.stride), -(-width // self.stride)),
            kernel_shape=[self.kernel] * 2,
            strides=[self.stride] * 2,
            pads=[top, left, bottom, right],
            group=self.groups,
        )


class _Addition(nn.Module):
    """An addition of reals between codes, which ONNX Runtime runs in integers."""

    def __init__(self, layer: QuantizedAdd) -> None:
        super().__init__()
        factors = layer.factors.double() / 2 ** int(layer.shift)
        self.scale_branch, self.scale_skip, self.one = _scale(factors[0]), _scale(factors[1]), _scale(1)
        self.zero_branch, self.zero_skip, self.zero_out = (_zero(z) for z in layer.zero_points.tolist())

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        shape = branch.shape
        one = _operator("DequantizeLinear", (branch, self.scale_branch, self.zero_branch), torch.float32, shape)
        other = _operator("DequantizeLinear", (skip, self.scale_skip, self.zero_skip), torch.float32, shape)
        return _operator("QuantizeLinear", (one + other, self.one, self.zero_out), torch.uint8, shape)


def _scale(value: float | Tensor) -> nn.Buffer:
    return nn.Buffer(torch.as_tensor(value, dtype=torch.float32).clone())


def _zero(value: int) -> nn.Buffer:
    return nn.Buffer(torch.tensor(value, dtype=torch.uint8))


def _operator(
    name: str, inputs: tuple[Tensor, ...], dtype: torch.dtype, shape: Sequence[int], **attributes: Any
) -> Tensor:
    out: Tensor = torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=shape)
    return out
