"""Arrays in one safetensors file that says what it is and has a hash: codebooks and mixtures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.support.files import replacing, sync_directory, system_errors

__all__ = ["content_hash", "read_tensors", "write_tensors"]

_VERSION = "1"


def content_hash(what: str, *arrays: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of float32 arrays and their shapes, in hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"delf-engine {what} {array.shape}".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def write_tensors(
    path: str | os.PathLike[str], what: str, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write a file completely or not at all.

    Raises
    ------
    FormatError
        If it cannot be written.
    """
    from safetensors.numpy import save

    described = {"format": f"delf-engine {what}", "version": _VERSION, **metadata}
    path = Path(path)
    with system_errors(f"{path}: cannot be written"):
        with replacing(path) as temporary:
            temporary.write_bytes(_ordered(save(dict(arrays), described)))
        sync_directory(path.parent)


def _ordered(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in order: the library writes them in any, and other bytes so."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def read_tensors(
    path: str | os.PathLike[str], what: str, names: tuple[str, ...]
) -> tuple[list[npt.NDArray[np.float32]], dict[str, str]]:
    """Return the named arrays of a file and its metadata.

    Raises
    ------
    FormatError
        If it is missing, damaged, something else, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != f"delf-engine {what}":
                raise FormatError(f"{path}: a safetensors file, but not a {what}")
            if metadata.get("version") != _VERSION:
                raise FormatError(
                    f"{path}: the {what} has format version {metadata.get('version')}, this version reads "
                    f"{_VERSION}"
                )
            return [file.get_tensor(name) for name in names], metadata
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read as a {what}: {error}") from error
