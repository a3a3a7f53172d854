"""The folder of a run: results of finished stages, the state of the one that runs, cached maps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from delf_engine.support.locks import acquired
from delf_engine.training.snapshot import Snapshot, read_snapshot, write_snapshot

__all__ = ["Work", "chained_key", "file_digest", "photographs_key"]


class Work:
    """A folder that one run at a time works in.

    Parameters
    ----------
    folder : path or None
        None: nothing is kept.

    Raises
    ------
    LockedError
        On entering, if another process trains in it.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def __enter__(self) -> Work:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            busy = f"{self.folder}: another training is running in this folder"
            self._lock = acquired(self.folder / "lock", busy)
            shutil.rmtree(self.folder / "cache", ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
            self._lock.release()

    @property
    def cache(self) -> Path | None:
        """Where maps may be cached."""
        return None if self.folder is None else self.folder / "cache"

    def running(self, name: str, key: str) -> Path | None:
        """Return the file for the state of a stage that runs."""
        return None if self.folder is None else self.folder / f"{_plain(name)}-{key[:16]}.running"

    def finished(self, name: str, key: str) -> Path | None:
        """Return the file for the result of a stage."""
        return None if self.folder is None else self.folder / f"{_plain(name)}-{key[:16]}.safetensors"

    def once(self, name: str, key: str, compute: Callable[[], Snapshot]) -> Snapshot:
        """Return what `compute` returns, from disk if an earlier run with the same key has written it."""
        path = self.finished(name, key)
        if path is not None and path.is_file():
            return read_snapshot(path)
        result = compute()
        if path is not None:
            write_snapshot(path, result)
        return result


def chained_key(before: str, *facts: object) -> str:
    """Return a key of all that a stage depends on: the key of what came before, and its own facts."""
    return hashlib.sha256(json.dumps([before, *facts], sort_keys=True).encode()).hexdigest()


def photographs_key(photos: Sequence[str]) -> str:
    """Return a key of a list of photographs: their names and sizes, in order."""
    digest = hashlib.sha256()
    for photo in photos:
        path = Path(photo)
        digest.update(f"{path.name} {path.stat().st_size if path.exists() else -1}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def file_digest(names: Mapping[str, str | os.PathLike[str] | None]) -> dict[str, str]:
    """Return the SHA-256 of each file by name; what is no file (a packaged name, None) stands for itself."""
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else str(file)
        for name, file in names.items()
    }


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
