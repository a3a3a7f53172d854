"""Files written whole or not at all, hashes, locks between processes, errors of the system in types of ours."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from delf_engine.errors import DelfEngineError, FormatError, LockedError


@contextlib.contextmanager
def system_errors(what: str, error: type[DelfEngineError] = FormatError) -> Iterator[None]:
    """Turn an `OSError` of the block into an `error` that says ``f"{what}: {reason of the system}"``.

    `what` names the path and what was being done, such as ``"a/b.json: the report cannot be written"``.
    """
    try:
        yield
    except OSError as failure:
        raise error(f"{what}: {failure.strerror or failure}") from failure


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn what libraries raise in the block, which is of any type on a damaged file, into a `FormatError`.

    `what` is as of `system_errors`; errors of ours pass as they are.
    """
    try:
        yield
    except DelfEngineError:
        raise
    except Exception as failure:
        raise FormatError(f"{what}: {getattr(failure, 'strerror', None) or failure}") from failure


def check_target(path: Path, error: type[DelfEngineError] = FormatError) -> None:
    """Raise an error of ours if a file cannot be written: before the work that it is for, not after."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise error(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise error(f"{path}: is a folder; give the name of a file to write")
    with system_errors(f"{path}: cannot be written", error), tempfile.TemporaryFile(dir=folder):
        pass


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of `path` if the block ends without an error.

    A `durable` one waits until the data is on the disk, so that a crash of the machine leaves the old file or the
    new one; otherwise that holds for a crash of the process only. An `OSError` if the file, whose folder exists,
    cannot be written or put in its place; callers say it in their own type.
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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def acquired(path: str | os.PathLike[str], busy: str, error: type[DelfEngineError] = FormatError) -> FileLock:
    """Take the lock file `path` without waiting; whoever calls releases it, from any thread.

    The system lets go of it when the process ends, however it ends. A `LockedError` with the text `busy` if
    another process, or another object of this one, holds it; an error of the type `error` if the file cannot be
    written.
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
