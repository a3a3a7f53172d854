"""The SQLite file beside the engine: names of uploads, verdicts, jobs. Several servers may share it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_TABLES = """
BEGIN IMMEDIATE;  -- even where all are there: what cannot be written is found out at once
CREATE TABLE IF NOT EXISTS names (id TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verdicts (
  a TEXT NOT NULL, b TEXT NOT NULL, verdict TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (a, b));
CREATE TABLE IF NOT EXISTS jobs (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, done INTEGER NOT NULL, total INTEGER NOT NULL,
  created REAL NOT NULL, seen REAL NOT NULL, owner TEXT NOT NULL, cancel INTEGER NOT NULL DEFAULT 0,
  files TEXT NOT NULL, report TEXT NOT NULL DEFAULT '{}');
COMMIT;
"""
_SECONDS = 10.0  # to wait for another server's transaction
_MOST = 500  # parameters of a statement


class Database:
    """One connection, used by one thread at a time; each statement is a transaction. No path: it is in memory."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        where = ":memory:" if path is None else str(path)
        self._connection = sqlite3.connect(where, _SECONDS, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(_TABLES)

    def run(self, statement: str, *values: Any) -> int:
        """Run a statement; return how many rows it has changed."""
        with self._lock:
            return self._connection.execute(statement, values).rowcount

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        with self._lock:
            return [dict(row) for row in self._connection.execute(statement, values).fetchall()]

    def names(self, ids: Iterable[str]) -> dict[str, str]:
        """Return under which names images were uploaded, of those that were."""
        wanted, found = list(ids), {}
        for start in range(0, len(wanted), _MOST):
            part = wanted[start : start + _MOST]
            marks = ",".join("?" * len(part))
            for row in self.rows(f"SELECT id, name FROM names WHERE id IN ({marks})", *map(plain, part)):
                found[row["id"]] = row["name"]
        return found

    def keep_names(self, names: dict[str, str]) -> None:
        """Keep the names of images."""
        with self._lock, self._connection:
            rows = [(plain(image_id), name) for image_id, name in names.items()]
            self._connection.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def plain(image_id: str) -> str:
    """Return an id as text: bytes of a file's name that are not UTF-8 are escaped, and cannot be asked for."""
    return image_id.encode("utf-8", "backslashreplace").decode()
