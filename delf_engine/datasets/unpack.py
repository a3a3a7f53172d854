"""Images out of tar files that came over the network: nothing else, and nowhere else than they belong.

Python's own filters (PEP 706) would do for the paths, but not every version that is supported has them, and an
archive of photographs has no business with links at all: one that holds any is refused.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from delf_engine.datasets.table import Layout
from delf_engine.errors import DataError

__all__ = ["Unpacked", "place", "unpack"]

_SUFFIXES = {".jpg", ".jpeg"}
_BLOCK = 1 << 20
_GROWTH = 10  # JPEG files do not shrink; an archive that grows more than this is a bomb
_SLACK = 1 << 30
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Unpacked:
    """What came out of an archive.

    Attributes
    ----------
    hashes : dict of str to str
        SHA-256 of each image by its path below the folder of images.
    left_out : int
        Files that were passed over.
    """

    hashes: dict[str, str]
    left_out: int


class DamagedArchiveError(DataError):
    """An archive that cannot be read to its end, or holds what it must not."""


def unpack(
    archive: Path,
    folder: Path,
    layout: Layout,
    *,
    leave_out: frozenset[str] = frozenset(),
    progress: Callable[[int, int, int], None] | None = None,
) -> Unpacked:
    """Unpack the JPEG files of a tar file, plain or gzip.

    Each appears under its name whole or not at all; one that is there already is replaced. The archive is read
    to its last byte, so that the check sum of gzip is compared.

    Parameters
    ----------
    archive : Path
    folder : Path
        Of the images.
    layout : "flat", "tree" or "letters"
        See `place`.
    leave_out : frozenset of str
        File names to pass over, beside all that is no JPEG by its name.
    progress : callable, optional
        Called with (bytes of the archive read, bytes in all, images so far).

    Raises
    ------
    DamagedArchiveError
        If it is no tar file, ends early, is damaged, holds a link, a device or a path that leads out of the
        folder, two images of one name, or many times its own size.
    OSError
        If an image cannot be written.
    """
    size = archive.stat().st_size
    hashes: dict[str, str] = {}
    left_out, room = 0, _GROWTH * size + _SLACK
    try:
        with _opened(archive) as (raw, stream):
            with tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as tar:
                for member in tar:
                    inside = _checked(member, archive)
                    if inside is None:
                        continue
                    if inside.suffix.lower() not in _SUFFIXES or inside.name in leave_out:
                        left_out += 1
                        continue
                    path = place(str(inside), layout)
                    if path in hashes:
                        raise DamagedArchiveError(f"{archive}: holds two images that would both be {path}")
                    room -= member.size
                    if room < 0:
                        raise DamagedArchiveError(f"{archive}: holds more than {_GROWTH} times its own size")
                    source = tar.extractfile(member)
                    assert source is not None  # it is a regular file
                    hashes[path] = _write(source, folder / path, archive, member.size)
                    if progress is not None:
                        progress(raw.tell(), size, len(hashes))
            while stream.read(_BLOCK):  # to the end, where gzip has its check sum
                pass
    except _DAMAGED as error:
        raise DamagedArchiveError(f"{archive}: damaged, or no tar file: {error}") from error
    if progress is not None:
        progress(size, size, len(hashes))
    return Unpacked(hashes, left_out)


def place(inside: str, layout: Layout) -> str:
    """Return where an image of an archive is put, relative to the folder of images.

    ``flat``: by its name alone. ``tree``: as in the archive, without a leading ``jpg/``. ``letters``: in folders
    of its first three letters, ``a/b/c/abc....jpg``.
    """
    name = inside.rpartition("/")[2]
    if layout == "flat":
        return name
    if layout == "letters":
        return "/".join([*name[:3], name])
    return inside.removeprefix("jpg/")


def partial(path: Path) -> Path:
    """Return the name that an image has while it is written."""
    return path.with_name(f".{path.name}.part")


def _checked(member: tarfile.TarInfo, archive: Path) -> PurePosixPath | None:
    """Return where a file lies in the archive, None for what is passed over; raise for what is not safe."""
    inside = PurePosixPath(member.name)
    what = f"{archive}: refused: {member.name!r}"
    if inside.is_absolute() or ".." in inside.parts:
        raise DamagedArchiveError(f"{what} leads out of the folder that it is unpacked into")
    if not (member.isreg() or member.isdir()):
        raise DamagedArchiveError(f"{what} is a link or a device; only files are expected")
    if any(ord(letter) < 32 or letter in "\\\x7f" for letter in member.name):
        raise DamagedArchiveError(f"{what} is no name for a file")
    return inside if member.isreg() and not inside.name.startswith(".") else None


def _write(source: IO[bytes], target: Path, archive: Path, size: int) -> str:
    """Write one image; return its SHA-256."""
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial(target)
    written = 0
    try:
        with temporary.open("wb") as file:
            while block := source.read(_BLOCK):
                digest.update(block)
                file.write(block)
                written += len(block)
        if written != size:
            raise DamagedArchiveError(f"{archive}: ends in the middle of {target.name}")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return digest.hexdigest()


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open an archive; yield the file, and what unpacks it."""
    with archive.open("rb") as raw:
        compressed = raw.read(2) == _GZIP
        raw.seek(0)
        if compressed:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield raw, stream  # type: ignore[misc]
        else:
            yield raw, raw


def is_full(error: OSError) -> bool:
    """Whether this is what a full disk, or a used-up quota, says."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
