"""A place that shards lie in: a folder, or any store that fsspec reaches; its files are read back checked.

Credentials and time limits are fsspec's own. What a store does not answer is asked again, with growing waits.
Nothing here lists a store: names come from the plan.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from delf_engine.errors import ConfigError, FormatError
from delf_engine.support.files import file_sha256, replacing, sync_directory, system_errors

T = TypeVar("T")
Seal: TypeAlias = dict[str, Any]  # {"bytes": int, "sha256": hexadecimal digits}

#: Seconds before a store is asked again.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)

_ANSWERS = (FileNotFoundError, FileExistsError, NotADirectoryError)
_LASTING = (PermissionError, IsADirectoryError, NotImplementedError, ImportError, TypeError)


class Place:
    """A folder or a store, by its address: a path, or ``s3://bucket/folder``, ``gs://``, ``az://``, ``memory://``.

    A `ConfigError` if fsspec does not know such addresses, or lacks a package for them.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.address = os.fspath(address).rstrip("/") or "/"
        try:
            address, colons, rest = self.address.partition("::")
            if not colons or "://" not in address or "://" in rest:  # else "::" is a part of a name, no chain
                address, rest = self.address, ""
            if "://" in address:  # listings that are kept would hide what other workers have done since
                self.fs, root = url_to_fs(address, use_listings_cache=False)
                root += rest and f"::{rest}"
            else:  # fsspec would read more into some names of files
                self.fs, root = LocalFileSystem(), os.path.abspath(address)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{self.address}: not an address that can be used here: {error}") from error
        self.root = root.rstrip("/")
        self.local = Path(self.root) if isinstance(self.fs, LocalFileSystem) else None
        self.everywhere = self.address if self.local is None else self.root  # for processes in other folders

    def __str__(self) -> str:
        return self.address

    def path(self, name: str) -> str:
        """Return the path of a file in the file system."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str, *, size: int | None = None) -> bytes | None:
        """Return a file's bytes, None if there is none; a `FormatError` if not all of them, `size`, come."""

        def read() -> bytes:
            contents: bytes = self.fs.cat_file(self.path(name))
            if size is not None and len(contents) != size:
                raise EOFError(f"{len(contents)} bytes came, {size} were to come")
            return contents

        with suppress(FileNotFoundError, NotADirectoryError):
            return self._asked(read, name, "cannot be read")
        return None

    def write(self, name: str, contents: bytes) -> None:
        """Write a small file, whole or not at all; a `FormatError` if it cannot be."""
        if self.local is None:
            with system_errors(f"{self}/{name}: cannot be written"):  # that there is no such bucket
                self._asked(lambda: self.fs.pipe_file(self.path(name), contents), name, "cannot be written")
            return
        path = self.local / name
        with system_errors(f"{path}: cannot be written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(contents)
            sync_directory(path.parent)

    def create(self, name: str, contents: bytes) -> bool:
        """Write a small file unless there is one; return whether what is there is `contents` now."""
        try:
            if self.local is None:
                self._asked(lambda: self.fs.pipe_file(self.path(name), contents, mode="create"), name, "refused")
            else:  # written beside it, and linked: whole, and by one worker only
                spare = f"{name}.{secrets.token_hex(4)}.tmp"
                self.write(spare, contents)
                try:
                    os.link(self.local / spare, self.local / name)
                finally:
                    (self.local / spare).unlink()
        except FileExistsError:  # perhaps ours, and the answer was lost
            return self.read(name) == contents
        except (FormatError, OSError):  # no conditional writes, or no links
            if (there := self.read(name)) is not None:
                return there == contents
            self.write(name, contents)
        return True

    def upload(self, source: Path, name: str) -> Seal:
        """Put a file into a store, whole; return its size and hash."""
        seal = sealed(source)

        def put() -> None:
            self.fs.put_file(str(source), self.path(name))
            if (size := self.fs.size(self.path(name))) != seal["bytes"]:
                raise EOFError(f"{size} bytes have arrived of {seal['bytes']}")

        with system_errors(f"{self}/{name}: cannot be written"):
            self._asked(put, name, "cannot be written")
        return seal

    def fetch(self, name: str, seal: Seal, folder: Path) -> None:
        """Compare a file with its seal, and copy one of a store into `folder`; a `FormatError` if they differ."""
        path = folder / Path(name).name if self.local is None else self.local / name

        def get() -> None:
            if self.local is None:
                folder.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(self.path(name), str(path))
            if (found := sealed(path)) != seal:
                raise EOFError(
                    f"{found['bytes']} bytes and their hash are not the {seal['bytes']} that were written"
                )

        try:
            self._asked(get, name, "is damaged or cannot be read")
        except FileNotFoundError as error:
            raise FormatError(f"{self}/{name}: is missing") from error

    def remove(self, name: str) -> None:
        """Delete a folder of a store that is not needed, if it can be."""
        with suppress(Exception):
            self.fs.rm(self.path(name), recursive=True)

    def _asked(self, call: Callable[[], T], name: str, what: str) -> T:
        """Return what a call returns, tried again where that may help; a `FormatError` if it does not."""
        waits = list(WAITS if self.local is None else ())
        while True:
            try:
                return call()
            except _ANSWERS:
                raise
            except Exception as error:
                hopeless = (
                    isinstance(error, _LASTING) or "Credentials" in type(error).__name__ or is_refused(error)
                )
                if hopeless or not waits:
                    reason = str(error) or type(error).__name__
                    raise FormatError(f"{self}/{name}: {what}: {reason}") from error
            time.sleep(waits.pop(0) * random.uniform(0.5, 1.0))  # not all workers at once


def is_refused(error: BaseException | None) -> bool:
    """Whether a web server refused this very file for good."""
    status = getattr(error, "status", None)
    return isinstance(status, int) and status // 100 == 4 and status not in (408, 429)  # those two mean: later


def sealed(path: Path) -> Seal:
    """Return size and hash of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def digest(contents: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(contents).hexdigest()
