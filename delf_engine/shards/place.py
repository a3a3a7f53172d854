"""A place that shards lie in: a folder, or any object store that fsspec reaches; and its files, read back checked.

Credentials, proxies and time limits are fsspec's own. What an object store refuses is tried again with growing
waits. Nothing here lists a store: names come from the plan.
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

from delf_engine.errors import ConfigError, DelfEngineError, FormatError
from delf_engine.support.files import file_sha256, replacing, sync_directory, system_errors

T = TypeVar("T")
Seal: TypeAlias = dict[str, Any]  # {"bytes": int, "sha256": hexadecimal digits}

#: Seconds before a store is asked again.
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)

# What another try does not change.
_FINAL = (
    DelfEngineError,
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ImportError,
    TypeError,
)


class Place:
    """A folder or a store, by its address: a path, or ``s3://bucket/folder``, ``gs://``, ``az://``, ``memory://``, ...

    A `ConfigError` if fsspec does not know such addresses, or lacks a package for them.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.address = os.fspath(address).rstrip("/") or "/"
        try:
            # Listings that are kept would hide what other workers have done since.
            self.fs, root = url_to_fs(self.address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{self.address}: not an address that can be used here: {error}") from error
        self.root = root.rstrip("/")
        self.local = Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def __str__(self) -> str:
        return self.address

    def path(self, name: str) -> str:
        """Return the path of a file in the file system."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str, *, size: int | None = None) -> bytes | None:
        """Return a file's bytes, None if there is none; a `FormatError` if it cannot be read, all `size` of them."""

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
        if self.read(name) is not None:
            return False
        try:
            if self.local is None:
                self._asked(lambda: self.fs.pipe_file(self.path(name), contents, mode="create"), name, "refused")
            else:
                self._linked(self.local / name, contents)
        except FileExistsError:  # perhaps ours, and the answer was lost
            return self.read(name) == contents
        except FormatError:  # perhaps a store without conditional writes
            self.write(name, contents)
        return True

    def _linked(self, path: Path, contents: bytes) -> None:
        spare = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with spare.open("wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            os.link(spare, path)
            sync_directory(path.parent)
        except FileExistsError:
            raise
        except OSError as error:  # perhaps a file system without hard links
            raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from error
        finally:
            spare.unlink(missing_ok=True)

    def upload(self, source: Path, name: str) -> Seal:
        """Put a file into a store, whole; return its size and hash."""
        seal = sealed(source)

        def put() -> None:
            self.fs.put_file(str(source), self.path(name))
            if (size := self.fs.size(self.path(name))) != seal["bytes"]:
                raise EOFError(f"{size} bytes have arrived of {seal['bytes']}")

        self._asked(put, name, "cannot be written")
        return seal

    def download(self, name: str, target: Path, seal: Seal) -> None:
        """Get a file from a store; a `FormatError` unless it comes as it was sealed."""

        def get() -> None:
            self.fs.get_file(self.path(name), str(target))
            if (found := sealed(target)) != seal:
                raise EOFError(_different(found, seal))

        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._asked(get, name, "is damaged or cannot be read")
        except FileNotFoundError as error:
            raise FormatError(f"{self}/{name}: missing, though its part is marked as done") from error

    def check(self, name: str, seal: Seal) -> None:
        """Raise `FormatError` unless a file of a folder is as it was sealed."""
        with system_errors(f"{self}/{name}: cannot be read, though its part is marked as done"):
            found = sealed(Path(self.path(name)))
        if found != seal:
            raise FormatError(f"{self}/{name}: damaged: {_different(found, seal)}")

    def remove(self, name: str) -> None:
        """Delete a folder of what is not needed, if it can be."""
        with suppress(Exception):
            self.fs.rm(self.path(name), recursive=True)

    def _asked(self, call: Callable[[], T], name: str, what: str) -> T:
        """Return what a call returns, tried again where that may help; a `FormatError` if it does not."""
        for wait in (*(WAITS if self.local is None else ()), None):
            try:
                return call()
            except (FileNotFoundError, FileExistsError, NotADirectoryError):
                raise  # an answer
            except Exception as error:
                refused = is_about_the_file(error) and not isinstance(error, EOFError)
                hopeless = refused or isinstance(error, _FINAL) or "Credentials" in type(error).__name__
                if hopeless or wait is None:
                    reason = str(error) or type(error).__name__
                    raise FormatError(f"{self}/{name}: {what}: {reason}") from error
                time.sleep(wait * random.uniform(0.5, 1.0))  # not all workers at once
        raise AssertionError


def is_about_the_file(error: BaseException | None) -> bool:
    """Whether a file came cut short each time, or a web server refused it: others may well come."""
    refused = getattr(error, "status", None)  # of HTTP; the two that are left out mean later
    return isinstance(error, EOFError) or (
        isinstance(refused, int) and refused // 100 == 4 and refused not in (408, 429)
    )


def sealed(path: Path) -> Seal:
    """Return size and hash of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def digest(contents: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(contents).hexdigest()


def _different(found: Seal, seal: Seal) -> str:
    if found["bytes"] != seal["bytes"]:
        return f"{found['bytes']} bytes, {seal['bytes']} were written"
    return "its checksum does not match"
