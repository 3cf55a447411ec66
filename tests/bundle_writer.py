"""Writes TensorFlow checkpoints for tests: a small LevelDB table, and flat data."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np

from lightning_har.weights.crc32c import masked_crc32c
from lightning_har.weights.tf_bundle import read_index

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def header(num_shards=1, endianness=0):
    return field(1, num_shards) + field(2, endianness) + field(3, field(1, 1))


def entry(array, shard, offset, crc=None, extra=b""):
    octets = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    crc = masked_crc32c(octets) if crc is None else crc
    message = field(1, DTYPES[array.dtype.name]) + field(2, shape) + field(3, shard) + field(4, offset)
    return message + field(5, octets.size) + varint(6 << 3 | 5) + struct.pack("<I", crc) + extra


def block(items, restart_every=4):
    out, restarts, previous = bytearray(), [], b""
    for number, (key, value) in enumerate(items):
        shared = 0
        if number % restart_every == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def table(items, per_block=5, compression=0):
    """A LevelDB table of sorted (key, value) pairs, in several blocks."""
    out = bytearray()

    def add(content):
        handle = varint(len(out)) + varint(len(content))
        kind = bytes([compression])
        out.extend(content + kind + struct.pack("<I", masked_crc32c(content + kind)))
        return handle

    index = []
    for start in range(0, len(items), per_block):
        part = items[start : start + per_block]
        index.append((part[-1][0], add(block(part))))
    footer = add(block([])) + add(block(index))
    return bytes(out) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write_bundle(prefix, tensors, num_shards=1):
    """Write tensors as a checkpoint, spread over its data files in turn."""
    data = [bytearray() for _ in range(num_shards)]
    items = [(b"", header(num_shards))]
    for number, name in enumerate(sorted(tensors)):
        shard = number % num_shards
        items.append((name.encode(), entry(tensors[name], shard, len(data[shard]))))
        data[shard] += tensors[name].tobytes()
    Path(f"{prefix}.index").write_bytes(table(items))
    for shard, octets in enumerate(data):
        Path(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}").write_bytes(octets)


def write_data_for_index(index, prefix, seed=0, scale=0.05):
    """Copy a real index and lay random float32 data beside it. Its CRCs are not those of this data.

    Returns:
        The tensors by name, as they should be read.
    """
    entries = read_index(index)
    shutil.copyfile(index, f"{prefix}.index")
    rng = np.random.default_rng(seed)
    octets = np.zeros(max(e.offset + e.size for e in entries.values()), np.uint8)
    tensors = {}
    for name, e in entries.items():
        tensors[name] = rng.standard_normal(e.shape, np.float32) * np.float32(scale)
        octets[e.offset : e.offset + e.size] = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8)
    octets.tofile(f"{prefix}.data-00000-of-00001")
    return tensors
