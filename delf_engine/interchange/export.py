"""Writing the features of many images for other software: under which names, each file whole or not at all."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.colmap_text import serialise_colmap
from delf_engine.interchange.delf_file import serialise_delf
from delf_engine.interchange.hloc_file import require_h5py, write_hloc
from delf_engine.support.files import replacing, system_errors

#: What can be written: a folder of ``NAME.delf``, the files of the published DELF code; one HDF5 file of all
#: images, as hloc (Hierarchical-Localization) reads it; a folder of ``NAME.txt`` for COLMAP's feature_importer.
FORMATS = ("delf", "hloc", "colmap")


def export_features(
    format: str,  # noqa: A002 - the word for it
    target: str | os.PathLike[str],
    items: Iterable[tuple[str, LocalFeatures]],
    *,
    replace: bool = False,
    half: bool = False,
) -> int:
    """Write the features of many images, one at a time, for other software.

    Parameters
    ----------
    format : str
        One of `FORMATS`.
    target : path
        File (hloc) or folder, made if need be. A folder must be empty, a file must not exist.
    items : iterable of (name of the image, LocalFeatures)
        Names with sub-folders make sub-folders and never leave the target (`relative_name`).
    replace : bool
        Replace the file, or files of the same name in the folder, where others stay.
    half : bool
        hloc alone: descriptors and scores in half precision. Unlike in hloc, keypoints stay in single precision: a
        half has steps of 1 pixel from 1024 on.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ConfigError
        If there is no such format, it has no half precision, or h5py, which hloc's needs, is not installed.
    FormatError
        If the target is there already or cannot be written. Of hloc's file nothing is written then; files of a
        folder that were written before stay.
    DataError
        If two images get the same name, or the format cannot hold the descriptors.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if half and format != "hloc":
        raise ConfigError(f"half precision is of format hloc alone, not of {format}; leave it out")
    if format == "hloc":
        require_h5py()
    path = Path(target)
    _check_target(path, folder=format != "hloc", replace=replace)
    return _write_hloc(path, items, half) if format == "hloc" else _write_folder(path, items, format)


def relative_name(name: str) -> str:
    """Return the name of an image as a path that cannot leave the folder it is put into.

    It is resolved as if that folder were the root of the file system: a leading ``/`` is dropped, ``.`` and double
    slashes vanish, ``..`` takes one folder back and stops at the root. ``/data/a.jpg`` becomes ``data/a.jpg``,
    ``../x/../a.jpg`` becomes ``a.jpg``; names of neither kind stay as they are. A `DataError` if nothing is left,
    or the name holds a zero byte.
    """
    path = posixpath.normpath("/" + name).lstrip("/")
    if not path or "\0" in path:
        raise DataError(f"{name!r} cannot be the name of a file; export this image under another id")
    return path


def _named(items: Iterable[tuple[str, LocalFeatures]]) -> Iterator[tuple[str, LocalFeatures]]:
    """Yield the items under their `relative_name`; refuse two of the same: one would replace the other."""
    origins: dict[str, str] = {}
    for name, features in items:
        path = relative_name(name)
        if path in origins:
            raise DataError(
                f"images {origins[path]!r} and {name!r} would both be written as {path!r}; export one of them "
                "under another id"
            )
        origins[path] = name
        yield path, features


def _check_target(target: Path, *, folder: bool, replace: bool) -> None:
    """Refuse a target that is of the wrong kind, or holds something that was not meant to be replaced."""
    with system_errors(f"{target}: cannot be written"):
        if not target.exists():
            return
        if target.is_dir() != folder:
            wanted, there = ("a folder", "a file") if folder else ("a file", "a folder")
            raise FormatError(f"{target}: is {there}, but {wanted} is to be written; choose another place")
        if not replace and not (folder and not any(target.iterdir())):
            raise FormatError(
                f"{target}: is there already; choose another place, or replace it (replace=True, --replace)"
            )


def _write_folder(folder: Path, items: Iterable[tuple[str, LocalFeatures]], format: str) -> int:  # noqa: A002
    with system_errors(f"{folder}: cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, features in _named(items):
        colmap = format == "colmap"
        data = serialise_colmap(name, features) if colmap else serialise_delf(features)
        path = folder / f"{name}{'.txt' if colmap else '.delf'}"
        with system_errors(f"{path}: cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, durable=False) as temporary:  # a million small files should not wait for the disk
                temporary.write_bytes(data)
        count += 1
    return count


def _write_hloc(path: Path, items: Iterable[tuple[str, LocalFeatures]], half: bool) -> int:
    with ExitStack() as stack:
        with system_errors(f"{path}: cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(replacing(path, durable=False))
        count = write_hloc(temporary, _named(items), half=half, where=str(path))
        with system_errors(f"{path}: cannot be written"):
            stack.close()
    return count
