"""Study E's frame features: MobileNetV2 1.0 in the 8-bit integers it was published in.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(2018): every activation and weight is a code of 0..255 with a scale and a zero point, real = scale × (code - zero
point). A convolution sums products of codes exactly, multiplies by input scale × weight scale / output scale,
rounds, and clamps. Here codes travel as float32 whole numbers, so that PyTorch's convolutions do the sums, and
the rounding is that of XNNPACK, which TensorFlow Lite runs on: float32, half to even.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.backbones import Backbone
from lightning_har.weights.matching import strict_load
from lightning_har.weights.mobilenetv2_tflite import convolutions, filter_order
from lightning_har.weights.tflite import Operator, Quantization, TFLiteModel, TFLiteTensor, read_tflite

URL = (
    "https://raw.githubusercontent.com/google-coral/test_data/104342d2d3480b3e66203073dac24f4e2dbb4c41/"
    "mobilenet_v2_1.0_224_quant.tflite"
)
GIT_BLOB_SHA1 = "03533c32dacc1456ff3fe951ebdd5b967ce9e6a0"

_EXACT_FLOAT32 = 2**24
"""Whole numbers up to here are float32's own, and sums that stay below are exact in any order."""


class QuantizedConv2d(nn.Module):
    """A convolution on codes, with TensorFlow's 'SAME' padding.

    All state is integer, so that ``module.half()`` or a bf16 Trainer leaves it alone; scales are kept as the
    bits of a float32.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the filter.
        stride: In both directions.
        depthwise: One filter per channel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, depthwise: bool = False
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.groups = in_channels if depthwise else 1
        shape = (out_channels, in_channels // self.groups, kernel, kernel)
        self.weight: Tensor
        self.bias: Tensor
        self.zero_points: Tensor
        self.multiplier_bits: Tensor
        self.limits: Tensor
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.uint8))
        self.register_buffer("bias", torch.zeros(out_channels, dtype=torch.int32))
        self.register_buffer("zero_points", torch.zeros(3, dtype=torch.int32))  # input, weight, output
        self.register_buffer("multiplier_bits", torch.zeros((), dtype=torch.int32))
        self.register_buffer("limits", torch.tensor([0, 255], dtype=torch.int32))
        self.precision = torch.float32
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    def choose_precision(self) -> None:
        """Sum in float64 where a sum of this layer's weights could leave float32's exact whole numbers."""
        zero_input, zero_weight, _ = self.zero_points.tolist()
        widest = max(zero_input, 255 - zero_input)
        weights = (self.weight.long() - zero_weight).abs().flatten(1).sum(1)
        bound = (widest * weights + self.bias.long().abs()).max().item()
        self.precision = torch.float32 if bound < _EXACT_FLOAT32 else torch.float64

    def forward(self, x: Tensor) -> Tensor:
        """Codes (N, C, H, W) to codes (N, C', H / stride, W / stride), rounded up; float32 whole numbers."""
        zero_input, zero_weight, zero_output = self.zero_points.to(self.precision).unbind()
        x = x.to(self.precision) - zero_input
        if self.kernel > 1:
            x = F.pad(x, self.padding(x.shape[3]) + self.padding(x.shape[2]))
        weight = self.weight.to(self.precision) - zero_weight
        total = F.conv2d(x, weight, self.bias.to(self.precision), self.stride, groups=self.groups)
        codes = (total.float() * self.multiplier_bits.view(torch.float32)).round() + zero_output.float()
        low, high = self.limits.float().unbind()
        return codes.clamp(low, high)

    def padding(self, size: int) -> tuple[int, int]:
        """TensorFlow's 'SAME', before and after, for a side of this many pixels."""
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class QuantizedAdd(nn.Module):
    """The sum of two tensors of codes, with XNNPACK's fixed-point factors.

    Each input is multiplied by its scale over the output's, as a whole number of 2^-shift, the larger of the
    two with 21 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.factors: Tensor
        self.zero_points: Tensor
        self.shift: Tensor
        self.register_buffer("factors", torch.zeros(2, dtype=torch.int32))
        self.register_buffer("zero_points", torch.zeros(3, dtype=torch.int32))  # branch, skip, output
        self.register_buffer("shift", torch.ones((), dtype=torch.int32))

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        """Two code tensors (N, C, H, W) to one; float32 whole numbers."""
        zero_branch, zero_skip, zero_output = self.zero_points.unbind()
        total = (branch.int() - zero_branch) * self.factors[0] + (skip.int() - zero_skip) * self.factors[1]
        half = torch.bitwise_left_shift(torch.ones_like(self.shift), self.shift - 1)
        codes = torch.bitwise_right_shift(total + half, self.shift) + zero_output
        return codes.clamp(0, 255).float()


class QuantizedBlock(nn.Module):
    """MobileNetV2's inverted residual: widen (not in the first block), depthwise, narrow, add."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        self.expand = QuantizedConv2d(in_channels, hidden) if expand > 1 else nn.Identity()
        self.depthwise = QuantizedConv2d(hidden, hidden, kernel=3, stride=stride, depthwise=True)
        self.project = QuantizedConv2d(hidden, out_channels)
        self.add = QuantizedAdd() if stride == 1 and in_channels == out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Codes to codes."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y if self.add is None else self.add(y, x)


class QuantizedMobileNetV2(Backbone):
    """MobileNetV2 1.0 with the codes, scales and zero points of its .tflite file; frozen by nature.

    It eats pixels 0..255 as they are, so its preprocessing is ``value_range`` (0, 255), mean 0, std 1.

    Args:
        dequantize: Features are real values: codes times their scale. Otherwise, as in study E, codes divided
            by 255.
    """

    def __init__(self, dequantize: bool = False) -> None:
        blocks: list[nn.Module] = [QuantizedConv2d(3, 32, kernel=3, stride=2)]
        channels = 32
        # expansion t, channels c, blocks n, stride s: table 2 of Sandler et al. (2018)
        for t, c, n, s in [
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
            (6, 320, 1, 1),
        ]:  # fmt: skip
            for block in range(n):
                blocks.append(QuantizedBlock(channels, c, s if block == 0 else 1, t))
                channels = c
        blocks.append(QuantizedConv2d(channels, 1280))
        super().__init__(nn.Sequential(*blocks), "mobilenetv2_quant", 1280, (224, 224))
        self.value_range, self.mean, self.std = (0.0, 255.0), (0.0,), (1.0,)
        self.dequantize = dequantize
        self.classifier = QuantizedConv2d(1280, 1001)
        self.scale_bits: Tensor
        self.zero_points: Tensor
        self.register_buffer("scale_bits", torch.zeros(2, dtype=torch.int32))  # features, logits
        self.register_buffer("zero_points", torch.zeros(2, dtype=torch.int32))

    @classmethod
    def from_tflite(cls, path: str | Path, *, dequantize: bool = False) -> QuantizedMobileNetV2:
        """Build the network with a file's weights.

        Raises:
            WeightsError: The file is damaged, another network, or quantized in another way.
        """
        net = cls(dequantize)
        strict_load(net, quantized_state_dict(path), what=str(path))
        return net

    def forward_map(self, x: Tensor) -> Tensor:
        """Pixels (N, 3, H, W), uint8 or float 0..255, to codes (N, 1280, H / 32, W / 32), float32."""
        if x.ndim != 4 or x.shape[1] != 3:
            raise ConfigError(f"expected pixels (N, 3, H, W), got {tuple(x.shape)}")
        with torch.autocast(x.device.type, enabled=False):
            maps: Tensor = self.net(x.float().round().clamp(0, 255))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) to features (N, 1280): codes averaged over the map, divided by 255 (study E)."""
        codes = self.forward_map(x).mean((2, 3))
        if self.dequantize:
            return (codes - self.zero_points[0]) * self.scale_bits.view(torch.float32)[0]
        return codes / 255

    def logits(self, x: Tensor) -> Tensor:
        """Pixels (N, 3, H, W) to dequantized logits (N, 1001), ImageNet's classes after a background class."""
        means = self.forward_map(x).mean((2, 3), keepdim=True)
        with torch.autocast(x.device.type, enabled=False):
            # TensorFlow Lite's pooling rounds halves up, where its convolutions round them to even.
            codes = self.classifier((means + 0.5).floor()).flatten(1)
        real: Tensor = (codes - self.zero_points[1]) * self.scale_bits.view(torch.float32)[1]
        return real


def mobilenetv2_quant(pretrained: bool | str | Path = True) -> QuantizedMobileNetV2:
    """The network, with published weights, a file's, or none.

    Args:
        pretrained: True fetches the published file; a path reads a .tflite file; False leaves all codes 0.

    Raises:
        WeightsError: The file cannot be fetched or is not this network.
    """
    if not isinstance(pretrained, bool):
        return QuantizedMobileNetV2.from_tflite(pretrained)
    if not pretrained:
        return QuantizedMobileNetV2()
    from lightning_har.weights.fetch import fetch

    return QuantizedMobileNetV2.from_tflite(fetch(URL, git_blob_sha1=GIT_BLOB_SHA1))


def quantized_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The integers of a quantized MobileNetV2 .tflite file, by the names of ``QuantizedMobileNetV2``.

    Raises:
        WeightsError: The file is damaged, another network, or quantized in another way.
    """
    model = read_tflite(path)
    layers = [operator for _, operator in convolutions(model)]
    skeleton = QuantizedMobileNetV2().named_modules()
    places = [(name, type(m)) for name, m in skeleton if isinstance(m, (QuantizedConv2d, QuantizedAdd))]
    steps = [(i, op) for i, op in enumerate(model.operators) if op.kind == "ADD" or op in layers]
    state: dict[str, Tensor] = {}
    for (name, kind), (index, operator) in zip(places, steps, strict=True):
        if kind is QuantizedConv2d:
            values = _convolution(model, operator)
        else:
            values = _addition(model, operator, branch=model.operators[index - 1].outputs[0])
        state |= {f"{name}.{key}": value for key, value in values.items()}
    ends = [_quantization(model, model.output_of(operator)) for operator in layers[-2:]]
    state["scale_bits"] = torch.tensor([float(end.scale[0]) for end in ends]).view(torch.int32)
    state["zero_points"] = _zero_points(*ends)
    return state


def _convolution(model: TFLiteModel, operator: Operator) -> dict[str, Tensor]:
    weight, bias = model.input_of(operator, 1), model.input_of(operator, 2)
    tensors = (model.input_of(operator, 0), weight, model.output_of(operator))
    source, filters, out = (_quantization(model, tensor) for tensor in tensors)
    low, high = 0, 255
    if operator.options.activation == "relu6":
        low = int(out.zero_point[0])
        high = min(255, low + round(6 / float(out.scale[0])))
    # float32 at every step, as XNNPACK computes it
    multiplier = source.scale[0] * filters.scale[0] / out.scale[0]
    return {
        "weight": torch.from_numpy(_codes(model, weight, np.uint8).transpose(filter_order(operator)).copy()),
        "bias": torch.from_numpy(_codes(model, bias, np.int32).copy()),
        "zero_points": _zero_points(source, filters, out),
        "multiplier_bits": torch.tensor(multiplier, dtype=torch.float32).view(torch.int32),
        "limits": torch.tensor([low, high], dtype=torch.int32),
    }


def _addition(model: TFLiteModel, operator: Operator, branch: int) -> dict[str, Tensor]:
    (skip,) = (index for index in operator.inputs if index != branch)
    added = [_quantization(model, model.tensors[index]) for index in (branch, skip)]
    out = _quantization(model, model.output_of(operator))
    ratios = [float(term.scale[0] / out.scale[0]) for term in added]
    shift = 20 - math.floor(math.log2(max(ratios)))
    return {
        "factors": torch.tensor([round(ratio * 2**shift) for ratio in ratios], dtype=torch.int32),
        "zero_points": _zero_points(*added, out),
        "shift": torch.tensor(shift, dtype=torch.int32),
    }


def _quantization(model: TFLiteModel, tensor: TFLiteTensor) -> Quantization:
    quantization = tensor.quantization
    if quantization is None or quantization.per_channel or tensor.dtype is not np.uint8:
        raise WeightsError(
            f"{model.path}: {tensor.name!r} is {np.dtype(tensor.dtype)}"
            f"{' with a scale per channel' if quantization and quantization.per_channel else ''}; "
            "expected uint8 codes with one scale. Use backbone='mobilenetv2_100', which dequantizes"
        )
    if quantization.scale[0] <= 0:
        raise WeightsError(f"{model.path}: {tensor.name!r} has scale {quantization.scale[0]}; it must be > 0")
    return quantization


def _codes(model: TFLiteModel, tensor: TFLiteTensor, dtype: type[np.generic]) -> npt.NDArray[Any]:
    if tensor.data is None or tensor.dtype is not dtype:
        raise WeightsError(f"{model.path}: {tensor.name!r} is {np.dtype(tensor.dtype)}; expected {np.dtype(dtype)}")
    return tensor.data


def _zero_points(*quantizations: Quantization) -> Tensor:
    return torch.tensor([int(q.zero_point[0]) for q in quantizations], dtype=torch.int32)


def _after_load(module: nn.Module, incompatible_keys: object) -> None:
    if isinstance(module, QuantizedConv2d):
        module.choose_precision()
