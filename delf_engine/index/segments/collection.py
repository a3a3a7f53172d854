"""`Collection`: the images of an index in memory and on disk, whatever the index keeps of each.

Added images wait in memory until a search or a save turns them into a segment, which never changes. A removal
marks a row as dead. On disk an index is a directory: one directory a segment, and a manifest that names them,
written last and replaced in one step, so that a crash at any moment leaves the state that was saved before.
Small neighbouring segments are merged on saving, which keeps the order of insertion and drops dead rows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import (
    ConfigError,
    DelfEngineWarning,
    FormatError,
    LockedError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.index.segments import disk
from delf_engine.index.segments.segment import (
    MAX_SEGMENTS,
    IdTable,
    Layout,
    Segment,
    built,
    merged,
    open_segment,
    plan,
    write_dead,
    write_segment,
)
from delf_engine.support.files import locked, system_errors

_CHECKED_BYTES = 64 << 20  # checksums of collections up to this size are compared on loading
_ATTEMPTS = 5
_BEARABLE = 0.5  # the part of a segment that may be removed before it is written again

IfDamaged: TypeAlias = Literal["error", "skip"]
Manifest: TypeAlias = dict[str, Any]


class Collection:
    """Images in the order of insertion, in segments and waiting; `layout` says what the index keeps of each.

    `mark` is a note of the caller that is saved in the manifest: of what state of something else this is the
    index; `damaged` are the segments that it was opened without.
    """

    def __init__(self, kind: str, layout: Layout) -> None:
        self.segments: list[Segment] = []
        self.mark: dict[str, Any] | None = None
        self.damaged: tuple[str, ...] = ()
        self._kind, self.layout = kind, layout
        self._whole = False  # whether the next save makes one segment of all
        self._pending: dict[str, Any] = {}
        self._home: Path | None = None  # where it was last saved or opened,
        self._manifest: Manifest | None = None  # and the manifest there

    def __len__(self) -> int:
        return len(self._pending) + sum(segment.live for segment in self.segments)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and (image_id in self._pending or self._find(image_id) is not None)

    def __iter__(self) -> Iterator[str]:
        for segment in self.segments:
            for row in np.flatnonzero(segment.alive):
                yield segment.ids[int(row)]
        yield from self._pending

    def names_of(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """Return the id of each row, counted through all segments; rows are (M,), all of them there."""
        if len(self.segments) == 1:
            return self.segments[0].ids.many(rows)
        begins = np.cumsum([0, *(len(segment.ids) for segment in self.segments)])
        of_segment = np.searchsorted(begins, rows, side="right") - 1
        names = np.empty(len(rows), object)
        for i, segment in enumerate(self.segments):
            at = np.flatnonzero(of_segment == i)
            names[at] = segment.ids.many(rows[at] - begins[i])
        return list(names.tolist())

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

    def copy(self) -> Collection:
        """Return a collection of the same images that goes its own way, in memory only; none may be waiting."""
        other = Collection(self._kind, self.layout)
        other.segments, other.mark = [segment.copy() for segment in self.segments], self.mark
        return other

    def add(self, payloads: Mapping[str, Any]) -> None:
        """Add images that are not there yet."""
        self._pending.update(payloads)

    def extend(self, other: Collection) -> None:
        """Take the images of another collection, which are not here; none may be waiting in either."""
        for segment in other.segments:
            self.segments.append(Segment(segment.arrays, dead=np.flatnonzero(~segment.alive)))

    def repeat(self, copies: int) -> None:
        """Hold all images, none of which waits, so many times, under their ids behind a number."""
        own = list(self.segments)
        for number in range(1, copies):
            for segment in own:
                names = IdTable.build([f"{number} {name}" for name in segment.ids])
                self.segments.append(Segment({**segment.arrays, **names}, dead=np.flatnonzero(~segment.alive)))

    def remove(self, ids: Sequence[str]) -> None:
        """Remove images.

        An `UnknownIdError` if one is not there; none is removed then.
        """
        for image_id in ids:
            if image_id not in self:
                raise UnknownIdError(f"the index holds no image {image_id!r}")
        for image_id in dict.fromkeys(ids):
            if image_id in self._pending:
                del self._pending[image_id]
            elif (place := self._find(image_id)) is not None:
                place[0].alive[place[1]] = False

    def flush(self) -> None:
        """Turn the waiting images into a segment."""
        if self._pending:
            self.segments.append(built(self.layout, self._pending))
            self._pending = {}
        first = len(self.segments)
        while first and self.segments[first - 1].name is None:
            first -= 1
        if len(self.segments) - first > MAX_SEGMENTS:  # from adding and searching in turns
            self.segments[first:] = [merged(self.layout, self.segments[first:])]

    def compact(self) -> None:
        """Let the next save merge all segments into one without removed images."""
        self._whole = True

    def save(
        self, directory: str | os.PathLike[str], header: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        """Write what is new, as `CandidateIndex.save` says; the collection then lives in `directory`.

        `header` is what the index wants to find in the manifest. With `overwrite` an index that this collection
        was not opened from is replaced, or one whose manifest is damaged.
        """
        self.flush()
        path = Path(directory)
        with system_errors(f"{path}: the index cannot be saved"):
            path.mkdir(parents=True, exist_ok=True)
            path = path.resolve()
            with locked(path / ".lock", f"{path}: another process is saving this index; try again later"):
                self._save(path, dict(header), overwrite)

    def open(
        self,
        directory: str | os.PathLike[str],
        header: Mapping[str, Any],
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> None:
        """Fill this new collection with what was saved, as `CandidateIndex.load` says.

        There is a `FormatError`, too, if the manifest meanwhile has another header than `header`.
        """
        if damaged not in ("error", "skip"):
            raise ConfigError(f'damaged must be "error" or "skip", got {damaged!r}')
        path = Path(directory).resolve()
        for attempt in range(_ATTEMPTS):
            manifest = disk.read_manifest(path, self._kind)
            if manifest["header"] != header:
                raise FormatError(f"{path}: another index has taken its place meanwhile; open it again")
            try:
                opened, bad = self._open_all(path, manifest, check, damaged)
                break
            except FileNotFoundError as error:
                # Another process may have merged segments since the manifest was read.
                if attempt == _ATTEMPTS - 1 or disk.read_manifest(path, self._kind) == manifest:
                    raise FormatError(_reason(error)) from error
        self.segments, self.damaged = opened, tuple(entry["name"] for entry, _ in bad)
        self._home, self._manifest, self.mark = path, manifest, manifest["mark"]
        for entry, reason in bad:
            warnings.warn(
                f"{reason}; opened without the {entry['images']} images of {entry['name']}",
                DelfEngineWarning,
                stacklevel=3,  # the caller of `load` of an index
            )

    def _open_all(
        self, path: Path, manifest: Manifest, check: bool | None, damaged: IfDamaged
    ) -> tuple[list[Segment], list[tuple[Manifest, str]]]:
        """Open the segments of the manifest; return them, and those left out with the reason."""
        sizes = [file["bytes"] for entry in manifest["segments"] for file in entry["files"].values()]
        contents = sum(sizes) <= _CHECKED_BYTES if check is None else check
        opened: list[Segment] = []
        bad: list[tuple[Manifest, str]] = []
        for entry in manifest["segments"]:
            try:
                opened.append(open_segment(path, entry, self.layout, contents=contents))
            except (FormatError, FileNotFoundError) as error:
                if damaged == "error":
                    raise
                if disk.read_manifest(path, self._kind) != manifest:
                    raise FileNotFoundError(2, "merged meanwhile", str(path / entry["name"])) from error
                bad.append((entry, _reason(error)))
        return opened, bad

    def _find(self, image_id: str) -> tuple[Segment, int] | None:
        for segment in reversed(self.segments):
            row = segment.ids.find(image_id)
            if row is not None and segment.alive[row]:
                return segment, row
        return None

    def _save(self, path: Path, header: dict[str, Any], overwrite: bool) -> None:
        whole, self._whole = self._whole, False  # forgotten if it fails: later saves may have less space yet
        before = _replaceable(path, overwrite)
        ours = before is not None and path == self._home and before == self._manifest
        if before is not None and not ours and not overwrite:
            if path == self._home:
                raise LockedError(
                    f"{path}: another process has saved this index since it was loaded; load it again"
                )
            raise MismatchError(f"{path}: there is another index here; load it, or choose another directory")
        if ours and before is not None and self._is_saved(before, header, whole):
            return
        disk.clean(path, before)
        generation, number = (before["generation"] + 1, before["next"]) if before else (1, 1)
        kept = {entry["name"]: entry for entry in before["segments"]} if before and ours else {}
        groups = [self.segments] if whole else plan(self.segments, kept)
        segments, entries = [], []
        for group in groups:
            if any(segment.live for segment in group):
                segment, entry = self._written(path, group, kept, whole, generation, number)
                number += entry["name"] not in kept
                segments.append(segment)
                entries.append(entry)
        disk.sync_directory(path)
        values = {"generation": generation, "next": number, "header": header, "segments": entries}
        self._manifest = disk.write_manifest(path, self._kind, disk.VERSION, {**values, "mark": self.mark})
        self._home, self.segments, self.damaged = path, segments, ()
        for segment in segments:
            segment.saved_dead = segment.dead
        disk.clean(path, self._manifest)

    def _written(
        self, path: Path, group: list[Segment], kept: Manifest, whole: bool, generation: int, number: int
    ) -> tuple[Segment, Manifest]:
        """Write segments that become one, or only which rows of it are dead; return it and its entry."""
        segment, bearable = group[0], 0.0 if whole else _BEARABLE
        if len(group) == 1 and segment.name in kept and segment.dead <= bearable * len(segment.ids):
            return segment, write_dead(path, segment, kept[segment.name], generation)
        entry = write_segment(path, group, self.layout, f"segment-{number:08d}")
        return open_segment(path, entry, self.layout, contents=False), entry

    def _is_saved(self, manifest: Manifest, header: dict[str, Any], whole: bool) -> bool:
        """Whether the manifest says all that a save would write."""
        if manifest["header"] != header or manifest["mark"] != self.mark:
            return False
        if [segment.name for segment in self.segments] != [entry["name"] for entry in manifest["segments"]]:
            return False
        if any(segment.dead != segment.saved_dead for segment in self.segments):
            return False
        scattered = len(self.segments) > 1 or any(segment.dead for segment in self.segments)
        return not (whole and scattered)


def _replaceable(path: Path, overwrite: bool) -> Manifest | None:
    """Return the manifest that a save would replace; None if there is none, or a damaged one to overwrite."""
    if not (path / disk.MANIFEST).exists() or (overwrite and not disk.has_index(path)):
        return None
    return disk.read_manifest(path)


def _reason(error: FormatError | FileNotFoundError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: a file of the index is missing"
    return str(error)
