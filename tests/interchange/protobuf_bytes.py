"""Bytes of protocol buffers written by hand after their encoding guide, without the code under test."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


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
