"""Array files: NumPy's .npy and .npz. Nothing in them is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError, FormatError
from delf_engine.support.files import library_errors, replacing

Array = npt.NDArray[Any]

# What a file of shortlists may hold; all else in it is left alone.
_FIELDS = ("ids", "scores", "distances", "ranks", "queries", "names", "first_rank")
ARRAY_ENDINGS = (".npy", ".npz")


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a file that shortlists are made of; that of an .npy file is called ``ids``.

    A `FormatError` if the file is missing, cut short or damaged, or holds Python objects (pickles).
    """
    with library_errors(f"{path}: cannot be read"):
        return _read_npy(path) if path.suffix.lower() == ".npy" else _read_npz(path)


def write_arrays(path: Path, arrays: Mapping[str, Array | list[str]]) -> None:
    """Write arrays completely or not at all; an .npy file gets ``ids`` alone. The same arrays give the same bytes.

    Errors are those of `delf_engine.reranking.write_rankings`.
    """
    for name, values in arrays.items():
        wrong = next((value for value in values if "\0" in value), None) if isinstance(values, list) else None
        if wrong is not None:
            raise DataError(f"{path}: {name} cannot hold the id {wrong!r} with its zero byte; use .jsonl")
    plain = {name: np.array(a, dtype=str) if isinstance(a, list) else a for name, a in arrays.items()}
    # A file, not a name: numpy would append its ending.
    with library_errors(f"{path}: cannot be written"), replacing(path) as partial, partial.open("wb") as file:
        if path.suffix.lower() == ".npy":
            np.save(file, np.asarray(arrays["ids"]), allow_pickle=False)
        else:
            np.savez(file, allow_pickle=False, **plain)


def _read_npy(path: Path) -> dict[str, Array]:
    try:
        # Mapped, so that a header of a size which the file does not have asks for no memory.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        mapped = np.load(path, allow_pickle=False)  # an empty array has nothing to map
        if isinstance(mapped, np.ndarray) and mapped.size:
            raise
    if not isinstance(mapped, np.ndarray):
        raise FormatError(f"{path}: is a .npz archive by its contents; name it so")
    return {"ids": np.array(mapped)}


def _read_npz(path: Path) -> dict[str, Array]:
    file = np.load(path, allow_pickle=False)
    if isinstance(file, np.ndarray):
        raise FormatError(f"{path}: is a single array, no .npz archive; name it .npy")
    with file:
        found = {name: file[name] for name in _FIELDS if name in file.files}
    return {name: np.char.decode(a, "utf-8") if a.dtype.kind == "S" else a for name, a in found.items()}
