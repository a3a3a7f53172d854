"""Bytes of protocol buffers written by hand after their encoding guide, without the code under test."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


def number(value: int) -> bytes:
    return bytes([value % 128 + 128]) + number(value // 128) if value > 127 else bytes([value])


def field(which: int, value: int | bytes) -> bytes:
    """A varint, or what begins with its length."""
    if isinstance(value, int):
        return number(which * 8) + number(value)
    return number(which * 8 + 2) + number(len(value)) + value


def real(which: int, value: float) -> bytes:
    return number(which * 8 + 5) + struct.pack("<f", value)


def serialise_datum(array: npt.NDArray[Any]) -> bytes:
    """A ``DatumProto``, as datum_io.py of the published code writes it."""
    floats = np.ascontiguousarray(array, "<f4").tobytes()
    dims = b"".join(number(size) for size in array.shape)
    return field(1, field(1, dims) if dims else b"") + field(2, field(1, floats) if floats else b"")


def write_datum(path: Path, array: npt.NDArray[Any]) -> None:
    path.write_bytes(serialise_datum(array))


def parsed(read: Callable[..., T], data: bytes, **options: Any) -> T:
    """What a reader of files makes of these bytes; it calls them "here" in errors."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "here"
        path.write_bytes(data)
        return read(path, **options)
