"""Reads TensorFlow checkpoints (``model.ckpt.index`` and ``model.ckpt.data-...``) without TensorFlow.

The index is a LevelDB table (https://github.com/google/leveldb/blob/main/doc/table_format.md): name to a
protocol buffer ``BundleEntryProto`` that says where in the flat data files a tensor lies. An empty name leads to
the ``BundleHeaderProto``. Every block and every tensor carries a masked CRC-32C.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_har.errors import WeightsError
from lightning_har.weights.crc32c import masked_crc32c

_MAGIC = 0xDB4775248B80FB57
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5
_DTYPES: dict[int, str] = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_NOT_NUMPY = ("string", "bfloat16")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        dtype: numpy's name, or "string" or "bfloat16".
        shape: Empty for a scalar.
        shard: Which of the data files, from 0.
        offset: First byte in it.
        size: In bytes.
        crc32c: Masked, of those bytes.
        sliced: Whether its values are spread over slices under other names, as partitioned variables are.
    """

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc32c: int
    sliced: bool = False


def read_index(path: str | Path) -> dict[str, Entry]:
    """List a checkpoint's tensors.

    Args:
        path: The file that ends in ``.index``.

    Returns:
        Entries by name, in the file's (alphabetical) order.

    Raises:
        WeightsError: The file is missing, damaged, or not an index.
    """
    return _read_table(Path(path))[1]


def read_bundle(
    prefix: str | Path, *, names: Collection[str] | None = None, verify: bool = True
) -> dict[str, npt.NDArray[Any]]:
    """Read a checkpoint's tensors.

    Args:
        prefix: What the files' names begin with: ``.../model.ckpt``.
        names: Which to read; by default every tensor but strings.
        verify: Check each tensor's CRC-32C.

    Returns:
        Arrays by name. They are views of the mapped file, private to this process: writing to one changes a copy.

    Raises:
        WeightsError: A file is missing, cut short or damaged (the tensor is named), or a name is not in it.
    """
    prefix = Path(prefix)
    num_shards, entries = _read_table(Path(f"{prefix}.index"))
    if names is None:
        wanted = {name: entry for name, entry in entries.items() if entry.dtype != "string"}
    else:
        absent = sorted(set(names) - entries.keys())
        if absent:
            raise WeightsError(f"{prefix}.index has no tensor {', '.join(absent[:5])}; it has {len(entries)} others")
        wanted = {name: entries[name] for name in names}
    shards = {
        shard: _map(Path(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"))
        for shard in sorted({entry.shard for entry in wanted.values()})
    }
    return {name: _tensor(prefix, name, entry, shards[entry.shard], verify) for name, entry in wanted.items()}


def _map(path: Path) -> npt.NDArray[np.uint8]:
    try:
        if path.stat().st_size == 0:
            return np.empty(0, np.uint8)  # which cannot be mapped
        return np.memmap(path, np.uint8, mode="c")
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read: {error.strerror or error}. The checkpoint's data must lie beside its index."
        ) from error


def _tensor(prefix: Path, name: str, entry: Entry, shard: npt.NDArray[np.uint8], verify: bool) -> npt.NDArray[Any]:
    if entry.dtype in _NOT_NUMPY or entry.sliced:
        kind = "sliced" if entry.sliced else entry.dtype
        raise WeightsError(f"{prefix}: tensor {name!r} is {kind}, which is not read here")
    if entry.offset + entry.size > len(shard):
        raise WeightsError(
            f"{prefix}: the data is cut short: tensor {name!r} ends at byte {entry.offset + entry.size:,}, the file "
            f"at {len(shard):,}. Fetch it again."
        )
    octets = shard[entry.offset : entry.offset + entry.size]
    if verify and masked_crc32c(octets) != entry.crc32c:
        raise WeightsError(f"{prefix}: the data of tensor {name!r} is damaged (CRC-32C differs). Fetch it again.")
    values = np.asarray(octets).view(np.dtype(entry.dtype).newbyteorder("<")).reshape(entry.shape)
    return values if values.flags.aligned else values.copy()


class _Malformed(Exception):
    """The index does not hold what it should."""


def _read_table(path: Path) -> tuple[int, dict[str, Entry]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        num_shards, entries = 0, {}
        for key, value in _items(data):
            if key:
                entries[key.decode("utf-8", "backslashreplace")] = _entry(value)
            else:
                num_shards = _num_shards(value)
        for name, entry in entries.items():
            if not 0 <= entry.shard < num_shards:
                raise _Malformed(f"tensor {name!r} lies in data file {entry.shard} of {num_shards}")
    except _Malformed as error:
        raise WeightsError(
            f"{path} ({len(data):,} bytes) is not a TensorFlow checkpoint index, or damaged: {error}. Fetch it again."
        ) from error
    return num_shards, entries


def _items(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table."""
    if len(data) < _FOOTER_SIZE or struct.unpack_from("<Q", data, len(data) - 8)[0] != _MAGIC:
        raise _Malformed("it does not end in a LevelDB table's footer")
    footer = data[-_FOOTER_SIZE:-8]
    _, at = _handle(footer, 0)  # of the metaindex block, which holds nothing we need
    index, _ = _handle(footer, at)
    for _, value in _block(data, index):
        block, _ = _handle(value, 0)
        yield from _block(data, block)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle
    end = offset + size
    if end + _TRAILER_SIZE > len(data) - _FOOTER_SIZE:
        raise _Malformed(f"a block would end at byte {end}")
    kind, crc = struct.unpack_from("<BI", data, end)
    if masked_crc32c(data[offset : end + 1]) != crc:
        raise _Malformed(f"the block at byte {offset} has another CRC-32C than stored")
    if kind != 0:
        raise _Malformed(f"the block at byte {offset} is compressed (kind {kind}), which checkpoints are not")
    if size < 4:
        raise _Malformed(f"the block at byte {offset} has {size} bytes")
    block = data[offset:end]
    (num_restarts,) = struct.unpack_from("<I", block, size - 4)
    entries_end = size - 4 - 4 * num_restarts
    if entries_end < 0:
        raise _Malformed(f"the block at byte {offset} claims {num_restarts} restart points")
    block = block[:entries_end]
    at, key = 0, b""
    while at < entries_end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + fresh + length > entries_end:
            raise _Malformed(f"an entry of the block at byte {offset} reaches beyond it")
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value & (2**64 - 1), at
    raise _Malformed("a number does not end")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protocol buffer message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _Malformed(f"a message has a field of wire type {kind}")
        if at + size > len(message):
            raise _Malformed("a message is cut short")
        yield tag >> 3, message[at : at + size] if kind == 2 else int.from_bytes(message[at : at + size], "little")
        at += size


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise _Malformed("a message has text where a number belongs")
    return value


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _Malformed("a message has a number where a part belongs")
    return value


def _num_shards(message: bytes) -> int:
    num_shards = 0
    for field, value in _fields(message):
        if field == 1:
            num_shards = _number(value)
        elif field == 2 and _number(value) != 0:
            raise _Malformed("it was written big-endian, which is not read here")
    return num_shards


def _entry(message: bytes) -> Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}  # dtype, shard, offset, size, crc32c
    shape: tuple[int, ...] = ()
    sliced = False
    for field, value in _fields(message):
        if field == 2:
            shape = _shape(_message(value))
        elif field == 7:
            sliced = True
        elif field in numbers:
            numbers[field] = _number(value)
    dtype = _DTYPES.get(numbers[1])
    if dtype is None:
        raise _Malformed(f"a tensor has data type {numbers[1]}, which is not known here")
    size = numbers[5]
    if dtype not in _NOT_NUMPY and not sliced and math.prod(shape) * np.dtype(dtype).itemsize != size:
        raise _Malformed(f"a {dtype} tensor of shape {shape} has {size} bytes")
    return Entry(dtype, shape, numbers[3], numbers[4], size, numbers[6], sliced)


def _shape(message: bytes) -> tuple[int, ...]:
    """Of a TensorShapeProto: repeated dim = 2 { size = 1 }. An absent size is 0."""
    shape = []
    for field, value in _fields(message):
        if field == 2:
            sizes = [_number(v) for f, v in _fields(_message(value)) if f == 1]
            shape.append(sizes[-1] if sizes else 0)
    return tuple(shape)
