"""The folder of a synthesized set: whose it is, what of it is whole, what happens when the disk fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from delf_engine.errors import DataError, FormatError, MismatchError
from delf_engine.support.files import replacing
from delf_engine.synthesis.plan import Chunk, Options
from delf_engine.synthesis.records import GEOMETRY, PhotoRecord

__all__ = [
    "PARTS",
    "PHOTOS",
    "SUMMARY",
    "disk_errors",
    "explained",
    "identity",
    "known_records",
    "prepared",
    "room_for",
    "whole",
    "write",
]

#: Name of the file that says how a set was made.
SUMMARY = "synthesis.json"

PHOTOS, PARTS = "jpg", "parts"  #: Folders of the photographs, and of the records while the work goes on.

_FORMAT = 1  # another number: other pixels for the same options, or other files
_BYTES_A_PIXEL = 0.16


def identity(options: Options, name: str) -> dict[str, Any]:
    """Return what a set is determined by; equal ones give equal bits."""
    versions = {"format": _FORMAT, "opencv": cv2.__version__, "numpy": np.__version__}
    return {"name": name, "options": options.to_dict(), "versions": versions}


def prepared(folder: Path, options: Options, name: str) -> Path:
    """Make the folder ready, or refuse it before anything is changed."""
    wanted, summary = identity(options, name), folder / SUMMARY
    with disk_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: is a file; name a folder to write to")
        if summary.exists():
            _check_same(summary, wanted)
        elif folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise DataError(f"{folder}: holds other files; name an empty folder or a new one")
        folder.mkdir(parents=True, exist_ok=True)
        if not summary.exists():  # first of all: what is killed then is known again
            write(summary, json.dumps({**wanted, "complete": False}, indent=1).encode())
        for each in (folder / PHOTOS, folder / PARTS):
            each.mkdir(exist_ok=True)
    return folder


def _check_same(summary: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads(summary.read_text(encoding="utf-8"))
        told = {key: found[key] for key in wanted}
    except (UnicodeError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{summary}: is damaged ({error!r}); delete the folder and run again") from error
    flat_found, flat_wanted = ({**x["options"], **x["versions"], "name": x["name"]} for x in (told, wanted))
    other = [
        f"{key} {flat_found.get(key)!r} (now {value!r})"
        for key, value in flat_wanted.items()
        if flat_found.get(key) != value
    ]
    if other:
        raise MismatchError(
            f"{summary.parent}: holds a set with {', '.join(other)}; use these options again, or another folder"
        )


def room_for(folder: Path, options: Options) -> None:
    """Stop at once if the disk cannot hold the set, rather than after most of it."""
    present = sum(entry.stat().st_size for entry in os.scandir(folder / PHOTOS))
    pixels = 0.65 * options.longer_side**2 * (options.images + options.queries)
    missing, free = _BYTES_A_PIXEL * pixels - present, shutil.disk_usage(folder).free
    if missing > free:
        raise DataError(
            f"{folder}: about {missing / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; make room, "
            "choose another folder, or ask for fewer or smaller images"
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the system says of files into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise explained(error, folder) from error


def explained(error: OSError, folder: Path) -> DataError:
    """Return what to say of an error of the system: what failed, where, and what to do."""
    where = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{where}: the disk is full; make room and run again: what is written is kept")
    return DataError(
        f"{where}: cannot be written: {error.strerror or error}; choose a folder that can be written to"
    )


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path, durable=False) as temporary:
        temporary.write_bytes(data)


def known_records(folder: Path) -> dict[str, PhotoRecord]:
    """Return the records of an earlier call; lines that are damaged are passed over and rendered again."""
    known = {}
    for path in (folder / GEOMETRY, *sorted((folder / PARTS).glob("*.jsonl"))):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        for line in lines:
            try:
                record = PhotoRecord.from_json(line)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError):
                continue
            known[record.name] = record
    return known


def whole(folder: Path, chunk: Chunk, known: dict[str, PhotoRecord]) -> bool:
    """Whether all photographs of a chunk are there, to the last bit."""
    for shot in chunk.shots:
        path = folder / PHOTOS / f"{shot.name}.jpg"
        if shot.name not in known or not path.is_file():
            return False
        if hashlib.sha256(path.read_bytes()).hexdigest() != known[shot.name].sha256:
            return False
    return True
