"""Writing features and matches for other software: under which names, each file whole or not at all."""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.colmap_database import write_colmap_database
from delf_engine.interchange.colmap_text import serialise_colmap
from delf_engine.interchange.delf_file import serialise_delf
from delf_engine.interchange.hloc_file import require_h5py, write_hloc, write_hloc_matches
from delf_engine.support.files import replacing, system_errors

if TYPE_CHECKING:
    from delf_engine.verification import Verification

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
        Number of images. hloc's file holds names of UTF-8 only: others are left out, each with a
        `DelfEngineWarning`.

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


def export_matches(
    format: str,  # noqa: A002 - as of `export_features`
    target: str | os.PathLike[str],
    pairs: Iterable[tuple[str, str, Verification]],
    features: Callable[[str], LocalFeatures],
    *,
    replace: bool = False,
) -> int:
    """Write verified pairs and the keypoints of their images, ready to be reconstructed or located with.

    Parameters
    ----------
    format : "hloc" or "colmap"
        hloc: a folder with ``features.h5``, ``matches.h5`` and ``pairs.txt``. colmap: a database, with matches and
        two-view geometries.
    target : path
        Folder or file, made if need be. A folder must be empty, a file must not exist.
    pairs : iterable of (name of A, name of B, Verification)
        Names of files from the folder of the photographs, as `relative_name` returns them.
    features : function from name to LocalFeatures
        Those that were verified, such as ``store.get``.
    replace : bool
        Replace the file, or the files in the folder.

    Returns
    -------
    int
        Number of pairs; those with a name that is not UTF-8 are left out, each with a `DelfEngineWarning`.

    Raises
    ------
    ConfigError
        If there is no such format, or h5py or pycolmap, which it needs, is not installed.
    FormatError
        If the target is there already or cannot be written.
    DataError
        If a pair stands twice, its matches are not of these features, an image was turned for it, or the format
        cannot hold a name.
    """
    if format not in ("hloc", "colmap"):
        raise ConfigError(f"matches are written as 'hloc' or 'colmap', got {format!r}")
    path = Path(target)
    _check_target(path, folder=format == "hloc", replace=replace)
    images, checked = _checked_pairs(pairs, features)
    with system_errors(f"{path}: cannot be written"):
        (path if format == "hloc" else path.parent).mkdir(parents=True, exist_ok=True)
        if format == "colmap":
            with replacing(path, durable=False) as temporary:
                write_colmap_database(temporary, images, checked, str(path))
            return len(checked)
        spaced = [name for name in images if name.split() != [name]]
        if spaced:
            raise DataError(f"{path}: pairs.txt cannot hold the name {spaced[0]!r}: blanks separate columns")
        with replacing(path / "matches.h5", durable=False) as temporary:
            write_hloc_matches(temporary, images, checked, str(path / "matches.h5"))
        export_features("hloc", path / "features.h5", images.items(), replace=replace)
        with replacing(path / "pairs.txt", durable=False) as temporary:
            temporary.write_text("".join(f"{a} {b}\n" for a, b, _ in checked), encoding="utf-8")
    return len(checked)


def _checked_pairs(
    pairs: Iterable[tuple[str, str, Verification]], features: Callable[[str], LocalFeatures]
) -> tuple[dict[str, LocalFeatures], list[tuple[str, str, Verification]]]:
    """Return the features of all images by their `relative_name`, in order of appearance, and the pairs."""
    images: dict[str, LocalFeatures] = {}
    checked: list[tuple[str, str, Verification]] = []
    known: set[frozenset[str]] = set()
    for a, b, found in pairs:
        names = relative_name(a), relative_name(b)
        what = f"pair {a!r}, {b!r}"
        if not all(_can_be_told(name, what) for name in names):
            continue
        if frozenset(names) in known or names[0] == names[1]:
            raise DataError(f"{what}: stands twice, or is one image; leave it out")
        if found.rotation:
            raise DataError(f"{what}: an image was turned by {found.rotation} degrees; verify them as they are")
        for given, name in zip((a, b), names, strict=True):
            if name not in images:
                images[name] = features(given)
        sizes = [len(images[name]) for name in names]
        if len(found.matches) and (found.matches >= sizes).any():
            raise DataError(f"{what}: its matches are not of these features, {sizes[0]} and {sizes[1]}")
        known.add(frozenset(names))
        checked.append((*names, found))
    return images, checked


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


def _can_be_told(name: str, what: str) -> bool:
    """Tell whether a name is UTF-8, as that of a file need not be; warn that `what` is left out if it is not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        warnings.warn(
            f"{what}: left out: the name {name!r} is not UTF-8; rename it", DelfEngineWarning, stacklevel=4
        )
        return False
    return True


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
        told = (item for item in _named(items) if _can_be_told(item[0], str(path)))
        count = write_hloc(temporary, told, half=half, where=str(path))
        with system_errors(f"{path}: cannot be written"):
            stack.close()
    return count
