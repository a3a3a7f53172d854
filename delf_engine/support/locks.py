"""Locks between processes: the system lets go of them when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from filelock import FileLock, Timeout

from delf_engine.errors import DelfEngineError, FormatError, LockedError

__all__ = ["acquired", "locked"]


def acquired(path: str | os.PathLike[str], busy: str, error: type[DelfEngineError] = FormatError) -> FileLock:
    """Take the lock file `path` without waiting; whoever calls releases it, from any thread.

    Raises
    ------
    LockedError
        With the text `busy`, if another process (or another object of this one) holds it.
    DelfEngineError
        Of the type `error`, if the lock file cannot be written.
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as failure:
        raise LockedError(busy) from failure
    except OSError as failure:
        raise error(
            f"{os.fspath(path)}: the lock file cannot be written: {failure.strerror or failure}"
        ) from failure
    return lock


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], busy: str, error: type[DelfEngineError] = FormatError) -> Iterator[None]:
    """Hold the lock file `path` during the block; errors as of `acquired`."""
    lock = acquired(path, busy, error)
    try:
        yield
    finally:
        lock.release()
