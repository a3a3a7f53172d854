"""``DatumProto``: arrays as the published DELF code keeps them, in ``.datum`` files and in ``.delf`` features."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.interchange.messages import DatumProto, parse_message
from delf_engine.support.files import system_errors

__all__ = ["array_of", "parse_datum", "read_datum"]


def read_datum(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read a ``.datum`` file: an array of float32, of the shape that the file states.

    Raises
    ------
    FormatError
        If it cannot be read, is not a datum of floats, or its shape does not fit its values.
    """
    with system_errors(f"{path}: cannot be read"):
        data = Path(path).read_bytes()
    return parse_datum(data, str(path))


def parse_datum(data: bytes, where: str = "datum") -> npt.NDArray[np.float32]:
    """Parse the bytes of a ``.datum`` file, as `read_datum`; `where` names them in errors."""
    return array_of(parse_message(DatumProto, data, where), where)


def array_of(datum: Any, where: str) -> npt.NDArray[np.float32]:
    """Return the array of a `DatumProto`; errors as of `read_datum`."""
    if datum.HasField("uint32_list"):
        raise FormatError(f"{where}: holds uint32_list; only float_list is an array of floats")
    shape, count = tuple(datum.shape.dim), len(datum.float_list.value)
    packed = datum.float_list.SerializeToString()  # its end is the floats: quicker than one by one
    values = np.frombuffer(packed[len(packed) - 4 * count :], "<f4").astype(np.float32)
    if min(shape, default=0) < 0 or math.prod(shape) != count:  # math.prod does not overflow
        raise FormatError(f"{where}: its shape {shape} does not fit the {count} values that it holds")
    try:
        return values.reshape(shape)
    except ValueError as error:  # no values, but dimensions beyond what an array can have
        raise FormatError(f"{where}: its shape {shape} is no shape of an array") from error
