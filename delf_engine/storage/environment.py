"""The LMDB environment of a store: its lock, its header, its transactions, and its errors in our words."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lmdb
from filelock import FileLock

from delf_engine.errors import DelfEngineError, FormatError, LockedError
from delf_engine.storage.codec import CODECS
from delf_engine.storage.revision import write_revision
from delf_engine.support.files import acquired

__all__ = [
    "DATA",
    "VERSION",
    "Transactions",
    "lock_for_writing",
    "open_environment",
    "read_header",
    "translated",
    "write_header",
]

T = TypeVar("T")

DATA = "data.mdb"
_TABLES = (b"meta", b"keys", b"names", b"values")
VERSION = 1

_FORMAT = "delf-engine feature store"
_LOCK = ".lock"
_HEADER_KEY = b"header"
_MAX_READERS = 1024
_TWO_PAGES = 2 * 4096  # what LMDB writes first


def write_header(path: Path, environment: Any, dim: int, codec: str, model: str) -> dict[str, Any]:
    """Make the tables and write the header, which is returned; without it a creation was interrupted.

    Raises
    ------
    FormatError
        If there is one already.
    """
    header = {"format": _FORMAT, "version": VERSION, "dim": dim, "codec": codec, "model": model}
    tables = [environment.open_db(name) for name in _TABLES]
    with environment.begin(write=True) as txn:
        if not txn.put(_HEADER_KEY, json.dumps(header).encode(), db=tables[0], overwrite=False):
            raise FormatError(f"{path}: there is a feature store here already; open it instead")
        write_revision(txn, tables[0], 0)
    return header


def lock_for_writing(path: Path) -> FileLock:
    """Take the store's lock; see `delf_engine.support.files.acquired` for the errors."""
    return acquired(path / _LOCK, f"{path}: another process is writing to this feature store; try again later")


def open_environment(path: Path, *, readonly: bool, map_size: int) -> Any:
    """Open the LMDB environment in `path`; it is made if it does not exist, unless `readonly`.

    Raises
    ------
    FormatError
        If the file is not one of LMDB's, or cut short.
    LockedError
        If this process has it open already.
    """
    data = path / DATA
    if data.exists() and data.stat().st_size < _TWO_PAGES:  # LMDB would make an empty file anew
        raise FormatError(f"{data}: the feature store is cut short; restore it or build it again")
    try:
        return lmdb.open(
            os.fsencode(path),  # a name that is not UTF-8 is refused as text
            map_size=map_size,
            max_dbs=len(_TABLES),
            max_readers=_MAX_READERS,
            readonly=readonly,
            lock=not readonly or os.access(path, os.W_OK),
        )
    except (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError) as error:
        raise FormatError(f"{data}: not a feature store, or damaged: {error}") from error
    except lmdb.Error as error:
        if "already open" in str(error):
            raise LockedError(
                f"{path}: this process has the feature store open already; share that object"
            ) from error
        raise FormatError(f"{path}: the feature store cannot be opened: {error}") from error


def read_header(path: Path, environment: Any) -> dict[str, Any]:
    """Return the header of the store.

    Raises
    ------
    FormatError
        If the file is cut short, not a feature store, or of another version.
    """
    # Reading a mapped page beyond the end of the file would kill the process. A second look, because a
    # writer in another process commits first and grows the file to its nominal size a moment later.
    if _missing_bytes(path, environment) > 0:
        time.sleep(0.1)
        if (missing := _missing_bytes(path, environment)) > 0:
            raise FormatError(f"{path / DATA}: the feature store is cut short: {missing} bytes are missing")
    try:
        table = environment.open_db(_TABLES[0], create=False)
        with environment.begin() as txn:
            header = json.loads(txn.get(_HEADER_KEY, db=table) or b"{}")
    except (lmdb.NotFoundError, lmdb.ReadonlyError, lmdb.IncompatibleError, ValueError) as error:
        raise FormatError(f"{path}: an LMDB directory, but not a feature store") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise FormatError(f"{path}: an LMDB directory, but not a feature store, or its creation was interrupted")
    if header.get("version") != VERSION:
        raise FormatError(
            f"{path}: the feature store has format version {header.get('version')}, this version reads {VERSION}"
        )
    if header.get("codec") not in CODECS or not isinstance(header.get("dim"), int):
        raise FormatError(f"{path}: the header of the feature store is damaged: {header}")
    return header


@contextlib.contextmanager
def translated(path: Path, what: str) -> Iterator[None]:
    """Turn LMDB's errors into `FormatError`, but for the one that asks for a larger map."""
    try:
        yield
    except lmdb.MapFullError:
        raise
    except lmdb.Error as error:
        raise FormatError(f"{path}: the feature store {what}: {error}") from error


class Transactions:
    """An open environment, its tables, and the lock of its writer."""

    def __init__(self, path: Path, environment: Any, lock: FileLock | None) -> None:
        self._path = path
        self._environment: Any = environment
        self._lock = lock
        self._mutex = threading.RLock()
        self._tables = {name: environment.open_db(name, create=False) for name in _TABLES}

    def close(self) -> None:
        """Close the store and let go of its lock. Closing twice is harmless."""
        with self._mutex:
            if self._environment is not None:
                self._environment.close()
                self._environment = None
            if self._lock is not None:
                self._lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _live(self) -> Any:
        if self._environment is None:
            raise DelfEngineError(f"{self._path}: the feature store is closed")
        return self._environment

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._mutex, translated(self._path, "is damaged"):
            environment = self._live()
            try:
                txn = environment.begin()
            except lmdb.MapResizedError:  # a writer in another process has grown it
                environment.set_mapsize(0)
                txn = environment.begin()
            with txn:
                yield txn

    def _write(self, action: Callable[[Any], T]) -> T:
        with self._mutex, translated(self._path, "cannot be written, and is as it was before"):
            environment = self._live()
            if self._lock is None:
                raise LockedError(f"{self._path}: the feature store is open for reading only")
            while True:
                try:
                    with environment.begin(write=True) as txn:
                        result = action(txn)
                    break
                except lmdb.MapFullError:
                    environment.set_mapsize(2 * environment.info()["map_size"])
            # LMDB does not write pages that were taken and freed within one transaction. At the end of the
            # file they would make it look cut short to `read_header`.
            used = _used_bytes(environment)
            with contextlib.suppress(OSError):
                if (self._path / DATA).stat().st_size < used:
                    os.truncate(self._path / DATA, used)
            return result


def _used_bytes(environment: Any) -> int:
    """Return the size that the file must have for every page in use to be inside it."""
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _missing_bytes(path: Path, environment: Any) -> int:
    used = _used_bytes(environment)  # before the size of the file, which may grow in between
    return used - (path / DATA).stat().st_size
