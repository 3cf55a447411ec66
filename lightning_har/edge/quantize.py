"""Float networks to int8, after training: per-channel weights, activations by range.

Two ways, by what will run it. ONNX Runtime takes an ONNX graph with QuantizeLinear and DequantizeLinear around each
operator. ExecuTorch and PyTorch's Inductor take what torchao's PT2E flow makes: export, prepare, calibrate, convert.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError

# Products of weights and what stands between them on feature maps; the gates of a GRU or LSTM stay float, since
# their adds and products of a few hundred values cost nothing and lose accuracy.
_ONNX_OPERATORS = ["Conv", "Gemm", "MatMul", "Clip", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]


def quantize_onnx(source: Path, target: Path, inputs: Iterable[tuple[Tensor, ...]]) -> None:
    """Quantize an ONNX graph for ONNX Runtime: static, QDQ, weights int8 per channel, activations uint8.

    ReLU6 is folded: exported as Clip between a convolution and its QuantizeLinear it would keep the runtime from
    running the three as one; the quantizer's range, which ends where the Clip does, does its work.

    Args:
        source: Float .onnx.
        target: Where the int8 one is written.
        inputs: Calibration values, in the graph's order of inputs.

    Raises:
        ConfigError: onnxruntime or onnx is not installed, or there are no inputs.
    """
    try:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ConfigError("quantizing for ONNX Runtime needs: pip install lightning-har[onnx]") from error

    model = onnx.load(source)
    names = [i.name for i in model.graph.input]
    stream = ({n: x.numpy() for n, x in zip(names, values, strict=True)} for values in inputs)
    first = next(stream, None)
    if first is None:
        raise ConfigError("int8 needs calibration data; there is none")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._first: dict[str, Any] | None = first

        def get_next(self) -> dict[str, Any] | None:
            value, self._first = self._first, None
            return value if value is not None else next(stream, None)

    with _quiet():
        quantize_static(
            model,
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_ONNX_OPERATORS, "Add"],
            nodes_to_exclude=_small_adds(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _fold_input(target)


def _small_adds(model: Any) -> list[str]:
    """Adds that are not of feature maps (B, C, H, W) or (B, C, T, H, W), and the one that normalises the input."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in inferred.graph.value_info}
    constants = {i.name for i in model.graph.initializer}
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{i}"
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Add" and (ranks.get(node.output[0], 0) < 4 or any(x in constants for x in node.input))
    ]


def _fold_input(path: Path) -> None:
    """Let a uint8 input be its own code where the normalisation is one scale and a whole zero point.

    ``u * scale + offset`` then is ``scale * (u - zero_point)``: what DequantizeLinear does, and a convolution takes it
    without a float in between.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    by_output = {n.output[0]: n for n in graph.node}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for x in node.input:
            readers.setdefault(x, []).append(node)
    for quantize in [n for n in graph.node if n.op_type == "QuantizeLinear"]:
        chain = []
        node = by_output.get(quantize.input[0])
        for kind in ("Add", "Mul", "Cast"):
            if node is None or node.op_type != kind or len(readers[node.output[0]]) != 1:
                break
            chain.append(node)
            node = by_output.get(node.input[0])
        if len(chain) != 3 or chain[2].input[0] not in {i.name for i in graph.input}:
            continue
        offset, scale = (values.get(n.input[1]) for n in chain[:2])
        if offset is None or scale is None or np.ptp(scale) or np.ptp(offset):
            continue
        zero = -float(offset.flat[0]) / float(scale.flat[0])
        if abs(zero - round(zero)) > 1e-3 or not 0 <= round(zero) <= 255:
            continue
        (dequantize,) = readers[quantize.output[0]]
        codes = {
            "input_scale": np.array(scale.flat[0], np.float32),
            "input_zero_point": np.array(round(zero), np.uint8),
        }
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in codes.items())
        replacement = helper.make_node(
            "DequantizeLinear", [chain[2].input[0], *codes], list(dequantize.output), name="dequantize_input"
        )
        for gone in (*chain, quantize, dequantize):
            graph.node.remove(gone)
        graph.node.insert(0, replacement)
        onnx.save(model, path)
        return


Backend = Literal["xnnpack", "x86"]


def quantize_pt2e(
    net: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Iterable[tuple[Tensor, ...]],
    backend: Backend = "xnnpack",
    dynamic_shapes: Any = None,
) -> nn.Module:
    """Quantize with torchao's PT2E flow: static, weights int8 per channel.

    Args:
        net: In eval mode.
        example: Inputs to export it with.
        inputs: Calibration values.
        backend: "xnnpack" for ExecuTorch; "x86" for Inductor on x86 with VNNI (``torch.compile`` the result).
        dynamic_shapes: As in ``torch.export.export``.

    Returns:
        The quantized graph, a module.

    Raises:
        ConfigError: torchao or executorch is not installed, an unknown backend, or there are no inputs.
    """
    try:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    except ImportError as error:
        raise ConfigError("this needs torchao: pip install lightning-har[executorch]") from error
    quantizer = _quantizer(backend)
    with _quiet(), torch.no_grad():
        graph: Any = torch.export.export(net, example, dynamic_shapes=dynamic_shapes).module()
        prepared = prepare_pt2e(graph, quantizer)
        count = 0
        for values in inputs:
            prepared(*values)
            count += 1
        if not count:
            raise ConfigError("int8 needs calibration data; there is none")
        converted: nn.Module = convert_pt2e(prepared)
    return converted


def _quantizer(backend: Backend) -> Any:
    if backend == "xnnpack":
        try:
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
        except ImportError as error:
            raise ConfigError("this needs executorch: pip install lightning-har[executorch]") from error
        return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    if backend == "x86":
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    raise ConfigError(f"backend is {backend!r}; it must be 'xnnpack' or 'x86'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizers' advice to preprocess, which the export has done, and their deprecation notes."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
