"""Reads TensorFlow Lite models (.tflite) with numpy alone: tensors, quantization, operators.

A .tflite file is one FlatBuffer (https://flatbuffers.dev/internals): a table is a list of optional fields
found through a "vtable" of 16-bit offsets, little endian throughout. The field numbers below are those of
TensorFlow's ``schema.fbs``. Only what inference of a convolutional network needs is read, every position
checked first, so that a damaged file is an error and not a crash or a hang.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lightning_har.errors import WeightsError

_DTYPES: dict[int, type[np.generic]] = {
    0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 4: np.int64, 6: np.bool_, 7: np.int16, 9: np.int8,
    10: np.float64, 12: np.uint64, 15: np.uint32, 16: np.uint16,
}  # fmt: skip
_KINDS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6", 22: "RESHAPE", 25: "SOFTMAX",
    32: "CUSTOM", 34: "PAD", 40: "MEAN", 114: "QUANTIZE",
}  # fmt: skip
_ACTIVATIONS = {0: "none", 1: "relu", 2: "relu_n1_to_1", 3: "relu6", 4: "tanh", 5: "sign_bit"}
_PADDINGS = {0: "same", 1: "valid"}

# Where each field of an options table lies, by the number of that table in the union BuiltinOptions.
_OPTION_FIELDS: dict[int, dict[str, int]] = {
    1: {"padding": 0, "stride_w": 1, "stride_h": 2, "activation": 3, "dilation_w": 4, "dilation_h": 5},
    2: {
        "padding": 0, "stride_w": 1, "stride_h": 2, "depth_multiplier": 3, "activation": 4, "dilation_w": 5,
        "dilation_h": 6,
    },
    5: {"padding": 0, "stride_w": 1, "stride_h": 2, "kernel_w": 3, "kernel_h": 4, "activation": 5},
    8: {"activation": 0},
    11: {"activation": 0},
}  # fmt: skip
_OPTIONS_OF = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 2, "AVERAGE_POOL_2D": 5, "MAX_POOL_2D": 5, "FULLY_CONNECTED": 8,
    "ADD": 11,
}  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Quantization:
    """Real value = scale × (code - zero_point).

    Attributes:
        scale: (1,) for the whole tensor, or one per index of ``axis``.
        zero_point: Likewise, int64.
        axis: Which dimension the scales belong to where there are several.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    axis: int

    @property
    def per_channel(self) -> bool:
        """Whether there is a scale for every index of ``axis``."""
        return len(self.scale) > 1


@dataclass(frozen=True)
class TFLiteTensor:
    """A constant, or a place that an operator writes to.

    Attributes:
        name: As in the file.
        shape: TensorFlow's order: NHWC, filters (O, H, W, I), depthwise filters (1, H, W, C).
        dtype: Of the stored codes.
        data: The stored codes, or None where the tensor is computed.
        quantization: None for a tensor that holds plain numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: npt.DTypeLike
    data: npt.NDArray[Any] | None
    quantization: Quantization | None

    def dequantized(self) -> npt.NDArray[np.float32]:
        """The constant's real values, float32, in its shape.

        Raises:
            WeightsError: It is not a constant.
        """
        if self.data is None:
            raise WeightsError(f"tensor {self.name!r} is computed by the network; it has no stored values")
        if self.quantization is None:
            return self.data.astype(np.float32)
        spread = [1] * len(self.shape)
        if self.quantization.per_channel:
            spread[self.quantization.axis] = len(self.quantization.scale)
        scale = self.quantization.scale.astype(np.float64).reshape(spread)
        zero_point = self.quantization.zero_point.astype(np.float64).reshape(spread)
        values: npt.NDArray[np.float32] = ((self.data - zero_point) * scale).astype(np.float32)
        return values


@dataclass(frozen=True)
class Options:
    """Settings of an operator, as far as its kind has them; pairs are (vertical, horizontal)."""

    padding: str = "valid"
    """ "same" (TensorFlow's: output size = input / stride, rounded up; the odd pixel after) or "valid"."""
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    """Of a pooling; a convolution's is its filter's shape."""
    activation: str = "none"
    depth_multiplier: int = 1


@dataclass(frozen=True)
class Operator:
    """One step of the graph; ``inputs`` and ``outputs`` index ``TFLiteModel.tensors``, -1 is left out."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options


@dataclass(frozen=True)
class TFLiteModel:
    """The first subgraph of a file; operators in the order they run."""

    path: Path
    tensors: tuple[TFLiteTensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def input_of(self, operator: Operator, position: int) -> TFLiteTensor:
        """An operator's input tensor.

        Raises:
            WeightsError: The operator has no such input.
        """
        if position >= len(operator.inputs) or operator.inputs[position] < 0:
            raise WeightsError(f"{self.path}: {operator.kind} has no input {position}")
        return self.tensors[operator.inputs[position]]

    def output_of(self, operator: Operator) -> TFLiteTensor:
        """An operator's only output tensor.

        Raises:
            WeightsError: It has none.
        """
        if not operator.outputs:
            raise WeightsError(f"{self.path}: {operator.kind} has no output")
        return self.tensors[operator.outputs[0]]


def read_tflite(path: str | Path) -> TFLiteModel:
    """Read a .tflite file.

    Args:
        path: The file. Its constants are views of one copy of it in memory.

    Raises:
        WeightsError: It is missing, or not a complete TensorFlow Lite file.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    if data[4:8] != b"TFL3":
        raise WeightsError(f"{path} is not a TensorFlow Lite file: it lacks the mark 'TFL3' at byte 4")
    try:
        return _parse(path, _Buffer(data))
    except _Malformed as error:
        raise WeightsError(f"{path} ({len(data):,} bytes) is damaged or cut short: {error}. Fetch it again.") from error


class _Malformed(Exception):
    """A position that the file does not have."""


class _Buffer:
    """The file's bytes, read with every position checked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        # Overlapping vectors could make a small file stand for endless work; an honest one is read once.
        self._budget = 4 * len(data)

    def scalar(self, fmt: str, at: int) -> Any:
        if at < 0 or at + struct.calcsize(fmt) > len(self.data):
            raise _Malformed(f"it points to byte {at}")
        return struct.unpack_from("<" + fmt, self.data, at)[0]

    def root(self) -> _Table:
        return _Table(self, self.scalar("I", 0))

    def span(self, at: int, item_size: int) -> tuple[int, int]:
        """First byte and number of items of the vector that the offset at ``at`` leads to."""
        start = at + self.scalar("I", at)
        count = self.scalar("I", start)
        if start + 4 + count * item_size > len(self.data):
            raise _Malformed(f"a list at byte {start} claims {count} items")
        return start + 4, count

    def spend(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise _Malformed("its parts overlap")


class _Table:
    """A FlatBuffer table: fields by number, absent ones take their default."""

    def __init__(self, buffer: _Buffer, at: int) -> None:
        self._buffer = buffer
        self._at = at
        buffer.spend(4)
        self._vtable = at - buffer.scalar("i", at)
        self._vtable_size = buffer.scalar("H", self._vtable)

    def _field(self, number: int) -> int | None:
        entry = 4 + 2 * number
        if entry + 2 > self._vtable_size:
            return None
        offset = self._buffer.scalar("H", self._vtable + entry)
        return self._at + offset if offset else None

    def number(self, field: int, fmt: str, default: float = 0) -> Any:
        at = self._field(field)
        return default if at is None else self._buffer.scalar(fmt, at)

    def table(self, field: int) -> _Table | None:
        at = self._field(field)
        return None if at is None else _Table(self._buffer, at + self._buffer.scalar("I", at))

    def tables(self, field: int) -> Iterator[_Table]:
        at = self._field(field)
        if at is None:
            return
        start, count = self._buffer.span(at, 4)
        for position in range(start, start + 4 * count, 4):
            yield _Table(self._buffer, position + self._buffer.scalar("I", position))

    def array(self, field: int, dtype: Any) -> npt.NDArray[Any]:
        at = self._field(field)
        kind = np.dtype(dtype).newbyteorder("<")
        if at is None:
            return np.empty(0, dtype)
        start, count = self._buffer.span(at, kind.itemsize)
        self._buffer.spend(count * kind.itemsize)
        return np.frombuffer(self._buffer.data, kind, count, start)

    def integers(self, field: int) -> tuple[int, ...]:
        return tuple(self.array(field, np.int32).tolist())

    def text(self, field: int) -> str:
        return self.array(field, np.uint8).tobytes().decode("utf-8", "backslashreplace")


def _parse(path: Path, buffer: _Buffer) -> TFLiteModel:
    model = buffer.root()
    kinds = [_kind(code) for code in model.tables(1)]
    graph = next(model.tables(2), None)
    if graph is None:
        raise _Malformed("it holds no graph")
    stored = [_stored(table) for table in model.tables(4)]
    tensors = tuple(_tensor(table, stored) for table in graph.tables(0))
    operators = tuple(_operator(table, kinds, len(tensors)) for table in graph.tables(3))
    inputs, outputs = graph.integers(1), graph.integers(2)
    _check_indices((*inputs, *outputs), 0, len(tensors))
    return TFLiteModel(path, tensors, operators, inputs, outputs)


def _kind(code: _Table) -> str:
    # Files older than schema 3a only have the 8-bit field; newer ones put 127 there for the larger codes.
    number = max(code.number(0, "b"), code.number(3, "i"))
    return _KINDS.get(number, f"BUILTIN_{number}")


def _stored(table: _Table) -> npt.NDArray[np.uint8]:
    if table.number(1, "Q") > 1:
        raise _Malformed("it keeps tensors behind the FlatBuffer, as files over 2 GB do; such are not read")
    return table.array(0, np.uint8)


def _tensor(table: _Table, stored: list[npt.NDArray[np.uint8]]) -> TFLiteTensor:
    name, shape = table.text(3), table.integers(0)
    dtype = _lookup(_DTYPES, table.number(1, "b"), f"type of tensor {name!r}")
    index = table.number(2, "I")
    if index >= len(stored):
        raise _Malformed(f"tensor {name!r} lies in buffer {index} of {len(stored)}")
    if any(size < 0 for size in shape):
        raise _Malformed(f"tensor {name!r} has shape {shape}")
    data = None
    if stored[index].size:
        items = 1
        for size in shape:
            items *= size
        if items * np.dtype(dtype).itemsize != stored[index].size:
            raise _Malformed(f"tensor {name!r} of shape {shape} has {stored[index].size} bytes")
        data = stored[index].view(np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return TFLiteTensor(name, shape, dtype, data, _quantization(table.table(4), name, shape))


def _quantization(table: _Table | None, name: str, shape: tuple[int, ...]) -> Quantization | None:
    if table is None:
        return None
    scale = table.array(2, np.float32)
    zero_point = table.array(3, np.int64)
    if not scale.size:
        return None
    axis = table.number(6, "i")
    if not np.isfinite(scale).all() or len(zero_point) != len(scale):
        raise _Malformed(f"tensor {name!r} has {len(zero_point)} zero points, and scales {scale[:3]}")
    if len(scale) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scale)):
        raise _Malformed(f"tensor {name!r} of shape {shape} has {len(scale)} scales along {axis}")
    return Quantization(scale, zero_point, axis)


def _operator(table: _Table, kinds: list[str], num_tensors: int) -> Operator:
    code = table.number(0, "I")
    if code >= len(kinds):
        raise _Malformed(f"an operator has code {code} of {len(kinds)}")
    inputs, outputs = table.integers(1), table.integers(2)
    _check_indices(inputs, -1, num_tensors)
    _check_indices(outputs, 0, num_tensors)
    return Operator(kinds[code], inputs, outputs, _options(table, kinds[code]))


def _options(operator: _Table, kind: str) -> Options:
    union = operator.number(3, "B")
    table = operator.table(4)
    if kind not in _OPTIONS_OF or table is None or union == 0:
        return Options()
    if union != _OPTIONS_OF[kind]:
        raise _Malformed(f"{kind} comes with options of kind {union}")
    fields = _OPTION_FIELDS[union]

    def number(key: str, fmt: str, default: int) -> Any:
        return table.number(fields[key], fmt, default) if key in fields else default

    def pair(key: str) -> tuple[int, int]:
        vertical, horizontal = number(f"{key}_h", "i", 1), number(f"{key}_w", "i", 1)
        if min(vertical, horizontal) < 1:
            raise _Malformed(f"{kind} has {key} {vertical}, {horizontal}")
        return vertical, horizontal

    return Options(
        padding=_lookup(_PADDINGS, number("padding", "b", 0 if "padding" in fields else 1), "padding"),
        stride=pair("stride"),
        dilation=pair("dilation"),
        kernel=pair("kernel"),
        activation=_lookup(_ACTIVATIONS, number("activation", "b", 0), "activation"),
        depth_multiplier=number("depth_multiplier", "i", 1),
    )


def _check_indices(indices: tuple[int, ...], least: int, count: int) -> None:
    for index in indices:
        if not least <= index < count:
            raise _Malformed(f"it names tensor {index} of {count}")


def _lookup(table: dict[int, T], key: int, what: str) -> T:
    if key not in table:
        raise _Malformed(f"{what} is {key}, which is not known here")
    return table[key]
