"""What rooms ask of the operating system alike: cores that may be used, files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

__all__ = ["replacing", "sync_directory", "usable_cores", "user_folder"]

#: On macOS below ``~/Library``; elsewhere the variable of the XDG base directories, and what it defaults to.
_USER_FOLDERS = {
    "cache": ("Caches", "XDG_CACHE_HOME", "~/.cache"),
    "data": ("Application Support", "XDG_DATA_HOME", "~/.local/share"),
}


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield the path of a temporary file that takes the place of `path` if the block ends without an error.

    Parameters
    ----------
    path : path
        Its folder exists.
    durable : bool
        Wait until the data is on the disk, so that a crash of the machine leaves the old file or the new one.
        Without it that holds for a crash of the process only.

    Raises
    ------
    OSError
        If the file cannot be written or put in its place; callers say it in their own type.
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


def user_folder(kind: Literal["cache", "data"]) -> Path:
    """Return the folder for what the package keeps of that kind, for all programs of this user.

    The folder that DELF_ENGINE_HOME names, else ``delf-engine`` in the platform's own: on Linux ``~/.cache`` and
    ``~/.local/share`` (or XDG_CACHE_HOME and XDG_DATA_HOME), on macOS in ``~/Library``.
    """
    given = os.environ.get("DELF_ENGINE_HOME")
    if given:
        return Path(given).expanduser()
    library, variable, default = _USER_FOLDERS[kind]
    if sys.platform == "darwin":
        base = f"~/Library/{library}"
    elif sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    else:
        base = os.environ.get(variable) or default
    return Path(base).expanduser() / "delf-engine"
