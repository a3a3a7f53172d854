"""Files of an index: written completely or not at all, named with their size and checksum in one manifest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.support.files import replacing, sync_directory

MANIFEST = "index.json"
VERSION = 1

_FORMAT = "delf-engine index"
_BLOCK = 1 << 20
_OURS = ("segment-*", "*.tmp")


def create_array(path: Path, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Make an .npy file and return its contents, mapped for writing."""
    shape = tuple(int(n) for n in shape)  # the header would keep numpy's own integers as such
    if 0 in shape:  # nothing to map
        empty = np.empty(shape, dtype)
        np.save(path, empty)
        return empty
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # writing to a map when the disk is full would kill the process
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def open_array(path: Path, dtype: str, ndim: int) -> npt.NDArray[Any]:
    """Map an .npy file for reading; a `FormatError` if it is damaged, or its contents are of another kind."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as first:
        try:  # an empty array has nothing to map
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise FormatError(f"{path}: cannot be read as an array: {first}") from first
        array.flags.writeable = False
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        raise FormatError(
            f"{path}: holds {array.dtype} in {array.ndim} dimension(s), wanted {np.dtype(dtype)} in {ndim}"
        )
    return np.asarray(array)


def seal(path: Path) -> dict[str, int]:
    """Bring a file to the disk and return its size and checksum."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "crc32": _crc(path)}


def check_file(path: Path, entry: Mapping[str, int], *, contents: bool) -> None:
    """Compare a file with its size in the manifest, and with its checksum where `contents` is asked for.

    Raises `FormatError` if it differs, `FileNotFoundError` if it is missing.
    """
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise FormatError(f"{path}: the file is cut short or damaged: {size} bytes instead of {entry['bytes']}")
    if contents and _crc(path) != entry["crc32"]:
        raise FormatError(f"{path}: the file is damaged: its checksum does not match; build the index again")


def check_index(directory: str | os.PathLike[str]) -> Iterator[tuple[Path, str | None]]:
    """Compare every file of a saved index of any kind with its size and checksum.

    Parameters
    ----------
    directory : path

    Yields
    ------
    path : Path
    problem : str or None
        What is wrong with it; None: nothing.

    Raises
    ------
    FormatError
        If there is no index, or its manifest is damaged.
    """
    folder = Path(directory)
    files: list[tuple[Path, Mapping[str, int]]] = []
    for segment in read_manifest(folder)["segments"]:
        files += [(folder / segment["name"] / name, entry) for name, entry in segment["files"].items()]
    for path, entry in sorted(files, key=lambda file: file[0]):
        try:
            check_file(path, entry, contents=True)
            yield path, None
        except FileNotFoundError:
            yield path, f"{path}: a file of the index is missing"
        except FormatError as error:
            yield path, str(error)
        except OSError as error:  # such as a bad block
            yield path, f"{path}: cannot be read: {error}"


def has_index(directory: str | os.PathLike[str]) -> bool:
    """Whether an index of any kind and version was saved here and its manifest is whole, whatever its segments."""
    with contextlib.suppress(FormatError):
        read_manifest(Path(directory))
        return True
    return False


def saved_mark(directory: Path) -> dict[str, Any] | None:
    """Return the mark that an index was last saved with; None, too, if there is none or it cannot be read."""
    with contextlib.suppress(FormatError):
        mark: dict[str, Any] | None = read_manifest(directory)["mark"]
        return mark
    return None


def read_manifest(directory: Path, *kinds: str) -> dict[str, Any]:
    """Return the manifest of an index; without `kinds`, of any kind and version.

    A `FormatError` if there is none, or it is damaged, of another kind, or of another version.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        claimed = manifest.pop("crc32", None)
    except FileNotFoundError as error:
        raise FormatError(f"{directory}: there is no index here") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: the manifest cannot be read: {error}") from error
    if manifest.get("format") != _FORMAT:
        raise FormatError(f"{path}: not the manifest of an index")
    if kinds and manifest.get("kind") not in kinds:
        wanted = " or ".join(repr(kind) for kind in kinds)
        raise FormatError(f"{path}: an index of kind {manifest.get('kind')!r}, wanted {wanted}")
    if kinds and manifest.get("version") != VERSION:
        raise FormatError(
            f"{path}: the index has format version {manifest.get('version')}, this version reads {VERSION}"
        )
    if claimed != zlib.crc32(_canonical(manifest)):
        raise FormatError(f"{path}: the manifest is damaged: its checksum does not match; build the index again")
    return manifest


def write_manifest(directory: Path, kind: str, version: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the manifest, from which moment on the index is the new one; return it as it will be read."""
    manifest = {**values, "format": _FORMAT, "kind": kind, "version": version}
    text = json.dumps({**manifest, "crc32": zlib.crc32(_canonical(manifest))}, indent=1)
    with replacing(directory / MANIFEST) as temporary:
        temporary.write_text(text)
    sync_directory(directory)
    return json.loads(_canonical(manifest))


def clean(directory: Path, manifest: Mapping[str, Any] | None) -> None:
    """Delete what crashed or earlier saves have left: files of ours that the manifest does not name."""
    named = set()
    if manifest is not None:
        for segment in manifest["segments"]:
            named |= {segment["name"]} | {f"{segment['name']}/{file}" for file in segment["files"]}
    for pattern in _OURS:
        for path in directory.glob(pattern):
            if path.name not in named:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            elif path.is_dir():
                for file in path.iterdir():
                    if f"{path.name}/{file.name}" not in named:
                        file.unlink(missing_ok=True)


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
