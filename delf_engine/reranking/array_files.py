"""Array files: NumPy's .npy and .npz, and HDF5. Nothing in them is ever unpickled.

HDF5 needs h5py: ``pip install "delf-engine[hdf5]"``.
"""

from __future__ import annotations

import contextlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, DelfEngineError, FormatError
from delf_engine.support.files import replacing

Array = npt.NDArray[Any]

# What a file of shortlists may hold; all else in it is left alone.
_FIELDS = ("ids", "scores", "distances", "ranks", "queries", "names", "first_rank")
ARRAY_ENDINGS = (".npy", ".npz", ".h5", ".hdf5")

# What numpy, zipfile and h5py raise on damaged files.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a file that shortlists are made of; that of an .npy file is called ``ids``.

    A `FormatError` if the file is missing, cut short or damaged, or holds Python objects (pickles); a
    `ConfigError` if it is HDF5 and h5py is not installed.
    """
    read = {".npy": _read_npy, ".npz": _read_npz}.get(path.suffix.lower(), _read_hdf5)
    with _translated(path, "cannot be read"):
        return read(path)


def write_arrays(path: Path, arrays: Mapping[str, Array | list[str]]) -> None:
    """Write arrays completely or not at all; an .npy file gets ``ids`` alone. The same arrays give the same bytes.

    Errors are those of `delf_engine.reranking.write_rankings`.
    """
    for name, values in arrays.items():
        wrong = next((value for value in values if "\0" in value), None) if isinstance(values, list) else None
        if wrong is not None:
            raise DataError(f"{path}: {name} cannot hold the id {wrong!r} with its zero byte; use .jsonl")
    write = {".npy": _write_npy, ".npz": _write_npz}.get(path.suffix.lower(), _write_hdf5)
    with _translated(path, "cannot be written"), replacing(path) as partial:
        write(partial, arrays)


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


def _read_hdf5(path: Path) -> dict[str, Array]:
    h5py = _h5py()
    out: dict[str, Array] = {}
    with h5py.File(path, "r") as file:
        for name in _FIELDS:
            dataset = file.get(name)
            if dataset is None:
                continue
            if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
                raise FormatError(f"{path}: {name} must be an array, got {dataset}")
            if h5py.check_string_dtype(dataset.dtype) is not None:
                out[name] = np.asarray(dataset.asstr("utf-8")[()]).astype(str)
            elif dataset.dtype.kind in "iuf":
                out[name] = np.asarray(dataset[()])
            else:
                raise FormatError(f"{path}: {name} must hold numbers or strings, got {dataset.dtype}")
    return out


def _write_npy(path: Path, arrays: Mapping[str, Array | list[str]]) -> None:
    with path.open("wb") as file:  # a file, not a name: numpy would append its ending
        np.save(file, np.asarray(arrays["ids"]), allow_pickle=False)


def _write_npz(path: Path, arrays: Mapping[str, Array | list[str]]) -> None:
    plain = {name: np.array(a, dtype=str) if isinstance(a, list) else a for name, a in arrays.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **plain)


def _write_hdf5(path: Path, arrays: Mapping[str, Array | list[str]]) -> None:
    h5py = _h5py()
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if isinstance(values, list):
                file.create_dataset(name, data=np.array(values, object), dtype=h5py.string_dtype("utf-8"))
            else:
                file.create_dataset(name, data=values)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ConfigError('shortlists in HDF5 need h5py: pip install "delf-engine[hdf5]"') from error
    return h5py


@contextlib.contextmanager
def _translated(path: Path, what: str) -> Iterator[None]:
    """Turn what the libraries raise, of many types on a damaged file, into `FormatError`."""
    try:
        yield
    except DelfEngineError:
        raise
    except UnicodeEncodeError as error:  # lone surrogates, which UTF-8 does not have
        raise DataError(f"{path}: cannot hold one of these ids: {error}; use .npz") from error
    except _DAMAGE as error:
        raise FormatError(f"{path}: {what}: {getattr(error, 'strerror', None) or error}") from error
