"""Writes RAR 5 archives with stored (uncompressed) members, by the published description of the format."""

from __future__ import annotations

import zlib


def _vint(number: int) -> bytes:
    out = bytearray()
    while True:
        low, number = number & 0x7F, number >> 7
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def _header(body: bytes) -> bytes:
    sized = _vint(len(body)) + body
    return zlib.crc32(sized).to_bytes(4, "little") + sized


def write_rar(members: dict[str, bytes | None], links: dict[str, str] | None = None) -> bytes:
    """Members by name, None for a folder; links by name to their target."""
    out = b"Rar!\x1a\x07\x01\x00" + _header(_vint(1) + _vint(0) + _vint(0))
    entries = [(n, d, None) for n, d in members.items()] + [(n, b"", t) for n, t in (links or {}).items()]
    for name, data, target in entries:
        is_folder, data, encoded = data is None, data or b"", name.encode()
        extra = b""
        if target is not None:
            record = _vint(5) + _vint(1) + _vint(0) + _vint(len(target)) + target.encode()
            extra = _vint(len(record)) + record
        flags = 0x02 | (0x01 if extra else 0)
        body = _vint(2) + _vint(flags) + (_vint(len(extra)) if extra else b"") + _vint(len(data))
        body += _vint(0x01 if is_folder else 0x04) + _vint(len(data))
        body += _vint(0o40755 if is_folder else 0o120777 if target else 0o100644)
        body += b"" if is_folder else zlib.crc32(data).to_bytes(4, "little")
        body += _vint(0) + _vint(1) + _vint(len(encoded)) + encoded + extra
        out += _header(body) + data
    return out + _header(_vint(5) + _vint(0) + _vint(0))
