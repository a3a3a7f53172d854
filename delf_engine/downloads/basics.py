"""What every download has to do with: on whose behalf it is, hashes, room on the disk."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from delf_engine.errors import DelfEngineError

__all__ = ["Algorithm", "Caller", "Checksum", "check_room", "file_digest", "file_sha256"]

Algorithm: TypeAlias = Literal["sha256", "md5"]

_LABELS = {"sha256": "SHA-256", "md5": "MD5"}


@dataclass(frozen=True)
class Checksum:
    """What the bytes of a file must hash to.

    Attributes
    ----------
    algorithm : "sha256" or "md5"
        MD5 tells damage, not malice; it is here for the publishers who give nothing else.
    value : str
        Hexadecimal digits, lower case.
    """

    algorithm: Algorithm
    value: str

    def __str__(self) -> str:
        return f"{_LABELS[self.algorithm]} {self.value}"


@dataclass(frozen=True)
class Caller:
    """On whose behalf something is downloaded: what its errors are, and what they advise.

    Attributes
    ----------
    error : type of DelfEngineError
        Raised for everything that goes wrong.
    elsewhere : str
        How another folder is chosen, as in "make room or set DELF_ENGINE_HOME to another folder".
    """

    error: type[DelfEngineError]
    elsewhere: str


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return file_digest(path, "sha256")


def file_digest(path: Path, algorithm: Algorithm) -> str:
    """Return the hash of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256() if algorithm == "sha256" else hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_room(folder: Path, needed: int, *, what: str, caller: Caller) -> None:
    """Raise if the disk that holds `folder` has less than `needed` bytes free.

    Parameters
    ----------
    folder : Path
        It, or one above it, exists.
    needed : int
        Bytes.
    what : str
        What they are for.
    caller : Caller
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise caller.error(
            f"{what} needs {_amount(needed)} more, and {_amount(free)} are free at {existing}; nothing that is "
            f"there was lost: make room or {caller.elsewhere}, and give the same command again"
        )


def _amount(size: int) -> str:
    """Return bytes for people: 1.9 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
