"""Quantized MobileNetV2 1.0 (.tflite) as floating point weights in timm's layout.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
(2018), folds batch norm into the convolutions before quantizing; a timm batch norm here only adds the bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_har.errors import WeightsError
from lightning_har.weights.tflite import Operator, TFLiteModel, TFLiteTensor, read_tflite

TIMM_ARGUMENTS = {"pad_type": "same"}
"""What ``timm.create_model("mobilenetv2_100", ...)`` needs for TensorFlow's 'SAME' padding."""

NUM_CLASSES = 1001
"""ImageNet's classes behind a background class at 0."""

BN_EPS = 1e-5
"""Of timm's batch norms; the variances below allow for it."""


def mobilenetv2_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a quantized MobileNetV2 1.0 as the state dict of timm's ``mobilenetv2_100``.

    The network must be built with ``pad_type="same"`` and ``num_classes=1001``, and eat what ``input_range``
    says. A batch norm does nothing but add the convolution's bias: its statistics (mean 0, variance 1 - eps)
    are not those of the training data, so keep it in eval mode when fine-tuning.

    Args:
        path: The .tflite file.

    Returns:
        float32 tensors under every name of the timm network.

    Raises:
        WeightsError: The file is damaged, or another network.
    """
    model = read_tflite(path)
    state: dict[str, Tensor] = {}
    for layer, operator in convolutions(model):
        weight = torch.from_numpy(model.input_of(operator, 1).dequantized())
        bias = torch.from_numpy(model.input_of(operator, 2).dequantized())
        if layer.norm is None:
            state[f"{layer.conv}.weight"] = weight.flatten(1)
            state[f"{layer.conv}.bias"] = bias
            continue
        state[f"{layer.conv}.weight"] = weight.permute(filter_order(operator)).contiguous()
        state[f"{layer.norm}.weight"] = torch.ones_like(bias)
        state[f"{layer.norm}.bias"] = bias
        state[f"{layer.norm}.running_mean"] = torch.zeros_like(bias)
        state[f"{layer.norm}.running_var"] = torch.full_like(bias, 1 - BN_EPS)
        state[f"{layer.norm}.num_batches_tracked"] = torch.tensor(0)
    return state


def input_range(path: str | Path) -> tuple[float, float]:
    """What pixel values 0 and 255 mean to the network: an InputSpec's ``value_range``, with mean 0 and std 1.

    Raises:
        WeightsError: The file is damaged, or its input is not 8-bit codes.
    """
    model = read_tflite(path)
    tensor = model.tensors[model.inputs[0]] if model.inputs else None
    if tensor is None or tensor.quantization is None:
        raise WeightsError(f"{path} has no quantized input; give the fully quantized MobileNetV2")
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])
    return (0 - zero_point) * scale, (255 - zero_point) * scale


def filter_order(operator: Operator) -> tuple[int, int, int, int]:
    """The permutation that brings a filter to PyTorch's (O, I, H, W); depthwise to (C, 1, H, W)."""
    return (3, 0, 1, 2) if operator.kind == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)


class Layer(NamedTuple):
    """A convolution as MobileNetV2 has it (Sandler et al. 2018, table 2) and timm names it."""

    kind: str
    stride: int
    activation: str
    conv: str
    norm: str | None


def convolutions(model: TFLiteModel) -> list[tuple[Layer, Operator]]:
    """The network's 53 convolutions in running order, each with its place in timm's network.

    Raises:
        WeightsError: The operators are not MobileNetV2's.
    """
    expected = [step.kind if isinstance(step, Layer) else step for step in _STEPS]
    kinds = [operator.kind for operator in model.operators]
    if kinds != expected:
        raise WeightsError(
            f"{model.path} is not a MobileNetV2 classifier: expected {len(expected)} operators, "
            f"{', '.join(expected[:5])}, ...; given {len(kinds)}, {', '.join(kinds[:5])}, ..."
        )
    found = []
    current = start_of_block = model.inputs[0] if model.inputs else -1
    for step, operator in zip(_STEPS, model.operators, strict=True):
        wanted = {start_of_block, current} if step == "ADD" else {current}
        if not wanted <= set(operator.inputs) or len(operator.outputs) != 1:
            raise WeightsError(f"{model.path}: operator {operator.kind} is not wired as in MobileNetV2")
        current = operator.outputs[0]
        if isinstance(step, Layer):
            _check_layer(model, step, operator)
            found.append((step, operator))
        # The first block of a stage has no skip connection: it ends with its projection.
        if step == "ADD" or (isinstance(step, Layer) and step.conv.endswith(".0.conv_pwl")):
            start_of_block = current
    return found


def _check_layer(model: TFLiteModel, layer: Layer, operator: Operator) -> None:
    options = operator.options
    settings = (options.stride, options.dilation, options.padding, options.activation)
    if settings != ((layer.stride, layer.stride), (1, 1), "same", layer.activation):
        raise WeightsError(
            f"{model.path}: {layer.conv} has stride, dilation, padding and activation {settings}; "
            f"MobileNetV2 has stride {layer.stride}, no dilation, 'same' and {layer.activation!r}"
        )
    weight = model.input_of(operator, 1)
    if not (_is_constant(weight, 4) and _is_constant(model.input_of(operator, 2), 1)):
        raise WeightsError(f"{model.path}: {weight.name!r} or its bias is not stored in the file")


def _is_constant(tensor: TFLiteTensor, rank: int) -> bool:
    return tensor.data is not None and len(tensor.shape) == rank


def _steps() -> Iterator[Layer | str]:
    yield Layer("CONV_2D", 2, "relu6", "conv_stem", "bn1")
    # Repeats and strides of the stages: the columns n and s of table 2.
    stages = [(1, 1), (2, 2), (3, 2), (4, 2), (3, 1), (3, 2), (1, 1)]
    for stage, (repeats, stage_stride) in enumerate(stages):
        for block in range(repeats):
            at = f"blocks.{stage}.{block}"
            stride = stage_stride if block == 0 else 1
            if stage == 0:  # no expansion
                yield Layer("DEPTHWISE_CONV_2D", stride, "relu6", f"{at}.conv_dw", f"{at}.bn1")
                yield Layer("CONV_2D", 1, "none", f"{at}.conv_pw", f"{at}.bn2")
            else:
                yield Layer("CONV_2D", 1, "relu6", f"{at}.conv_pw", f"{at}.bn1")
                yield Layer("DEPTHWISE_CONV_2D", stride, "relu6", f"{at}.conv_dw", f"{at}.bn2")
                yield Layer("CONV_2D", 1, "none", f"{at}.conv_pwl", f"{at}.bn3")
            if block > 0:
                yield "ADD"
    yield Layer("CONV_2D", 1, "relu6", "conv_head", "bn2")
    yield "AVERAGE_POOL_2D"
    yield Layer("CONV_2D", 1, "none", "classifier", None)
    yield "RESHAPE"
    yield "SOFTMAX"


_STEPS = tuple(_steps())
