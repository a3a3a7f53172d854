"""Getting a data set: files, then archive by archive, each recorded when it is unpacked.

Killed at any moment, the same call goes on: a transfer from its last byte, an archive that was being unpacked from
its beginning, and what is recorded is not asked for again unless an image of it has gone.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from delf_engine.datasets.local import Dataset, data_folder
from delf_engine.datasets.manifest import FileRecord, Manifest, PartRecord, read_hashes, write_hashes
from delf_engine.datasets.table import Archive, Definition, RemoteFile, definition
from delf_engine.datasets.unpack import DamagedArchiveError, Unpacked, is_full, unpack
from delf_engine.downloads import Caller, Checksum, check_room, download, file_digest, file_sha256
from delf_engine.errors import ConfigError, DataError, DelfEngineError, FormatError, LockedError

__all__ = ["Plan", "Report", "Transfer", "get", "plan"]

Report: TypeAlias = Callable[[str, int, int, int | None], None]
"""Called with (what is being done, bytes done, bytes in all or 0, images so far or None)."""

CALLER = Caller(DataError, "choose another folder with --root or DELF_ENGINE_DATA")

_ARCHIVES = "archives"
_HASHES = ".received"
_MD5 = re.compile(r"\b[0-9a-f]{32}\b")
_SMALLEST_LIMIT = 1 << 30  # bytes accepted where no size is known


@dataclass(frozen=True)
class Transfer:
    """How patient transfers are; see `delf_engine.downloads.download`."""

    timeout: float = 30.0
    retries: int = 4
    pause: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What is still to be done.

    Attributes
    ----------
    definition : Definition
    folder : Path
        Of the set.
    files : tuple of RemoteFile
        To be downloaded.
    parts : tuple of int
        Numbers of the archives to be downloaded and unpacked.
    keep_archives : bool
    """

    definition: Definition
    folder: Path
    files: tuple[RemoteFile, ...]
    parts: tuple[int, ...]
    keep_archives: bool

    @property
    def archives(self) -> tuple[Archive, ...]:
        """The archives of `parts`."""
        return tuple(self.definition.archive(number) for number in self.parts)

    @property
    def download(self) -> int:
        """Bytes that are still to come over the network, roughly."""
        return sum(max(0, archive.about - self._there(archive)) for archive in self.archives)

    @property
    def unpacked(self) -> int:
        """Bytes that the images will take, roughly."""
        return sum(archive.about for archive in self.archives)

    @property
    def room(self) -> int:
        """Bytes that the disk must have free, roughly; an archive goes when it is unpacked, unless it is kept."""
        waiting = [max(0, archive.about - self._there(archive)) for archive in self.archives]
        return self.unpacked + (sum(waiting) if self.keep_archives else max(waiting, default=0))

    def _there(self, archive: Archive) -> int:
        path = archive_path(self.folder, self.definition, archive)
        part = path.with_name(path.name + ".part")
        return next((p.stat().st_size for p in (path, part) if p.is_file()), 0)


def plan(
    name: str | Definition,
    root: str | os.PathLike[str] | None = None,
    *,
    parts: tuple[int, ...] | None = None,
    keep_archives: bool = False,
) -> Plan:
    """Return what `get` would do, without touching the network.

    Raises
    ------
    DataError, ConfigError, FormatError
        As `get`.
    """
    known = definition(name) if isinstance(name, str) else name
    folder = data_folder(root) / known.folder
    wanted = tuple(known.numbers) if parts is None else tuple(sorted(set(parts)))
    strange = [number for number in wanted if number not in known.numbers]
    if strange or not wanted:
        first, last = known.numbers[0], known.numbers[-1]
        raise ConfigError(f"{known.name} has the parts {first} to {last}, not {strange or 'none'}")
    files = tuple(file for file in known.files if not (folder / file.path).is_file())
    dataset = Dataset.of(known, folder)
    if _is_by_hand(dataset) and _has_all(dataset):
        return Plan(known, folder, files, (), keep_archives)
    manifest = Manifest.read(folder)
    waiting = tuple(number for number in wanted if not _is_whole(manifest, known, known.archive(number)))
    return Plan(known, folder, files, waiting, keep_archives)


def get(
    name: str | Definition,
    root: str | os.PathLike[str] | None = None,
    *,
    parts: tuple[int, ...] | None = None,
    keep_archives: bool = False,
    report: Report | None = None,
    transfer: Transfer | None = None,
) -> Dataset:
    """Download and unpack a data set, or what is missing of it.

    Parameters
    ----------
    name : str or Definition
    root : path, optional
        The folder that holds the sets; see `data_folder`.
    parts : tuple of int, optional
        Numbers of the archives wanted, as the publisher numbers them. Default: all.
    keep_archives : bool
        Keep the archives below ``archives/`` of the set's folder when they are unpacked.
    report : callable, optional
    transfer : Transfer, optional

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If the network, the disk or the content fails; it says what is kept and how to go on.
    ConfigError
        If there is no such part.
    FormatError
        If the record of what was received is damaged.
    LockedError
        If another process is getting the same set.
    """
    known = definition(name) if isinstance(name, str) else name
    folder = data_folder(root) / known.folder
    with _locked(folder):
        todo = plan(known, root, parts=parts, keep_archives=keep_archives)
        by_hand = _is_by_hand(Dataset.of(known, folder))
        if not by_hand:
            check_room(folder, todo.room, what=known.name, caller=CALLER)
        work = _Work(known, folder, Manifest.read(folder), report or _silent, transfer or Transfer())
        for file in known.files:
            work.file(file)
        if by_hand:  # only now is it known whether anything is missing
            todo = plan(known, root, parts=parts, keep_archives=keep_archives)
            check_room(folder, todo.room, what=known.name, caller=CALLER)
        for number in todo.parts:
            work.part(known.archive(number), keep=keep_archives)
    return _compared(Dataset.of(known, folder))


def archive_path(folder: Path, known: Definition, archive: Archive) -> Path:
    """Return where an archive lies until it is unpacked; one that was put there by hand is used."""
    return folder / _ARCHIVES / known.images / archive.name


@dataclass(frozen=True)
class _Work:
    """One call of `get`."""

    known: Definition
    folder: Path
    manifest: Manifest
    report: Report
    transfer: Transfer

    def file(self, file: RemoteFile) -> None:
        """Bring one file, unless it is there; one that is there and is another one is refused."""
        path = self.folder / file.path
        checksum = None if file.sha256 is None else Checksum("sha256", file.sha256)
        self._download(file.url, path, checksum, file.path)
        found = file_sha256(path)
        if file.sha256 not in (None, found):
            raise DataError(
                f"{path}: has the SHA-256 {found}, the official file {file.sha256}; move it away to get that one"
            )
        before = self.manifest.files.get(file.path)
        record = FileRecord(file.url, path.stat().st_size, found)
        if before is not None and before.sha256 != found:
            raise DataError(f"{path}: has changed since it was received; move it away to get it again")
        if before != record:
            self.manifest.files[file.path] = record
            self._write_manifest()

    def part(self, archive: Archive, *, keep: bool) -> None:
        """Bring and unpack one archive, record it, and only then remove it."""
        path = archive_path(self.folder, self.known, archive)
        checksum = self._published(archive, path)
        by_hand = path.is_file()
        self._download(archive.url, path, checksum, archive.name, about=archive.about, unpacked=True)
        if by_hand and checksum is not None:
            self._compare(path, checksum)
        sha256, size = file_sha256(path), path.stat().st_size
        unpacked = self._unpack(path)
        hashes = f"{_HASHES}/{self.known.images}/{archive.name}.sha256"
        with _writing(self.folder, path):
            below = {f"{self.known.images}/{name}": value for name, value in unpacked.hashes.items()}
            write_hashes(self.folder / hashes, below)
        self.manifest.parts[f"{self.known.images}/{archive.name}"] = PartRecord(
            archive.url, size, sha256, str(checksum or ""), len(unpacked.hashes), unpacked.left_out, hashes
        )
        self._write_manifest()
        if not keep:
            _remove(path, self.folder / _ARCHIVES)

    def _download(
        self,
        url: str,
        path: Path,
        checksum: Checksum | None,
        what: str,
        *,
        about: int = 0,
        unpacked: bool = False,
    ) -> None:
        download(
            url,
            path,
            checksum,
            caller=CALLER,
            limit=max(_SMALLEST_LIMIT, 4 * about),
            reserve=about if unpacked else 0,
            progress=lambda done, total: self.report(f"downloading {what}", done, total, None),
            timeout=self.transfer.timeout,
            retries=self.transfer.retries,
            pause=self.transfer.pause,
        )
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # nobody else waits: the whole set is locked

    def _published(self, archive: Archive, path: Path) -> Checksum | None:
        """Return the checksum that the publisher keeps beside an archive, if any."""
        if archive.md5_url is None:
            return None
        note = path.with_name(archive.md5_url.rpartition("/")[2])
        self._download(archive.md5_url, note, None, note.name)
        found = _MD5.findall(note.read_text(encoding="utf-8", errors="replace").lower())
        if len(set(found)) != 1:
            note.unlink()
            raise DataError(f"{archive.md5_url}: one MD5 was expected in this file, found {len(found)}")
        return Checksum("md5", found[0])

    def _compare(self, path: Path, checksum: Checksum) -> None:
        found = file_digest(path, checksum.algorithm)
        if found != checksum.value:
            raise DataError(
                f"{path}: expected {checksum}, found {found}: damaged, or another file; delete it and get it again"
            )

    def _unpack(self, path: Path) -> Unpacked:
        images = self.folder / self.known.images
        size = path.stat().st_size
        check_room(self.folder, size, what=f"unpacking {path}", caller=CALLER)
        with _writing(self.folder, path):
            try:
                return unpack(
                    path,
                    images,
                    self.known.layout,
                    leave_out=self.known.corrupt,
                    progress=lambda done, total, count: self.report(f"unpacking {path.name}", done, total, count),
                )
            except DamagedArchiveError as error:
                path.unlink()  # kept, it would fail again and again
                raise DataError(f"{error}. It was removed; the same command downloads it again") from error

    def _write_manifest(self) -> None:
        with _writing(self.folder, self.folder):
            self.manifest.write()


def _compared(dataset: Dataset) -> Dataset:
    """Return a set that has all images that its own list names; raise for one that has not."""
    known = dataset.definition
    assert known is not None
    if len(dataset.parts) < len(known.archives):
        return dataset
    missing = dataset.missing()
    if missing:
        some = f"{', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}"
        raise DataError(
            f"{dataset.folder}: all archives are unpacked, but {len(missing)} of {len(dataset.names)} images are "
            f"not there: {some}. The publisher has changed the archives, or the list of images; see "
            f"delf-engine data check {known.name}"
        )
    return dataset


def _is_by_hand(dataset: Dataset) -> bool:
    """Whether there are images that did not come from here; an archive says that unpacking it was interrupted."""
    known = dataset.definition
    assert known is not None
    waiting = (archive_path(dataset.folder, known, archive) for archive in known.archives)
    return dataset.images.is_dir() and not dataset.parts and not any(path.exists() for path in waiting)


def _has_all(dataset: Dataset) -> bool:
    """Whether all images are there that the set should have, as far as that is known yet."""
    try:
        return not dataset.missing()
    except DelfEngineError:  # no list of them yet, or a wrong one, which is said when it is compared
        return False


def _is_whole(manifest: Manifest, known: Definition, archive: Archive) -> bool:
    """Whether an archive is recorded and all of its images are there, none of them empty."""
    record = manifest.parts.get(f"{known.images}/{archive.name}")
    if record is None:
        return False
    try:
        hashes = read_hashes(manifest.folder / record.hashes)
        return len(hashes) == record.images and all(os.stat(manifest.folder / name).st_size for name in hashes)
    except (FormatError, OSError):
        return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    with _writing(folder, folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise LockedError(
                f"{folder}: another process is getting this data set; wait until it is done"
            ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _writing(folder: Path, what: Path) -> Iterator[None]:
    """Say in the package's own words that something cannot be written."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if is_full(error) else f"cannot be written: {error}"
        raise DataError(
            f"{what}: {reason}; nothing that was finished is lost, the same command goes on from there: make room "
            f"at {folder} or {CALLER.elsewhere}"
        ) from error


def _remove(path: Path, archives: Path) -> None:
    """Remove an archive and what was kept beside it; folders that are empty then go, too."""
    for extra in path.parent.glob("*"):
        left = f"{path.name}.part.json"  # by a sudden end
        if extra.name in (path.name, left) or _is_checksum_of(extra, path):
            extra.unlink(missing_ok=True)
    for folder in (path.parent, archives):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _is_checksum_of(extra: Path, archive: Path) -> bool:
    """Whether this is the publisher's checksum of an archive: ``md5.images_000.txt`` of ``images_000.tar``."""
    return extra.name == f"md5.{archive.stem}.txt"


def _silent(what: str, done: int, total: int, images: int | None) -> None:
    del what, done, total, images
