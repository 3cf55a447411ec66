"""Float ONNX graphs to int8 for ONNX Runtime: QuantizeLinear and DequantizeLinear around each operator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_har.edge._quiet import quiet
from lightning_har.edge.rounding import weight_scales
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
        raise ConfigError("quantizing for ONNX Runtime needs: pip install 'lightning-har[onnx]'") from error

    model = onnx.load(source)
    _pool_in_one(model)
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

    with quiet():
        quantize_static(
            model,
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*_ONNX_OPERATORS, "Add"],
            nodes_to_exclude=_left_alone(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "TensorQuantOverrides": _weight_steps(model),
                # Logits and a GRU's gates go on in float; eight bits of them would only lose.
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
            },
        )
    quantized = onnx.load(target)
    _fold_input(quantized)
    _pair_columns(quantized)
    _trim(quantized)
    onnx.save(quantized, target)


def _pool_in_one(model: Any) -> None:
    """Write a mean over all positions of a feature map as the pooling that the runtime has in int8, at one blow."""
    import onnx
    from onnx import helper, numpy_helper

    inferred = onnx.shape_inference.infer_shapes(model)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in inferred.graph.value_info}
    values = {i.name: i for i in model.graph.initializer}
    nodes, axes_pooled = [], set()
    for node in model.graph.node:
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        rank = ranks.get(node.input[0], 0) if node.op_type == "ReduceMean" else 0
        if rank < 4 or len(node.input) != 2 or node.input[1] not in values:
            nodes.append(node)
            continue
        axes = {int(a) % rank for a in np.atleast_1d(numpy_helper.to_array(values[node.input[1]]))}
        if axes != set(range(2, rank)):
            nodes.append(node)
            continue
        axes_pooled.add(node.input[1])
        kept = options.get("keepdims", 1)
        pooled = node.output[0] if kept else f"{node.output[0]}_map"
        nodes.append(helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=f"{pooled}_pool"))
        if not kept:
            nodes.append(helper.make_node("Flatten", [pooled], [node.output[0]], name=f"{pooled}_flat"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # The runtime would warn of each that nothing reads now.
    unread = axes_pooled - {name for node in nodes for name in node.input}
    kept = [i for i in model.graph.initializer if i.name not in unread]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _weight_steps(model: Any) -> dict[str, list[dict[str, Any]]]:
    """For each weight the steps of its channels, as onnxruntime's quantizer takes them."""
    from onnx import helper, numpy_helper

    values = {i.name: i for i in model.graph.initializer}
    steps: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in values or node.input[1] in steps:
            continue
        weight = torch.from_numpy(numpy_helper.to_array(values[node.input[1]]).copy())
        transposed = any(a.name == "transB" and helper.get_attribute_value(a) for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        if weight.ndim < 2 or (axis == 1 and weight.ndim > 2):
            continue
        steps[node.input[1]] = [
            {"axis": axis, "scale": np.float32(s), "zero_point": 0} for s in weight_scales(weight.movedim(axis, 0))
        ]
    return steps


def _left_alone(model: Any) -> list[str]:
    """Adds that are not of feature maps (B, C, H, W) or (B, C, T, H, W), the one that normalises, and what has codes.

    A network that came in 8 bits, ``edge.integers``, has said itself how its sums and means become codes.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in inferred.graph.value_info}
    constants = {i.name for i in model.graph.initializer}
    coded = {x for node in model.graph.node if node.op_type == "DequantizeLinear" for x in node.output}
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{i}"
    return [
        node.name
        for node in model.graph.node
        if coded.intersection(node.input)
        or (node.op_type == "Add" and (ranks.get(node.output[0], 0) < 4 or constants.intersection(node.input)))
    ]


def _fold_input(model: Any) -> None:
    """Let a uint8 input be its own code where the normalisation is one scale and a whole zero point.

    ``u * scale + offset`` then is ``scale * (u - zero_point)``: what DequantizeLinear does, and a convolution takes it
    without a float in between.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    by_output = {n.output[0]: n for n in graph.node}
    readers = _readers(graph)
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
        return


class _Stem(NamedTuple):
    """A convolution of stride 2 over few channels, between codes.

    Attributes:
        conv: The node.
        source: Which turns the codes that it reads into reals.
        constants: Which do so with its weight and its bias.
        quantize: Which turns what it writes into codes.
        weight: (O, C, kh, kw), codes.
        read: (B, C, H, W).
        written: (B, O, H / 2, W / 2).
    """

    conv: Any
    source: Any
    constants: list[Any]
    quantize: Any
    weight: np.ndarray[Any, Any]
    read: list[int]
    written: list[int]


def _find_stem(model: Any) -> _Stem | None:
    """The convolution whose columns can be paired, if there is one."""
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    makers = {n.output[0]: n for n in graph.node}
    values = {i.name: i for i in graph.initializer}
    readers = _readers(graph)
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *onnx.shape_inference.infer_shapes(model).graph.value_info)
    }
    for conv in (n for n in graph.node if n.op_type == "Conv" and len(n.input) == 3):
        parts: list[Any] = [makers.get(name) for name in conv.input]
        source, *constants = parts
        after = readers.get(conv.output[0], [])
        if any(m is None or m.op_type != "DequantizeLinear" for m in parts) or len(after) != 1:
            continue
        if after[0].op_type != "QuantizeLinear" or any(c.input[0] not in values for c in constants):
            continue
        if any(len(readers[name]) != 1 for c in constants for name in (*c.input, c.output[0])):
            continue
        options = {a.name: helper.get_attribute_value(a) for a in conv.attribute}
        weight = numpy_helper.to_array(values[constants[0].input[0]])
        read, written = shapes.get(source.input[0], []), shapes.get(conv.output[0], [])
        if weight.ndim != 4 or weight.shape[1] > 4 or len(read) != 4 or len(written) != 4:
            continue
        plain = list(options.get("dilations", [1, 1])) == [1, 1] and options.get("group", 1) == 1
        if not plain or options.get("auto_pad", b"NOTSET") != b"NOTSET" or list(options["strides"]) != [2, 2]:
            continue
        if read[2] and read[3] and read[3] % 4 == 0 and 2 * written[3] == read[3]:
            return _Stem(conv, source, constants, after[0], weight, read, written)
    return None


def _readers(graph: Any) -> dict[str, list[Any]]:
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _pair_columns(model: Any) -> None:
    """Let the first convolution read pixels four at a time and write two columns at once: the same integers, sooner.

    A convolution of stride 2 over three channels is bound by gathering its patches. Rows of four pixels are twelve
    channels that already lie side by side, and the two outputs that begin in them twice as many output channels.
    """
    from onnx import helper, numpy_helper

    stem = _find_stem(model)
    if stem is None:
        return
    graph, conv, source = model.graph, stem.conv, stem.source
    top, left, bottom, _ = next((list(a.ints) for a in conv.attribute if a.name == "pads"), [0, 0, 0, 0])
    wide, first = _two_columns(stem.weight, left)
    outputs, channels = stem.weight.shape[:2]
    height, groups = wide.shape[2:]
    values = {i.name: i for i in graph.initializer}
    for constant in stem.constants:
        for i, name in enumerate(constant.input):
            old = numpy_helper.to_array(values[name])
            new = wide if i == 0 and constant is stem.constants[0] else np.concatenate((old, old)) if old.ndim else old
            values[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), name))
    sizes = {
        "pads": [top, -first, bottom, groups - 1 + first],
        "strides": [2, 1],
        "kernel_shape": [height, groups],
    }
    kept = [a for a in conv.attribute if a.name not in sizes]
    del conv.attribute[:]
    conv.attribute.extend([*kept, *(helper.make_attribute(name, ints) for name, ints in sizes.items())])

    def regrouped(name: str, target: str, sizes: list[int], tag: str) -> list[Any]:
        shape_name = f"{tag}_shape"
        graph.initializer.append(numpy_helper.from_array(np.array([0, *sizes], np.int64), shape_name))
        return [
            helper.make_node("Transpose", [name], [f"{tag}_rows"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{tag}_rows", shape_name], [f"{tag}_regrouped"]),
            helper.make_node("Transpose", [f"{tag}_regrouped"], [target], perm=[0, 3, 1, 2]),
        ]

    alone = len(_readers(graph)[source.output[0]]) == 1
    before = regrouped(source.input[0], "stem_in", [stem.read[2], stem.read[3] // 4, 4 * channels], "stem_in_by_four")
    behind = regrouped("stem_out", stem.quantize.output[0], [*stem.written[2:], outputs], "stem_out_by_two")
    stem.quantize.output[0] = "stem_out"
    feed = helper.make_node("DequantizeLinear", ["stem_in", *source.input[1:]], ["stem_in_real"])
    conv.input[0] = "stem_in_real"
    nodes = []
    for node in graph.node:
        if node == conv:
            nodes += [*before, feed]
        if node != source or not alone:
            nodes.append(node)
        if node == stem.quantize:
            nodes += behind
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


def _two_columns(weight: np.ndarray[Any, Any], left: int) -> tuple[np.ndarray[Any, Any], int]:
    """A filter (O, C, kh, kw) of stride 2 as one of stride 1 over groups of four columns, (2 O, 4 C, kh, groups).

    Args:
        weight: The filter.
        left: Columns that are padded before the first.

    Returns:
        The wide filter, and where its first group lies, counted from the first column's.
    """
    outputs, channels, height, width = weight.shape
    # Column c of the second output's filter lies 2 pixels on; in groups of four from the left.
    first = -left // 4
    groups = (2 + width - 1 - left) // 4 - first + 1
    wide = np.zeros((2, outputs, height, groups, 4, channels), weight.dtype)
    for second in range(2):
        for column in range(width):
            at = 2 * second + column - left - 4 * first
            wide[second, :, :, at // 4, at % 4] = weight[..., column].transpose(0, 2, 1)
    # (two outputs, O, kh, groups, pixel, C) to (2 O, 4 C, kh, groups)
    return wide.transpose(0, 1, 4, 5, 2, 3).reshape(2 * outputs, 4 * channels, height, groups), first


def _trim(model: Any) -> None:
    """Leave out the zero points of biases, which are as large as the biases, and the shapes of all that is in between.

    A bias's zero point is always 0, which is what an absent one means; the runtime infers shapes.
    """
    import onnx

    biases = {i.name for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT32}
    zeros = set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and node.input[0] in biases:
            zeros.add(node.input.pop())
    read = {name for node in model.graph.node for name in node.input}
    kept = [i for i in model.graph.initializer if i.name in read or i.name not in zeros]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
