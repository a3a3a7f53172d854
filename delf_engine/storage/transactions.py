"""`Transactions`: the reading and writing of one LMDB environment by many threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lmdb
from filelock import FileLock

from delf_engine.errors import DelfEngineError, LockedError
from delf_engine.storage.environment import DATA, TABLES, translated, used_bytes

__all__ = ["Transactions"]

T = TypeVar("T")


class Transactions:
    """An open environment, its tables, and the lock of its writer."""

    def __init__(self, path: Path, environment: Any, lock: FileLock | None) -> None:
        self._path = path
        self._environment: Any = environment
        self._lock = lock
        self._mutex = threading.RLock()
        self._tables = {name: environment.open_db(name, create=False) for name in TABLES}

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
            used = used_bytes(environment)
            with contextlib.suppress(OSError):
                if (self._path / DATA).stat().st_size < used:
                    os.truncate(self._path / DATA, used)
            return result
