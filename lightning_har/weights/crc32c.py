"""CRC-32C (Castagnoli), which TensorFlow's files carry, with numpy alone and at memory-file speed.

A CRC is linear over GF(2): a long input is cut into lanes that advance together, a byte a step, and the lanes'
remainders are joined by the matrix that stands for "append so many zero bytes".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Words = npt.NDArray[np.uint32]
_POLYNOMIAL = 0x82F63B78  # reflected
_MASK_DELTA = 0xA282EAD8
_SMALL = 4096


def _byte_table() -> _Words:
    table: _Words = np.arange(256, dtype=np.uint32)
    one, polynomial = np.uint32(1), np.uint32(_POLYNOMIAL)
    for _ in range(8):
        table = (table >> one) ^ (table & one) * polynomial
    return table


_TABLE = _byte_table()
_TABLE_LIST: list[int] = _TABLE.tolist()


def crc32c(data: bytes | memoryview | npt.NDArray[Any]) -> int:
    """The CRC-32C of some bytes, 0..2^32 - 1.

    Args:
        data: Anything with a contiguous buffer; its bytes are read as they lie in memory.
    """
    octets = np.frombuffer(data, np.uint8)
    if octets.size <= _SMALL:
        register = 0xFFFFFFFF
        for octet in octets.tolist():
            register = _TABLE_LIST[(register ^ octet) & 0xFF] ^ (register >> 8)
        return register ^ 0xFFFFFFFF
    # About as many lanes as steps; a power of two, so that the lanes join in pairs.
    lanes = 1 << (octets.size.bit_length() // 2)
    steps = -(-octets.size // lanes)
    # Zeros in front leave a register that starts at 0 as it is.
    padded = np.zeros(lanes * steps, np.uint8)
    padded[padded.size - octets.size :] = octets
    columns = np.ascontiguousarray(padded.reshape(lanes, steps).T)
    registers = np.zeros(lanes, np.uint32)
    for column in columns:
        registers = _TABLE[(registers ^ column) & 0xFF] ^ (registers >> 8)
    shift = _zero_bytes(steps)
    while registers.size > 1:
        registers = _apply(shift, registers[0::2]) ^ registers[1::2]
        shift = _apply(shift, shift)
    start = _apply(_zero_bytes(octets.size), np.array([0xFFFFFFFF], np.uint32))
    return int((registers ^ start)[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview | npt.NDArray[Any]) -> int:
    """The CRC-32C as LevelDB and TensorFlow store it: rotated and shifted, so that CRCs can be nested."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _apply(matrix: _Words, values: _Words) -> _Words:
    """Matrix times bit vectors; column i of the matrix is what bit i becomes."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where(values >> bit & 1, matrix[bit], np.uint32(0))
    return result


def _zero_bytes(count: int) -> _Words:
    """The matrix of appending ``count`` zero bytes."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    result, power = bits, _TABLE[bits & 0xFF] ^ (bits >> 8)
    while count:
        if count & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        count >>= 1
    return result
