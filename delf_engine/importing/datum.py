"""``.datum`` files: arrays as the published DELF code writes them, and the PCA that it keeps in three of them.

A file is one message ``DatumProto {DatumShape shape = 1; FloatList float_list = 2}`` with
``DatumShape {repeated int64 dim = 1 [packed]}`` and ``FloatList {repeated float value = 1 [packed]}``
(tensorflow/models, research/delf/delf/protos/datum.proto).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.importing.wire import Value, message, read_fields, read_varint, varint

__all__ = ["parse_datum", "read_datum", "serialise_datum", "write_datum"]

_KINDS = {2: "float_list", 3: "uint32_list"}


def read_datum(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read a ``.datum`` file.

    Returns
    -------
    array of float32
        Of the shape that the file states.

    Raises
    ------
    FormatError
        If it cannot be read, is not a datum of floats, or its shape does not fit its values.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_datum(data, where=str(path))


def parse_datum(data: bytes, *, where: str = "datum") -> npt.NDArray[np.float32]:
    """Parse the bytes of a ``.datum`` file; `where` names them in errors.

    Raises
    ------
    FormatError
        As `read_datum`.
    """
    dims: list[int] = []
    values = bytearray()
    for number, value in read_fields(data, where):
        if number == 1:
            for inner, dim in read_fields(_body(value, "shape", where), where):
                dims += _dims(dim, where) if inner == 1 else []
        elif number == 2:
            for inner, floats in read_fields(_body(value, "float_list", where), where):
                if inner == 1:  # packed, or one by one: a reader has to take both
                    values += floats if isinstance(floats, bytes) else floats.to_bytes(4, "little")
        elif number in _KINDS:
            raise FormatError(f"{where}: holds {_KINDS[number]}; only float_list is an array of floats")
    if len(values) % 4:
        raise FormatError(f"{where}: {len(values)} bytes are no whole number of floats")
    array = np.frombuffer(bytes(values), "<f4")
    wanted = 1
    for dim in dims:  # whole numbers of any size: what a hostile file states may overflow an int64
        wanted *= dim
    if wanted != len(array):
        raise FormatError(f"{where}: its shape {tuple(dims)} needs {wanted} values, it holds {len(array)}")
    return array.reshape(dims).astype(np.float32)


def serialise_datum(array: npt.NDArray[Any]) -> bytes:
    """Return an array as the bytes of a ``.datum`` file, the very ones that protobuf writes."""
    dims = b"".join(varint(size) for size in array.shape)
    floats = np.ascontiguousarray(array, "<f4").tobytes()
    shape = message(1, dims) if dims else b""
    return message(1, shape) + message(2, message(1, floats) if floats else b"")


def write_datum(path: str | os.PathLike[str], array: npt.NDArray[Any]) -> None:
    """Write an array as a ``.datum`` file, values as float32."""
    Path(path).write_bytes(serialise_datum(array))


def _body(value: Value, name: str, where: str) -> bytes:
    if isinstance(value, int):
        raise FormatError(f"{where}: {name} is a number, not a message")
    return value


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
