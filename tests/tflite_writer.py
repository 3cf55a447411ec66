"""Writes TensorFlow Lite files for tests: just enough FlatBuffer, and a MobileNetV2 with random weights."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KINDS = {"ADD": 0, "AVERAGE_POOL_2D": 1, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4, "RESHAPE": 22, "SOFTMAX": 25}
TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int8": 9}


class FlatBuffer:
    """Parents are written before what they point to, so that every offset is positive."""

    def __init__(self) -> None:
        self.out = bytearray(8)
        self.out[4:8] = b"TFL3"

    def align(self, size: int, then: int = 0) -> None:
        self.out += b"\0" * (-(len(self.out) + then) % size)

    def write(self, value: Any) -> int:
        if isinstance(value, dict):
            return self.table(value)
        if isinstance(value, str):
            value = np.frombuffer(value.encode() + b"\0", np.uint8)[:-1]
        if isinstance(value, np.ndarray):
            self.align(16, then=4)
            at = len(self.out)
            self.out += struct.pack("<I", value.size) + value.tobytes() + b"\0"
            return at
        self.align(4)
        at = len(self.out)
        self.out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for number, item in enumerate(value):
            self.point(at + 4 + 4 * number, item)
        return at

    def point(self, at: int, value: Any) -> None:
        target = self.write(value)
        struct.pack_into("<I", self.out, at, target - at)

    def table(self, fields: dict[int, Any]) -> int:
        """A field is (format, number), or anything that ``write`` takes and an offset leads to."""
        self.align(8)
        offsets, size = {}, 4
        for number, value in fields.items():
            width = struct.calcsize(value[0]) if isinstance(value, tuple) else 4
            size += -size % width
            offsets[number] = size
            size += width
        entries = [offsets.get(number, 0) for number in range(max(fields, default=-1) + 1)]
        vtable = len(self.out)
        self.out += struct.pack(f"<HH{len(entries)}H", 4 + 2 * len(entries), size, *entries)
        self.align(8)
        at = len(self.out)
        self.out += struct.pack("<i", at - vtable) + bytes(size - 4)
        for number, value in fields.items():
            if isinstance(value, tuple):
                struct.pack_into("<" + value[0], self.out, at + offsets[number], value[1])
        for number, value in fields.items():
            if not isinstance(value, tuple):
                self.point(at + offsets[number], value)
        return at


@dataclass
class Writer:
    """Collects tensors and operators, then gives the file's bytes."""

    tensors: list[dict[int, Any]] = field(default_factory=list)
    buffers: list[dict[int, Any]] = field(default_factory=lambda: [{}])
    operators: list[dict[int, Any]] = field(default_factory=list)

    def tensor(self, name, shape, dtype, data=None, scale=None, zero_point=0, axis=0) -> int:
        fields = {0: np.array(shape, np.int32), 1: ("b", TYPES[dtype]), 2: ("I", 0), 3: name}
        if data is not None:
            fields[2] = ("I", len(self.buffers))
            self.buffers.append({0: np.ascontiguousarray(data, dtype).reshape(-1).view(np.uint8)})
        if scale is not None:
            scales = np.atleast_1d(np.float32(scale))
            points = np.broadcast_to(np.int64(zero_point), scales.shape)
            fields[4] = {2: scales, 3: np.ascontiguousarray(points), 6: ("i", axis)}
        self.tensors.append(fields)
        return len(self.tensors) - 1

    def operator(self, kind, inputs, outputs, union=0, options=None) -> None:
        fields = {0: ("I", list(KINDS).index(kind)), 1: np.array(inputs, np.int32)}
        fields[2] = np.array(outputs, np.int32)
        if options is not None:
            fields |= {3: ("B", union), 4: options}
        self.operators.append(fields)

    def file(self, inputs, outputs) -> bytes:
        graph = {
            0: self.tensors,
            1: np.array(inputs, np.int32),
            2: np.array(outputs, np.int32),
            3: self.operators,
            4: "main",
        }
        codes = [{0: ("b", code), 2: ("i", 1), 3: ("i", code)} for code in KINDS.values()]
        model = {0: ("I", 3), 1: codes, 2: [graph], 3: "test", 4: self.buffers}
        buffer = FlatBuffer()
        buffer.point(0, model)
        return bytes(buffer.out)


def mobilenetv2(seed: int = 0, size: int = 64) -> bytes:
    """A quantized MobileNetV2 1.0 in study E's layout, its weights and scales drawn at random."""
    rng = np.random.default_rng(seed)
    writer = Writer()
    scales: dict[int, float] = {}
    shapes: dict[int, tuple[int, ...]] = {}

    def activation(name, shape, scale, zero_point) -> int:
        index = writer.tensor(name, shape, "uint8", scale=scale, zero_point=zero_point)
        scales[index], shapes[index] = scale, shape
        return index

    def conv(source, channels, stride, relu6, kernel=1, depthwise=False) -> int:
        n, height, width, given = shapes[source]
        filters = (1, kernel, kernel, given) if depthwise else (channels, kernel, kernel, given)
        weight_scale, zero_point = float(np.float32(rng.uniform(0.01, 0.03))), int(rng.integers(110, 146))
        codes = rng.normal(zero_point, 40, filters).round().clip(0, 255)
        fan_in = kernel * kernel * (1 if depthwise else given)
        # Scaled so that activations neither die nor saturate: this is what training would have arranged.
        spread = 40 * weight_scale * fan_in**0.5 * scales[source] * 60
        out_scale, out_zero = (6 / 255, 0) if relu6 else (spread / 40, 128)
        weight_scale *= 2 / spread if relu6 else 1
        bias_scale = weight_scale * scales[source]
        bias = (rng.normal(0.5 if relu6 else 0, 0.5, channels) / bias_scale).round()
        name = f"layer{len(writer.operators)}"
        weight_index = writer.tensor(f"{name}/w", filters, "uint8", codes, weight_scale, zero_point)
        bias_index = writer.tensor(f"{name}/b", (channels,), "int32", bias, bias_scale)
        out = activation(name, (n, -(-height // stride), -(-width // stride), channels), out_scale, out_zero)
        numbers = [("b", 0), ("i", stride), ("i", stride)]
        if depthwise:
            numbers.append(("i", 1))
        numbers.append(("b", 3 if relu6 else 0))
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        options = dict(enumerate([*numbers, ("i", 1), ("i", 1)]))
        writer.operator(kind, [source, weight_index, bias_index], [out], 2 if depthwise else 1, options)
        return out

    image = activation("input", (1, size, size, 3), 0.0078125, 128)
    x = conv(image, 32, 2, relu6=True, kernel=3)
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
    for expand, channels, repeats, first_stride in [*table, (6, 320, 1, 1)]:
        for block in range(repeats):
            skip, hidden = x, shapes[x][3] * expand
            if expand > 1:
                x = conv(x, hidden, 1, relu6=True)
            x = conv(x, hidden, first_stride if block == 0 else 1, relu6=True, kernel=3, depthwise=True)
            x = conv(x, channels, 1, relu6=False)
            if block > 0:
                total = activation("sum", shapes[x], 1.3 * max(scales[x], scales[skip]), 127)
                writer.operator("ADD", [x, skip], [total], 11, {0: ("b", 0)})
                x = total
    x = conv(x, 1280, 1, relu6=True)
    pooled = activation("pool", (1, 1, 1, 1280), scales[x], 0)
    side = shapes[x][1]
    pool = [("b", 1), ("i", side), ("i", side), ("i", side), ("i", side), ("b", 0)]
    writer.operator("AVERAGE_POOL_2D", [x], [pooled], 5, dict(enumerate(pool)))
    logits = conv(pooled, 1001, 1, relu6=False)
    shape = writer.tensor("shape", (2,), "int32", [-1, 1001])
    flat = activation("flat", (1, 1001), scales[logits], 128)
    writer.operator("RESHAPE", [logits, shape], [flat])
    softmax = activation("softmax", (1, 1001), 1 / 256, 0)
    writer.operator("SOFTMAX", [flat], [softmax], 9, {0: ("f", 1.0)})
    return writer.file([image], [softmax])
