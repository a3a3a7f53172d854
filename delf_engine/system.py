"""What rooms ask of the operating system alike: cores that may be used, files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replacing", "sync_directory", "usable_cores"]


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of `path` if the block ends without an error.

    Parameters
    ----------
    path : path
        Its folder exists.
    durable : bool
        Wait until the data is on the disk, so that a crash of the machine leaves the old file or the new one.
        Without it that holds for a crash of the process only.

    Raises
    ------
    OSError
        If the file cannot be written or put in its place; callers say it in their own type.
    """
    # Not named after `path`: that may be as long as a name can be.
    temporary = path.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names of new files in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
