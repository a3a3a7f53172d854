"""Segments: the immutable parts of a collection, the ids in them, their files, and which of them become one."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.index.segments import disk

MAX_SEGMENTS = 8

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Allocate: TypeAlias = Callable[[str, tuple[int, ...]], npt.NDArray[Any]]  # makes the named array of a new segment


class IdTable:
    """Image ids by row, and rows by image id, without a dictionary: opening costs nothing at any size.

    Arrays: ``id_text`` (T,) uint8, the ids in UTF-8 one after the other; ``id_offsets`` (N + 1,) int64, where each
    begins; ``id_hashes`` (N,) uint64, ascending; ``id_rows`` (N,) int32, the row that has each hash.
    """

    DTYPES: Mapping[str, str] = {"id_text": "|u1", "id_offsets": "<i8", "id_hashes": "<u8", "id_rows": "<i4"}

    def __init__(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        self._text, self._offsets, self._hashes, self._rows = (arrays[name] for name in self.DTYPES)

    @staticmethod
    def build(ids: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays of a table of `ids`, which must differ from each other."""
        texts = [_encoded(image_id) for image_id in ids]
        offsets = np.zeros(len(texts) + 1, "<i8")
        np.cumsum(np.array([len(text) for text in texts], "<i8"), out=offsets[1:])
        hashes = np.array([_hash(text) for text in texts], "<u8")
        rows = np.argsort(hashes, kind="stable").astype("<i4")
        return {
            "id_text": np.frombuffer(b"".join(texts), np.uint8),
            "id_offsets": offsets,
            "id_hashes": hashes[rows],
            "id_rows": rows,
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> str:
        return bytes(self._text[int(self._offsets[row]) : int(self._offsets[row + 1])]).decode(
            "utf-8", "surrogatepass"
        )

    def many(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Return the id of each row, several times faster than one by one; rows are (M,), all of them there."""
        text = self._text.data
        begins, ends = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
        return [str(text[a:b], "utf-8", "surrogatepass") for a, b in zip(begins, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    def find(self, image_id: str) -> int | None:
        """Return the row of an id, or None."""
        value = np.uint64(_hash(_encoded(image_id)))
        at = int(np.searchsorted(self._hashes, value))
        while at < len(self) and self._hashes[at] == value:
            row = int(self._rows[at])
            if self[row] == image_id:
                return row
            at += 1
        return None

    @staticmethod
    def hashes(ids: Sequence[str]) -> npt.NDArray[np.uint64]:
        """Return the hash of each id, (M,) uint64, for `find_many`."""
        return np.array([_hash(_encoded(image_id)) for image_id in ids], np.uint64)

    def find_many(self, ids: Sequence[str], hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the row of each id, (M,) int64, -1 where there is none; faster than to `find` one by one."""
        rows = np.full(len(ids), -1, np.int64)
        if len(self):
            at = np.minimum(np.searchsorted(self._hashes, hashes), len(self) - 1)
            for i in np.flatnonzero(self._hashes[at] == hashes):
                row = self.find(ids[int(i)])
                rows[i] = -1 if row is None else row
        return rows


class Segment:
    """Some images of a collection: arrays that never change, and which rows are alive."""

    def __init__(self, arrays: Arrays, *, name: str | None = None, dead: npt.NDArray[Any] | None = None) -> None:
        self.arrays = arrays
        self.ids = IdTable(arrays)
        self.alive = np.ones(len(self.ids), bool)
        if dead is not None:
            self.alive[dead] = False
        self.name = name  # of its directory; None while it is in memory only
        self.saved_dead = self.dead

    @property
    def dead(self) -> int:
        """Number of removed rows."""
        return len(self.alive) - self.live

    @property
    def live(self) -> int:
        """Number of rows that are there."""
        return int(np.count_nonzero(self.alive))

    def copy(self) -> Segment:
        """Return a segment of the same arrays, from which rows can be removed without the other."""
        return Segment(self.arrays, name=self.name, dead=np.flatnonzero(~self.alive))

    def damaged(self, what: str) -> FormatError:
        """Return the error of a segment that turns out to be damaged when it is searched or merged."""
        return FormatError(
            f"{self.name or 'segment'}: {what} are damaged: they point outside; build the index again"
        )


class Layout(ABC):
    """What a kind of index keeps of its images, beside their ids: arrays, each with its dtype and dimensions."""

    dtypes: Mapping[str, tuple[str, int]]

    @abstractmethod
    def build(self, payloads: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""

    @abstractmethod
    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""

    @abstractmethod
    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""


def built(layout: Layout, images: Mapping[str, Any]) -> Segment:
    """Return images by id, as they are kept, as a segment in memory."""
    return _in_memory({**IdTable.build(list(images)), **layout.build(list(images.values()))})


def merged(layout: Layout, group: Sequence[Segment]) -> Segment:
    """Return the live rows of several segments as one in memory."""
    arrays: dict[str, npt.NDArray[Any]] = {}

    def allocate(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        arrays[name] = np.empty(shape, _dtypes(layout)[name][0])
        return arrays[name]

    _merge(layout, group, allocate)
    return _in_memory(arrays)


def write_segment(path: Path, group: Sequence[Segment], layout: Layout, name: str) -> dict[str, Any]:
    """Write the live rows of several segments as one into a new directory; return its entry in the manifest."""
    folder = path / name
    folder.mkdir()
    arrays: dict[str, npt.NDArray[Any]] = {}

    def allocate(array: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        arrays[array] = disk.create_array(folder / f"{array}.npy", shape, _dtypes(layout)[array][0])
        return arrays[array]

    _merge(layout, group, allocate)
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    files = {f"{array}.npy": disk.seal(folder / f"{array}.npy") for array in arrays}
    disk.sync_directory(folder)
    return {"name": name, "images": sum(segment.live for segment in group), "dead": None, "files": files}


def write_dead(path: Path, segment: Segment, entry: dict[str, Any], generation: int) -> dict[str, Any]:
    """Write which images of a segment are removed, if that has changed; return its entry in the manifest."""
    if segment.dead == segment.saved_dead:
        return entry
    folder, name = path / entry["name"], f"dead-{generation:08d}.npy"
    np.save(folder / name, np.flatnonzero(~segment.alive).astype("<i4"))
    files = {file: seal for file, seal in entry["files"].items() if file != entry["dead"]}
    files[name] = disk.seal(folder / name)
    disk.sync_directory(folder)
    return {**entry, "dead": name, "files": files}


def open_segment(path: Path, entry: Mapping[str, Any], layout: Layout, *, contents: bool) -> Segment:
    """Map a segment; its files are compared with their sizes, and with their checksums if `contents`.

    Raises `FormatError` if it is damaged, `FileNotFoundError` if a file is missing.
    """
    folder = path / entry["name"]
    for file, seal in entry["files"].items():
        disk.check_file(folder / file, seal, contents=contents)
    arrays = {name: disk.open_array(folder / f"{name}.npy", *kind) for name, kind in _dtypes(layout).items()}
    dead = disk.open_array(folder / entry["dead"], "<i4", 1) if entry["dead"] else np.empty(0, "<i4")
    problem = _problem(layout, arrays, dead, entry["images"])
    if problem is not None:
        raise FormatError(f"{folder}: the segment is damaged: {problem}; build the index again")
    return Segment(arrays, name=entry["name"], dead=dead)


def plan(segments: Sequence[Segment], kept: Mapping[str, Any]) -> list[list[Segment]]:
    """Group neighbouring segments that become one: all new ones, then from the end until few enough are left.

    A merge goes on while the segment before is no larger than what was gathered, so that each image is
    rewritten a number of times that grows with the logarithm of the collection.
    """
    groups: list[list[Segment]] = []
    for segment in segments:
        if groups and segment.name not in kept and groups[-1][0].name not in kept:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    sizes = [sum(segment.live for segment in group) for group in groups]
    while len(groups) > MAX_SEGMENTS:
        groups[-2:] = [groups[-2] + groups[-1]]
        sizes[-2:] = [sizes[-2] + sizes[-1]]
        while len(groups) > 1 and sizes[-2] <= sizes[-1]:
            groups[-2:] = [groups[-2] + groups[-1]]
            sizes[-2:] = [sizes[-2] + sizes[-1]]
    return groups


def _dtypes(layout: Layout) -> dict[str, tuple[str, int]]:
    return {**{name: (dtype, 1) for name, dtype in IdTable.DTYPES.items()}, **layout.dtypes}


def _merge(layout: Layout, group: Sequence[Segment], allocate: Allocate) -> None:
    ids = [segment.ids[int(row)] for segment in group for row in np.flatnonzero(segment.alive)]
    for name, array in IdTable.build(ids).items():
        allocate(name, array.shape)[...] = array
    layout.merge(group, allocate)


def _in_memory(arrays: dict[str, npt.NDArray[Any]]) -> Segment:
    # Read-only like mapped ones: the kernels are compiled once for both.
    for array in arrays.values():
        array.flags.writeable = False
    return Segment(arrays)


def _problem(layout: Layout, arrays: Arrays, dead: npt.NDArray[Any], images: int) -> str | None:
    lengths = (len(arrays["id_rows"]), len(arrays["id_hashes"]), len(arrays["id_offsets"]) - 1)
    if lengths != (images,) * 3 or int(arrays["id_offsets"][-1]) != len(arrays["id_text"]):
        return "the table of image ids does not fit"
    if len(dead) and not 0 <= int(dead.min()) <= int(dead.max()) < images:
        return "removed images are out of range"
    return layout.problem(arrays, images)


def row_counts(segment: Segment) -> npt.NDArray[np.int64]:
    """Return the descriptors of each image of a segment, (n,) int64."""
    return np.diff(segment.arrays["row_offsets"])


def offsets_of(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return where each of several runs begins, and where the last ends, (n + 1,) int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _encoded(image_id: str) -> bytes:
    return image_id.encode("utf-8", "surrogatepass")  # undecodable file names hold lone surrogates


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
