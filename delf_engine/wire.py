"""The wire format of protocol buffers: as much of it as small messages of known fields need.

Reference: https://protobuf.dev/programming-guides/encoding/

`parse_datum` and `serialise_datum` are here as well, for the one message that several files of the published
DELF code share: ``DatumProto {DatumShape shape = 1; FloatList float_list = 2}`` with
``DatumShape {repeated int64 dim = 1 [packed]}`` and ``FloatList {repeated float value = 1 [packed]}``
(tensorflow/models, research/delf/delf/protos/datum.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError

__all__ = [
    "BYTES",
    "FIXED32",
    "VARINT",
    "Value",
    "message",
    "parse_datum",
    "read_fields",
    "read_typed_fields",
    "read_varint",
    "serialise_datum",
    "varint",
]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: "<Q", FIXED32: "<I"}
_DATUM_KINDS = {2: "float_list", 3: "uint32_list"}

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
    for number, _, value in read_typed_fields(data, where):
        yield number, value


def read_typed_fields(data: bytes, where: str) -> Iterator[tuple[int, int, Value]]:
    """Yield number, wire type (`VARINT`, `BYTES`, `FIXED32` or 64 bits) and value of each field of a message.

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
            yield number, kind, value
            continue
        size = struct.calcsize(_FIXED[kind]) if kind in _FIXED else 0
        if kind == BYTES:
            size, at = read_varint(data, at, where)
        if size > len(data) - at:
            raise FormatError(f"{where}: field {number} at byte {begin} is cut off")
        piece, at = data[at : at + size], at + size
        yield number, kind, piece if kind == BYTES else int(struct.unpack(_FIXED[kind], piece)[0])


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


def parse_datum(data: bytes, *, where: str = "datum") -> npt.NDArray[np.float32]:
    """Parse a ``DatumProto``; `where` names it in errors.

    Returns
    -------
    array of float32
        Of the shape that the message states.

    Raises
    ------
    FormatError
        If it is not a datum of floats, or its shape does not fit its values.
    """
    dims: list[int] = []
    values = bytearray()
    for number, value in read_fields(data, where):
        if number == 1:
            for inner, dim in read_fields(_body(value, "shape", where), where):
                dims += _dims(dim, where) if inner == 1 else []
        elif number == 2:
            for inner, kind, floats in read_typed_fields(_body(value, "float_list", where), where):
                if inner == 1:  # packed, or one by one: a reader has to take both
                    values += _floats(kind, floats, where)
        elif number in _DATUM_KINDS:
            raise FormatError(f"{where}: holds {_DATUM_KINDS[number]}; only float_list is an array of floats")
    if len(values) % 4:
        raise FormatError(f"{where}: {len(values)} bytes are no whole number of floats")
    array = np.frombuffer(bytes(values), "<f4")
    wanted = 1
    for dim in dims:  # whole numbers of any size: what a hostile file states may overflow an int64
        wanted *= dim
    if wanted != len(array):
        raise FormatError(f"{where}: its shape {tuple(dims)} needs {wanted} values, it holds {len(array)}")
    try:
        return array.reshape(dims).astype(np.float32)
    except (ValueError, OverflowError) as error:  # no values, but dimensions beyond what an array can have
        raise FormatError(f"{where}: its shape {tuple(dims)} is no shape of an array") from error


def serialise_datum(array: npt.NDArray[Any]) -> bytes:
    """Return an array as the bytes of a ``DatumProto``, the very ones that protobuf writes."""
    dims = b"".join(varint(size) for size in array.shape)
    floats = np.ascontiguousarray(array, "<f4").tobytes()
    shape = message(1, dims) if dims else b""
    return message(1, shape) + message(2, message(1, floats) if floats else b"")


def _body(value: Value, name: str, where: str) -> bytes:
    if isinstance(value, int):
        raise FormatError(f"{where}: {name} is a number, not a message")
    return value


def _floats(kind: int, value: Value, where: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if kind != FIXED32:
        raise FormatError(f"{where}: a value of float_list is not a float of 32 bits")
    return value.to_bytes(4, "little")


def _dims(value: Value, where: str) -> list[int]:
    if isinstance(value, int):
        dims = [value]
    else:
        dims, at = [], 0
        while at < len(value):
            dim, at = read_varint(value, at, where)
            dims.append(dim)
    if any(dim >= 1 << 63 for dim in dims):
        raise FormatError(f"{where}: a dimension is negative")
    return dims
