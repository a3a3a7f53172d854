"""`Collection`: the images of an index in memory and on disk, whatever the index keeps of each.

Added images wait in memory until a search or a save turns them into a segment, which never changes. A removal
marks a row as dead. On disk an index is a directory: one directory a segment, and a manifest that names them,
written last and replaced in one step, so that a crash at any moment leaves the state that was saved before.
Small neighbouring segments are merged on saving, which keeps the order of insertion and drops dead rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError, LockedError, MismatchError, UnknownIdError
from delf_engine.index import disk
from delf_engine.index.contract import check_ids
from delf_engine.index.ids import IdTable

__all__ = ["Allocate", "Attachment", "Collection", "Layout", "Segment"]

_MAX_SEGMENTS = 8
_CHECKED_BYTES = 64 << 20  # checksums of collections up to this size are compared on loading
_ATTEMPTS = 5

Arrays = Mapping[str, npt.NDArray[Any]]
Allocate = Callable[[str, tuple[int, ...]], npt.NDArray[Any]]  # makes the named array of a new segment
Attachment = tuple[dict[str, Any], Callable[[Path], None]]  # what the manifest says of a file; what writes it


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
        return len(self.alive) - int(np.count_nonzero(self.alive))

    @property
    def live(self) -> int:
        """Number of rows that are there."""
        return int(np.count_nonzero(self.alive))


class Layout(Protocol):
    """What an index keeps of its images, beside their ids."""

    kind: str
    version: int
    dtypes: Mapping[str, tuple[str, int]]  # dtype and number of dimensions of each array

    def build(self, payloads: Sequence[Any]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with them."""


class Collection:
    """Images in the order of insertion, in segments and waiting."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.segments: list[Segment] = []
        self._pending: dict[str, Any] = {}
        self._home: Path | None = None
        self._manifest: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._pending) + sum(segment.live for segment in self.segments)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and (image_id in self._pending or self._find(image_id) is not None)

    def __iter__(self) -> Iterator[str]:
        for segment in self.segments:
            for row in np.flatnonzero(segment.alive):
                yield segment.ids[int(row)]
        yield from self._pending

    def name_of(self, row: int) -> str:
        """Return the id of a row, counted through all segments."""
        for segment in self.segments:
            if row < len(segment.ids):
                return segment.ids[row]
            row -= len(segment.ids)
        raise IndexError(row)

    def rows(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each id, counted through all segments, (M,) int64; -1 where it is not there.

        Images that are waiting have no row yet: see `flush`.
        """
        out = np.full(len(ids), -1, np.int64)
        hashes, first = IdTable.hashes(ids), 0
        for segment in self.segments:
            open_ = np.flatnonzero(out < 0)
            found = segment.ids.find_many([ids[int(i)] for i in open_], hashes[open_])
            there = found >= 0
            there[there] = segment.alive[found[there]]
            out[open_[there]] = first + found[there]
            first += len(segment.ids)
        return out

    def add(self, payloads: Mapping[str, Any]) -> None:
        """Add images that are not there yet."""
        self._pending.update(payloads)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images.

        Raises
        ------
        UnknownIdError
            If one is not there; none is removed then.
        """
        names = list(dict.fromkeys(check_ids(ids)))
        for image_id in names:
            if image_id not in self:
                raise UnknownIdError(f"the index holds no image {image_id!r}")
        for image_id in names:
            if image_id in self._pending:
                del self._pending[image_id]
            elif (place := self._find(image_id)) is not None:
                place[0].alive[place[1]] = False

    def flush(self) -> None:
        """Turn the waiting images into a segment."""
        if self._pending:
            arrays = {**IdTable.build(list(self._pending)), **self.layout.build(list(self._pending.values()))}
            self.segments.append(Segment(_frozen(arrays)))
            self._pending = {}
        recent = [segment for segment in self.segments if segment.name is None]
        if len(recent) > _MAX_SEGMENTS:  # from adding and searching in turns; they are the last ones
            merged: dict[str, npt.NDArray[Any]] = {}

            def allocate(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
                merged[name] = np.empty(shape, self._dtype(name)[0])
                return merged[name]

            self._merge(recent, allocate)
            self.segments = [*self.segments[: -len(recent)], Segment(_frozen(merged))]

    def save(
        self,
        directory: str | os.PathLike[str],
        header: Mapping[str, Any],
        *,
        overwrite: bool = False,
        attachment: Attachment | None = None,
    ) -> None:
        """Write what is new; the collection then lives in `directory`.

        Parameters
        ----------
        directory : path
            Made if need be.
        header : mapping
            What the index wants to find in the manifest.
        overwrite : bool
            Replace an index that this collection was not loaded from.
        attachment : (mapping, callable), optional
            One more file, which is dropped by the next save of another state.

        Raises
        ------
        MismatchError
            If `directory` holds another index and `overwrite` is not set.
        LockedError
            If another process is saving to it, or has since this collection was loaded.
        FormatError
            If it cannot be written. What was saved before is still there.
        """
        self.flush()
        path = Path(directory)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with disk.lock(path):
                self._save(path.resolve(), dict(header), overwrite, attachment)
        except OSError as error:
            raise FormatError(f"{path}: the index cannot be saved: {error}") from error

    @property
    def header(self) -> dict[str, Any]:
        """What the index last saved or loaded in the manifest."""
        return dict(self._manifest["header"])

    @property
    def attachment(self) -> tuple[Path, dict[str, Any]] | None:
        """The attached file and what the manifest says of it, if the collection is still as it was saved."""
        unchanged = not self._pending and all(s.name and s.dead == s.saved_dead for s in self.segments)
        entry = self._manifest.get("attachment")
        return (self._home / entry["name"], entry) if entry and unchanged and self._home else None

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        layout: Callable[[Mapping[str, Any]], Layout],
        kind: str,
        version: int,
        *,
        check: bool | None,
    ) -> Collection:
        """Open a collection that was saved; `layout` makes its layout from the header.

        Raises
        ------
        FormatError
            If it is missing, damaged, cut short, or of another kind or version.
        """
        path = Path(directory).resolve()
        for attempt in range(_ATTEMPTS):
            manifest = disk.read_manifest(path, kind, version)
            try:
                collection = cls(layout(manifest["header"]))
                collection._home, collection._manifest = path, manifest
                sizes = [e["bytes"] for entry in manifest["segments"] for e in entry["files"].values()]
                contents = sum(sizes) <= _CHECKED_BYTES if check is None else check
                collection.segments = [
                    collection._open(path, entry, contents=contents) for entry in manifest["segments"]
                ]
                return collection
            except FileNotFoundError as error:
                # Another process may have merged segments since the manifest was read.
                if attempt == _ATTEMPTS - 1 or disk.read_manifest(path, kind, version) == manifest:
                    raise FormatError(f"{error.filename}: a file of the index is missing") from error
            except (KeyError, TypeError, AttributeError) as error:
                raise FormatError(f"{path / disk.MANIFEST}: the manifest is damaged: {error!r}") from error
        raise AssertionError("unreachable")

    def _find(self, image_id: str) -> tuple[Segment, int] | None:
        for segment in reversed(self.segments):
            row = segment.ids.find(image_id)
            if row is not None and segment.alive[row]:
                return segment, row
        return None

    def _dtype(self, name: str) -> tuple[str, int]:
        return (IdTable.DTYPES[name], 1) if name in IdTable.DTYPES else self.layout.dtypes[name]

    def _merge(self, group: Sequence[Segment], allocate: Allocate) -> None:
        ids = [segment.ids[int(row)] for segment in group for row in np.flatnonzero(segment.alive)]
        for name, array in IdTable.build(ids).items():
            allocate(name, array.shape)[...] = array
        self.layout.merge(group, allocate)

    def _save(self, path: Path, header: dict[str, Any], overwrite: bool, attachment: Attachment | None) -> None:
        layout = self.layout
        found = None
        if (path / disk.MANIFEST).exists():
            found = disk.read_manifest(path, layout.kind, layout.version)
        here = found is not None and path == self._home and found == self._manifest
        if found is not None and not here and not overwrite:
            if path == self._home:
                raise LockedError(
                    f"{path}: another process has saved this index since it was loaded; load it again"
                )
            raise MismatchError(f"{path}: there is another index here; load it, or choose another directory")
        wanted = None if attachment is None else attachment[0]
        if here and found is not None and found["header"] == header and self._saved(path, found, wanted):
            return
        disk.clean(path, found)
        generation = 1 + (found["generation"] if found else 0)
        numbers = iter(range(found["next"] if found else 1, 1 << 62))
        kept = {entry["name"]: entry for entry in found["segments"]} if found and here else {}
        segments, entries = [], []
        for group in _plan(self.segments, kept):
            if not any(segment.live for segment in group):
                continue
            segment = group[0]
            if len(group) == 1 and segment.name in kept and 2 * segment.dead <= len(segment.ids):
                entry = self._with_dead(path, segment, kept[segment.name], generation)
            else:
                entry = self._write(path, group, f"segment-{next(numbers):08d}")
                segment = self._open(path, entry, contents=False)
            segments.append(segment)
            entries.append(entry)
        values = {
            "generation": generation,
            "next": next(numbers),
            "header": header,
            "segments": entries,
            "attachment": None if attachment is None else _attach(path, attachment, generation),
        }
        disk.sync_directory(path)
        self._manifest = disk.write_manifest(path, layout.kind, layout.version, values)
        self._home, self.segments = path, segments
        for segment in segments:
            segment.saved_dead = segment.dead
        disk.clean(path, self._manifest)

    def _saved(self, path: Path, manifest: Mapping[str, Any], attachment: Mapping[str, Any] | None) -> bool:
        """Whether nothing has changed since `manifest`, and it has what is to be attached."""
        if any(segment.name is None or segment.dead != segment.saved_dead for segment in self.segments):
            return False
        there = manifest["attachment"] or {}
        return attachment is None or (
            attachment.items() <= there.items() and disk.intact(path / there["name"], there)
        )

    def _write(self, path: Path, group: Sequence[Segment], name: str) -> dict[str, Any]:
        folder = path / name
        folder.mkdir()
        arrays: dict[str, npt.NDArray[Any]] = {}

        def allocate(array: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
            arrays[array] = disk.create_array(folder / f"{array}.npy", shape, self._dtype(array)[0])
            return arrays[array]

        self._merge(group, allocate)
        for array in arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        files = {f"{array}.npy": disk.seal(folder / f"{array}.npy") for array in arrays}
        disk.sync_directory(folder)
        return {"name": name, "images": sum(segment.live for segment in group), "dead": None, "files": files}

    def _with_dead(self, path: Path, segment: Segment, entry: dict[str, Any], generation: int) -> dict[str, Any]:
        if segment.dead == segment.saved_dead:
            return entry
        folder, name = path / entry["name"], f"dead-{generation:08d}.npy"
        np.save(folder / name, np.flatnonzero(~segment.alive).astype("<i4"))
        files = {file: seal for file, seal in entry["files"].items() if file != entry["dead"]}
        files[name] = disk.seal(folder / name)
        disk.sync_directory(folder)
        return {**entry, "dead": name, "files": files}

    def _open(self, path: Path, entry: Mapping[str, Any], *, contents: bool) -> Segment:
        folder = path / entry["name"]
        for file, seal in entry["files"].items():
            disk.check_file(folder / file, seal, contents=contents)
        names = [*IdTable.DTYPES, *self.layout.dtypes]
        arrays = {name: disk.open_array(folder / f"{name}.npy", *self._dtype(name)) for name in names}
        dead = disk.open_array(folder / entry["dead"], "<i4", 1) if entry["dead"] else np.empty(0, "<i4")
        n = entry["images"]
        lengths = (len(arrays["id_rows"]), len(arrays["id_hashes"]), len(arrays["id_offsets"]) - 1)
        problem = self.layout.problem(arrays, n)
        if lengths != (n, n, n) or int(arrays["id_offsets"][-1]) != len(arrays["id_text"]):
            problem = "the table of image ids does not fit"
        elif len(dead) and not 0 <= int(dead.min()) <= int(dead.max()) < n:
            problem = "removed images are out of range"
        if problem is not None:
            raise FormatError(f"{folder}: the segment is damaged: {problem}; build the index again")
        return Segment(arrays, name=entry["name"], dead=dead)


def _attach(path: Path, attachment: Attachment, generation: int) -> dict[str, Any]:
    description, write = attachment
    name = f"trees-{generation:08d}"
    write(path / name)
    return {**description, "name": name, **disk.seal(path / name)}


def _frozen(arrays: dict[str, npt.NDArray[Any]]) -> Arrays:
    # Read-only like mapped ones: the kernels are compiled once for both.
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _plan(segments: Sequence[Segment], kept: Mapping[str, Any]) -> list[list[Segment]]:
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
    while len(groups) > _MAX_SEGMENTS:
        groups[-2:] = [groups[-2] + groups[-1]]
        sizes[-2:] = [sizes[-2] + sizes[-1]]
        while len(groups) > 1 and sizes[-2] <= sizes[-1]:
            groups[-2:] = [groups[-2] + groups[-1]]
            sizes[-2:] = [sizes[-2] + sizes[-1]]
    return groups
