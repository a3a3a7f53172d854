"""The wire format of protocol buffers: as much of it as small messages of known fields need.

Reference: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from delf_engine.errors import FormatError

__all__ = ["VARINT", "Value", "message", "read_fields", "read_varint", "varint"]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: "<Q", FIXED32: "<I"}

Value = int | bytes


def read_varint(data: bytes, start: int, where: str) -> tuple[int, int]:
    """Read an unsigned varint of at most 64 bits; return it and the offset behind it.

    Raises
    ------
    FormatError
        If `data` ends within it, or it is too long.
    """
    value = 0
    for i in range(10):
        if start + i >= len(data):
            raise FormatError(f"{where}: ends within a number at byte {start}")
        byte = data[start + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value >> 64:
                break
            return value, start + i + 1
    raise FormatError(f"{where}: a number at byte {start} has more than 64 bits")


def read_fields(data: bytes, where: str) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field of a message: an int (varint, fixed: its bits), or bytes.

    Raises
    ------
    FormatError
        If `data` is not a message.
    """
    at = 0
    while at < len(data):
        begin = at
        tag, at = read_varint(data, at, where)
        number, kind = tag >> 3, tag & 7
        if number == 0 or kind not in (VARINT, BYTES, *_FIXED):
            raise FormatError(f"{where}: byte {begin} begins no field of a protocol buffer")
        if kind == VARINT:
            value, at = read_varint(data, at, where)
            yield number, value
            continue
        size = struct.calcsize(_FIXED[kind]) if kind in _FIXED else 0
        if kind == BYTES:
            size, at = read_varint(data, at, where)
        if size > len(data) - at:
            raise FormatError(f"{where}: field {number} at byte {begin} is cut off")
        piece, at = data[at : at + size], at + size
        yield number, piece if kind == BYTES else int(struct.unpack(_FIXED[kind], piece)[0])


def varint(value: int) -> bytes:
    """Encode an unsigned number of at most 64 bits."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(number: int, body: bytes) -> bytes:
    """Encode a length-delimited field."""
    return varint(number << 3 | BYTES) + varint(len(body)) + body
