"""Where exported features go: names of images to paths below a folder, files written completely or not at all."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from delf_engine.errors import DataError, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.support import files
from delf_engine.support.files import system_errors

__all__ = ["check_target", "named", "relative_name", "replacing", "write_bytes", "write_folder"]

Items = Iterable[tuple[str, LocalFeatures]]


def relative_name(name: str) -> str:
    """Return the name of an image as a path that cannot leave the folder it is put into.

    It is resolved as if that folder were the root of the file system: a leading ``/`` is dropped, ``.`` and
    double slashes vanish, ``..`` takes one folder back and stops at the root. ``/data/a.jpg`` becomes
    ``data/a.jpg``, ``../x/../a.jpg`` becomes ``a.jpg``; names of neither kind stay as they are.

    Raises
    ------
    DataError
        If nothing is left, or the name holds a zero byte.
    """
    path = posixpath.normpath("/" + name).lstrip("/")
    if not path or "\0" in path:
        raise DataError(f"{name!r} cannot be the name of a file; export this image under another id")
    return path


def named(items: Items) -> Iterator[tuple[str, LocalFeatures]]:
    """Yield the items under their `relative_name`.

    Raises
    ------
    DataError
        If two images get the same name: one would replace the other.
    """
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


def check_target(target: Path, *, folder: bool, replace: bool) -> None:
    """Refuse a target that is of the wrong kind, or holds something that was not meant to be replaced.

    Raises
    ------
    FormatError
        If it is there and `replace` was not asked for (an empty folder is free), or it is a file instead of a
        folder, or a folder instead of a file.
    """
    with system_errors(f"{target}: cannot be written"):
        if not target.exists():
            return
        if target.is_dir() != folder:
            wanted, there = ("a folder", "a file") if folder else ("a file", "a folder")
            raise FormatError(f"{target}: is {there}, but {wanted} is to be written; choose another place")
        occupied = any(target.iterdir()) if folder else True
    if occupied and not replace:
        what = "exists and is not empty" if folder else "exists"
        raise FormatError(
            f"{target}: {what}; choose another place, or replace what is there (replace=True, --replace)"
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of `path` if the block ends without an error.

    Raises
    ------
    FormatError
        If the folder cannot be made, or the file cannot be put in its place.
    """
    inside: list[BaseException] = []  # what the block raised is its own matter
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not durable: a million small files would each wait for the disk, and can be exported again.
        with files.replacing(path, durable=False) as temporary:
            try:
                yield temporary
            except BaseException as error:
                inside.append(error)
                raise
    except OSError as error:
        if error in inside:
            raise
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file such that a crash leaves the old one or the new one.

    Raises
    ------
    FormatError
        If it cannot be written.
    """
    with system_errors(f"{path}: cannot be written"), replacing(path) as temporary:
        temporary.write_bytes(data)


def write_folder(
    folder: Path, items: Items, suffix: str, serialise: Callable[[str, LocalFeatures], bytes], *, replace: bool
) -> int:
    """Write one file for each image, ``NAME`` with `suffix`, sub-folders as in its `relative_name`.

    With `replace`, files of these names are replaced and all others of the folder stay.

    Returns
    -------
    int
        Number of files.

    Raises
    ------
    FormatError
        If the folder may not be used (`check_target`), or a file cannot be written.
    DataError
        If names do not fit; see `named`. Files written before that stay.
    """
    check_target(folder, folder=True, replace=replace)
    with system_errors(f"{folder}: cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, features in named(items):
        write_bytes(folder / f"{name}{suffix}", serialise(name, features))
        count += 1
    return count
