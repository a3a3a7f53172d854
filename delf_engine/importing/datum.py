"""``.datum`` files: arrays as the published DELF code writes them, and the PCA that it keeps in three of them.

A file is one message ``DatumProto`` (tensorflow/models, research/delf/delf/protos/datum.proto).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.wire import parse_datum, serialise_datum

__all__ = ["parse_datum", "read_datum", "serialise_datum", "write_datum"]


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


def write_datum(path: str | os.PathLike[str], array: npt.NDArray[Any]) -> None:
    """Write an array as a ``.datum`` file, values as float32."""
    Path(path).write_bytes(serialise_datum(array))
