"""Getting a data set: files, then archive by archive, each recorded when all of its images are there.

pooch downloads; a file has its name only when it is whole. Whatever is interrupted, the same call begins that file
or archive anew and leaves alone what is finished.
"""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pooch
import requests

from delf_engine.datasets.local import Dataset, Definition, definition, place
from delf_engine.errors import DataError
from delf_engine.support.files import file_sha256, locked, replacing, system_errors

Report = Callable[[str, int, int], None]
"""Called with (what is being done, bytes done, bytes in all or 0)."""

_RETRIES = 2
_BLOCK = 1 << 20
_DAMAGED = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)


def get(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    parts: Iterable[int] | None = None,
    report: Report | None = None,
) -> Dataset:
    """Download and unpack a known data set below `data_folder`, or what is missing of it.

    Parameters
    ----------
    name : str
        One of `KNOWN`.
    root : path or None
        Folder of all data sets; None: as `data_folder` says.
    parts : iterable of int or None
        Numbers of the archives wanted, as `Definition.parts` has them; None: all.
    report : callable or None
        Called with (what is done, bytes done, bytes or 0).

    Raises
    ------
    DataError
        If there is no such set or part, or the network, the disk or the content fails; it says what to do.
    LockedError
        If another process is getting the same set.
    """
    known = definition(name)
    wanted = set(known.parts if parts is None else parts)
    if not wanted <= set(known.parts):
        raise DataError(f"{name} has the parts {known.first_part} to {known.last_part}, not {sorted(wanted)}")
    dataset = Dataset.of(known, root)
    with system_errors(_unwritable(dataset.folder), DataError):
        dataset.folder.mkdir(parents=True, exist_ok=True)
    busy = f"{dataset.folder}: another process is getting this data set; wait until it is done"
    with locked(dataset.folder / ".lock", busy, DataError):
        for file, url in known.files.items():
            path, sha256 = dataset.folder / file, known.hashes.get(file)
            if path.is_file() and sha256 not in (None, file_sha256(path)):
                raise DataError(f"{path}: is not the official file, SHA-256 {sha256}; move it away to get it")
            _download(url, path, sha256, report)
        for part in sorted(wanted.intersection(dataset.missing_parts())):
            _part(dataset, known, part, report)
    found = Dataset.of(known, root)
    missing = found.missing() if len(found.parts) == len(known.parts) else []
    if missing:
        raise DataError(
            f"{found.folder}: all archives are unpacked, but {len(missing)} of {len(found.expected)} images are "
            f"not there, such as {missing[0]}: the publisher has changed archives or list; see data check {name}"
        )
    return found


def _part(dataset: Dataset, known: Definition, part: int, report: Report | None) -> None:
    """Bring and unpack one archive, record it, and only then remove it."""
    archive = dataset.folder / "archives" / known.images / known.archive_name(part)
    note = archive.with_name(f"{archive.name}.md5")
    published = None
    if known.md5 is not None:
        _download(known.md5.format(part), note, None, report)
        found = re.findall(r"\b[0-9a-f]{32}\b", note.read_text(encoding="utf-8", errors="replace").lower())
        if len(found) != 1:
            raise DataError(f"{note}: has {len(found)} MD5 sums instead of one; delete it and try again")
        published = f"md5:{found[0]}"
    _download(known.archive.format(part), archive, published, report)
    record = dataset.record(part)
    with system_errors(_unwritable(archive), DataError):
        try:
            images = _unpack(archive, dataset, known, report)
        except _DAMAGED as error:
            archive.unlink()  # kept, it would fail again and again
            raise DataError(f"{archive}: damaged, or no tar file: {error}; removed, try again") from error
        record.parent.mkdir(parents=True, exist_ok=True)
        with replacing(record) as temporary:
            temporary.write_text("\n".join(images), encoding="utf-8", errors="surrogateescape")
        archive.unlink()
        note.unlink(missing_ok=True)


def _download(url: str, path: Path, known_hash: str | None, report: Report | None) -> None:
    """Download a file unless it is there as it should be."""
    bar = _Bar(f"downloading {path.name}", report)
    plain = {"Accept-Encoding": "identity"}

    def download(url: str, target: str, store: Any) -> None:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=_BLOCK, timeout=30, headers=plain)(url, target, store)
        if bar.total and os.path.getsize(target) != bar.total:
            raise ValueError(f"the connection closed after {os.path.getsize(target)} of {bar.total} bytes")

    pooch.get_logger().setLevel(logging.WARNING)
    names = {"registry": {path.name: known_hash}, "urls": {path.name: url}}
    store = pooch.create(path.parent, "", **names, retry_if_failed=_RETRIES)
    with system_errors(_unwritable(path), DataError):
        try:
            store.fetch(path.name, downloader=download)
        except (requests.RequestException, ValueError) as error:
            raise DataError(
                f"{url}: cannot be downloaded: {error}; try again, or put the file by hand at {path}"
            ) from error


def _unpack(archive: Path, dataset: Dataset, known: Definition, report: Report | None) -> list[str]:
    """Unpack the JPEG files of an archive, each whole under its name or not at all; return their places."""
    images, scratch, done = [], dataset.folder / ".unpacking", 0
    shutil.rmtree(scratch, ignore_errors=True)  # of an interrupted call
    with tarfile.open(archive) as tar:
        for member in tar:
            name = os.path.basename(member.name)
            jpeg = member.isfile() and name.lower().endswith((".jpg", ".jpeg")) and not name.startswith(".")
            if not jpeg or name in known.corrupt:
                continue
            safe = tarfile.data_filter(member, str(scratch))  # refuses what leads out of the folder
            tar.extract(safe, scratch, filter="data")
            images.append(place(os.path.normpath(safe.name), known.layout))
            target = dataset.images / images[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(scratch / safe.name, target)
            done += member.size
            if report is not None:
                report(f"unpacking {archive.name}", done, 0)
        while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
            pass  # to the end, where gzip has its check sum
    shutil.rmtree(scratch, ignore_errors=True)
    return images


def _unwritable(path: Path) -> str:
    return f"{path}: cannot be written (make room, or choose another folder with --root or DELF_ENGINE_DATA)"


class _Bar:
    """What pooch asks of a progress bar, handed on to a `Report`."""

    def __init__(self, what: str, report: Report | None) -> None:
        self.what, self.report = what, report
        self.total = self.done = 0

    def update(self, size: int) -> None:
        self.done += size
        if self.report is not None:
            self.report(self.what, min(self.done, self.total or self.done), self.total)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        pass
