"""What a store does with its LMDB environment: header, transactions, snapshots, and errors in our words."""

from __future__ import annotations

import contextlib
import json
import os
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import lmdb
from filelock import FileLock

from delf_engine.errors import ConfigError, DelfEngineError, FormatError, LockedError
from delf_engine.storage.codec import CODECS
from delf_engine.storage.revision import write_revision
from delf_engine.storage.shared import DATA, TABLES, Environment, leave, mutex

T = TypeVar("T")

VERSION = 1

_FORMAT = "delf-engine feature store"
_HEADER_KEY = b"header"


def write_header(path: Path, shared: Environment, dim: int, codec: str, model: str) -> dict[str, Any]:
    """Make the tables and write the header, which is returned; without it a creation was interrupted.

    A `FormatError` if there is one already.
    """
    header = {"format": _FORMAT, "version": VERSION, "dim": dim, "codec": codec, "model": model}
    environment = shared.live
    tables = [environment.open_db(name) for name in TABLES]
    with environment.begin(write=True) as txn:
        if not txn.put(_HEADER_KEY, json.dumps(header).encode(), db=tables[0], overwrite=False):
            raise FormatError(f"{path}: there is a feature store here already; open it instead")
        write_revision(txn, tables[0], 0)
    return header


def read_header(path: Path, shared: Environment) -> dict[str, Any]:
    """Return the header of the store.

    A `FormatError` if the file is cut short, not a feature store, or of another version.
    """
    environment = shared.live
    # Reading a mapped page beyond the end of the file would kill the process. A second look, because a
    # writer in another process commits first and grows the file to its nominal size a moment later.
    if _missing_bytes(path, environment) > 0:
        time.sleep(0.1)
        if (missing := _missing_bytes(path, environment)) > 0:
            raise FormatError(f"{path / DATA}: the feature store is cut short: {missing} bytes are missing")
    try:
        table = shared.tables[b"meta"]
        with shared.begin() as txn:
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

    def __init__(self, path: Path, shared: Environment, lock: FileLock | None) -> None:
        self._path = path
        self._shared = shared
        self._lock = lock
        self._process = os.getpid()
        self._ticket = object()
        self._leave = weakref.finalize(self, leave, shared, self._ticket, lock, self._process)
        shared.writers += lock is not None

    def close(self) -> None:
        """Close the store and let go of its lock. Closing twice is harmless."""
        self._leave()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            f"{self._path}: an open feature store cannot be pickled; hand its path to the other process, and open "
            f"it there: FeatureStore.open({str(self._path.absolute())!r}, readonly=True)"
        )

    def pin(self) -> None:
        """Answer from what is committed now, whatever is committed later, until the store is closed.

        The file keeps the space of what is removed meanwhile; it is for new images again once the store is closed.
        """
        with mutex, translated(self._path, "is damaged"):
            self._live().snapshots[self._ticket] = self._shared.begin()

    def has_gone_on(self) -> bool:
        """Whether more has been committed than a pinned store answers from."""
        with mutex, translated(self._path, "is damaged"):
            return self._shared.has_changed(self._live().snapshots[self._ticket])

    @property
    def _tables(self) -> dict[bytes, Any]:
        return self._shared.tables

    @property
    def _is_closed(self) -> bool:
        return not self._leave.alive

    def _live(self) -> Environment:
        if self._is_closed:
            raise DelfEngineError(f"{self._path}: the feature store is closed")
        _ = self._shared.tables  # opened before a transaction begins, which they would wait for
        return self._shared

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        with mutex, translated(self._path, "is damaged"):
            shared = self._live()
            if self._ticket not in shared.snapshots:
                with shared.begin() as txn:
                    yield txn
                return
            snapshot = shared.snapshots[self._ticket]
            if not shared.keeps(snapshot):
                raise LockedError(
                    f"{self._path}: changed since it was opened, and what it was then is lost: this process may "
                    "not write the lock there, or the file has outgrown its map. Refresh the engine, or open it "
                    "again"
                )
            yield snapshot

    def _write(self, action: Callable[[Any], T]) -> T:
        with mutex, translated(self._path, "cannot be written, and is as it was before"):
            environment = self._live().live
            if self._lock is None:
                raise LockedError(f"{self._path}: the feature store is open for reading only")
            if self._process != os.getpid():
                raise LockedError(
                    f"{self._path}: opened for writing by process {self._process}, of which this is a fork: it "
                    "reads only. Open it here once the other has closed it"
                )
            while True:
                try:
                    with environment.begin(write=True) as txn:
                        result = action(txn)
                    break
                except lmdb.MapFullError:
                    self._shared.resize(2 * environment.info()["map_size"])
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
