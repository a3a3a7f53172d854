"""LMDB environments that the stores of this process share, across threads and forks, and the lock of writers."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb
from filelock import FileLock

from delf_engine.errors import FormatError, LockedError
from delf_engine.support.files import acquired, system_errors
from delf_engine.support.threads import lock_across_forks

DATA = "data.mdb"
TABLES = (b"meta", b"keys", b"names", b"values")

_LOCK, _READERS = ".lock", "lock.mdb"
_MAX_READERS, _READER_BYTES = 1024, 72  # and what is common to all of them
_TWO_PAGES = 2 * 4096  # what LMDB writes first
_LEAST_MAP = 1 << 30

# All environments of this process, by the identity of their files, and the one lock for all they do.
mutex = lock_across_forks()
_shared: dict[tuple[int, int] | None, Environment] = {}


class Environment:
    """An LMDB environment, which all stores of this process that have it open share: it must be opened only once.

    It is opened for writing wherever that is allowed, since a writer may join readers later; only a store that has
    the lock writes. A forked child has to leave its parent's environment alone, and opens its own. `snapshots` are
    transactions of the stores that are pinned, by their tickets; None where one is lost.
    """

    def __init__(self, path: Path, *, map_size: int, readonly: bool) -> None:
        self.path = path.absolute()
        self.users = self.writers = 0
        self.snapshots: dict[object, Any] = {}
        self._map_size = map_size
        self._environment = self._opened(readonly)
        self._tables: dict[bytes, Any] = {}

    @property
    def live(self) -> Any:
        """LMDB's object."""
        if self._environment is None:
            if not (self.path / DATA).is_file():  # LMDB would make a new one
                raise FormatError(f"{self.path}: the feature store is gone from here")
            self._environment = self._opened(readonly=True)
        return self._environment

    @property
    def tables(self) -> dict[bytes, Any]:
        """The tables by name; they exist once there is a header."""
        if not self._tables:  # this waits for a transaction that another process is writing
            self._tables = {name: self.live.open_db(name, create=False) for name in TABLES}
        return self._tables

    def begin(self) -> Any:
        """Begin to read what was last committed."""
        try:
            return self.live.begin()
        except lmdb.MapResizedError:  # a writer in another process has grown it
            self.resize(0)
            return self.live.begin()

    def resize(self, map_size: int) -> None:
        """Map the file anew: in so many bytes, or with 0 as many as it has. Snapshots are lost."""
        self.snapshots = dict.fromkeys(self.snapshots)
        self.live.set_mapsize(map_size)

    def has_changed(self, snapshot: Any) -> bool:
        """Whether anything was committed since a snapshot."""
        return snapshot is None or bool(self.live.info()["last_txnid"] != snapshot.id())

    def keeps(self, snapshot: Any) -> bool:
        """Whether a snapshot is still whole: where no lock can be written, writers do not know of it."""
        return (self._locks and snapshot is not None) or not self.has_changed(snapshot)

    def close(self) -> None:
        """Close it for all who have it open."""
        self.snapshots.clear()
        if self._environment is not None:
            self._environment.close()

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, what belongs to the parent, which goes on with it."""
        self.snapshots.clear()  # not aborted: that would free the places of the parent in the table of readers
        self.writers = 0
        self._tables = {}
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _opened(self, readonly: bool) -> Any:
        data, folder = self.path / DATA, self.path
        self._locks = os.access(folder, os.W_OK)
        if readonly:
            readonly = not (self._locks and os.access(data, os.W_OK))
        options: dict[str, Any] = {
            "max_dbs": len(TABLES),
            "max_readers": _MAX_READERS,
            "max_spare_txns": 0,  # a child would take them for its own
            "readonly": readonly,
            "lock": not readonly or self._locks,
        }
        if options["lock"] and hasattr(os, "posix_fallocate"):  # not on macOS
            _make_readers_file(folder / _READERS)
        try:
            return lmdb.open(os.fsencode(folder), map_size=self._map_size, **options)
        except lmdb.MemoryError:  # the address space is limited
            return lmdb.open(os.fsencode(folder), map_size=_LEAST_MAP, **options)


def join(path: Path, *, readonly: bool, map_size: int) -> Environment:
    """Return the environment in `path` that this process has open, or open it. Whoever calls has to `leave` it.

    It is made if it does not exist, unless `readonly`. A `FormatError` if the file is not one of LMDB's, or cut
    short, or cannot be opened; a `LockedError` if other code in this process has opened it by itself.
    """
    data = path / DATA
    if data.exists() and data.stat().st_size < _TWO_PAGES:  # LMDB would make an empty file anew
        raise FormatError(f"{data}: the feature store is cut short; restore it or build it again")
    try:
        with mutex:
            shared = _shared.get(_key(path))
            if shared is None:
                shared = Environment(path, map_size=map_size, readonly=readonly)
                _shared[_key(path)] = shared
            shared.users += 1
            if not readonly:
                shared.live.reader_check()  # snapshots of readers that were killed would be kept for ever
            return shared
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise FormatError(f"{data}: not a feature store, or damaged: {error}") from error
    except lmdb.Error as error:
        if "already open" in str(error):
            raise LockedError(
                f"{path}: other code in this process has opened the feature store with lmdb; close that first"
            ) from error
        raise FormatError(f"{path}: the feature store cannot be opened: {error}") from error


def leave(
    shared: Environment, ticket: object = None, lock: FileLock | None = None, process: int | None = None
) -> None:
    """Let go of what a store of a process has open; the last one closes the environment."""
    with mutex:
        if (snapshot := shared.snapshots.pop(ticket, None)) is not None:
            snapshot.abort()
        shared.users -= 1
        if not shared.users:
            shared.close()
            for key in [key for key, one in _shared.items() if one is shared]:
                del _shared[key]
        if lock is not None and process == os.getpid():  # a child leaves its parent's lock alone
            shared.writers -= 1
            lock.release()


def lock_for_writing(path: Path) -> FileLock:
    """Take the store's lock.

    A `LockedError` if another process, or another object of this one, is writing to the store; a `FormatError` if
    the lock file cannot be written.
    """
    busy = f"{path}: another process is writing to this feature store; try again later, or open it to read"
    with mutex:
        shared = _shared.get(_key(path))
        if shared is not None and shared.writers:
            busy = f"{path}: this process has it open for writing already; use that object, or open it to read"
    try:
        return acquired(path / _LOCK, f"{busy} (readonly=True), which is never refused")
    except FormatError as error:
        raise FormatError(f"{error}; what cannot be written can be opened to read (readonly=True)") from error


def _make_readers_file(path: Path) -> None:
    """Make LMDB's file of readers with room for all: a page that a full disk lacks kills who touches it."""
    with system_errors(f"{path}: cannot be written"), suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o664)
        try:
            os.posix_fallocate(descriptor, 0, _MAX_READERS * _READER_BYTES)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)


def _key(path: Path) -> tuple[int, int] | None:
    try:
        status = (path / DATA).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _leave_to_parent() -> None:
    for shared in _shared.values():
        shared.leave_to_parent()


os.register_at_fork(after_in_child=_leave_to_parent)
