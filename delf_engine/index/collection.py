"""`Collection`: the images of an index in memory and on disk, whatever the index keeps of each.

Added images wait in memory until a search or a save turns them into a segment, which never changes. A removal
marks a row as dead. On disk an index is a directory: one directory a segment, and a manifest that names them,
written last and replaced in one step, so that a crash at any moment leaves the state that was saved before.
Small neighbouring segments are merged on saving, which keeps the order of insertion and drops dead rows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from delf_engine.index import disk
from delf_engine.index import segment_files as files
from delf_engine.index.contract import check_ids
from delf_engine.index.ids import IdTable
from delf_engine.index.segment_files import Attachment
from delf_engine.index.segments import (
    MAX_SEGMENTS,
    Allocate,
    Arrays,
    Layout,
    Segment,
    frozen,
    in_order,
    merged,
    plan,
)

__all__ = ["Allocate", "Arrays", "Attachment", "Collection", "IfDamaged", "Layout", "Segment"]

_CHECKED_BYTES = 64 << 20  # checksums of collections up to this size are compared on loading
_ATTEMPTS = 5
_BEARABLE = 0.5  # the part of a segment that may be removed before it is written again

IfDamaged: TypeAlias = Literal["error", "skip"]
State: TypeAlias = tuple[list[Segment], list[npt.NDArray[np.bool_]], dict[str, Any]]


class Collection:
    """Images in the order of insertion, in segments and waiting.

    Attributes
    ----------
    mark : dict or None
        A note of the caller that is saved in the manifest: of what state of something else this is the index.
    damaged : tuple of str
        Segments that it was loaded without.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.segments: list[Segment] = []
        self.mark: dict[str, Any] | None = None
        self.damaged: tuple[str, ...] = ()
        self._whole = False  # whether the next save makes one segment of all
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
            self.segments.append(Segment(frozen(arrays)))
            self._pending = {}
        first = len(self.segments)
        while first and self.segments[first - 1].name is None:
            first -= 1
        if len(self.segments) - first > MAX_SEGMENTS:  # from adding and searching in turns
            self.segments[first:] = [merged(self.layout, self.segments[first:])]

    def compact(self) -> None:
        """Let the next save merge all segments into one without removed images."""
        self._whole = True

    def reorder(self, ids: Sequence[str]) -> None:
        """Put the images into another order of insertion.

        Raises
        ------
        ConfigError
            If `ids` does not name each image once.
        """
        names = list(ids)
        if names == list(self):
            return
        self.flush()
        rows = self.rows(names)
        if len(rows) != len(self) or (rows < 0).any() or len(np.unique(rows)) != len(rows):
            raise ConfigError(f"{len(names)} ids do not name each of the {len(self)} images of the index once")
        groups = in_order(self.segments, rows)
        # Not by way of `==`: a segment that stays is one of ours, a piece has only its arrays.
        ours = {id(segment) for segment in self.segments}
        self.segments = [group[0] if id(group[0]) in ours else merged(self.layout, group) for group in groups]
        self.flush()

    def state(self) -> State:
        """Return what `restore` takes to undo whatever is added and removed from now on."""
        return list(self.segments), [segment.alive.copy() for segment in self.segments], dict(self._pending)

    def restore(self, state: State) -> None:
        """Go back to a state of this collection, as long as it has not been saved since."""
        segments, alive, pending = state
        for segment, rows in zip(segments, alive, strict=True):
            segment.alive[:] = rows
        self.segments, self._pending = list(segments), dict(pending)

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
            Replace an index that this collection was not loaded from, or whose manifest is damaged.
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
        entry = self._manifest.get("attachment")
        if entry is None or self._home is None or self._pending or not self._unchanged(self._manifest):
            return None
        return self._home / entry["name"], entry

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        layout: Callable[[Mapping[str, Any]], Layout],
        kind: str,
        version: int,
        *,
        check: bool | None,
        damaged: IfDamaged = "error",
    ) -> Collection:
        """Open a collection that was saved; `layout` makes its layout from the header.

        Raises
        ------
        FormatError
            If it is missing, damaged, cut short, or of another kind or version. With ``damaged = "skip"`` a
            damaged segment is left out with a `DelfEngineWarning` instead, and the next save drops it.
        ConfigError
            If `damaged` is anything else.
        """
        if damaged not in ("error", "skip"):
            raise ConfigError(f'damaged must be "error" or "skip", got {damaged!r}')
        path = Path(directory).resolve()
        for attempt in range(_ATTEMPTS):
            manifest = disk.read_manifest(path, kind, version)
            try:
                collection = cls(layout(manifest["header"]))
                collection._home, collection._manifest, collection.mark = path, manifest, manifest.get("mark")
                sizes = [e["bytes"] for entry in manifest["segments"] for e in entry["files"].values()]
                contents = sum(sizes) <= _CHECKED_BYTES if check is None else check
                bad = collection._open_all(path, contents, damaged)
                for entry, reason in bad:
                    warnings.warn(
                        f"{reason}; opened without the {entry['images']} images of {entry['name']}",
                        DelfEngineWarning,
                        stacklevel=4,  # the caller of `load` of an index
                    )
                return collection
            except FileNotFoundError as error:
                # Another process may have merged segments since the manifest was read.
                if attempt == _ATTEMPTS - 1 or disk.read_manifest(path, kind, version) == manifest:
                    raise FormatError(_reason(error)) from error
            except (KeyError, TypeError, AttributeError) as error:
                raise FormatError(f"{path / disk.MANIFEST}: the manifest is damaged: {error!r}") from error
        raise AssertionError("unreachable")

    def _open_all(self, path: Path, contents: bool, damaged: IfDamaged) -> list[tuple[Mapping[str, Any], str]]:
        """Open the segments of the manifest; return those left out, with the reason."""
        bad: list[tuple[Mapping[str, Any], str]] = []
        for entry in self._manifest["segments"]:
            try:
                self.segments.append(files.open_segment(path, entry, self.layout, contents=contents))
            except (FormatError, FileNotFoundError) as error:
                if damaged == "error":
                    raise
                layout = self.layout
                if disk.read_manifest(path, layout.kind, layout.version) != self._manifest:
                    raise FileNotFoundError(2, "merged meanwhile", str(path / entry["name"])) from error
                bad.append((entry, _reason(error)))
        self.damaged = tuple(entry["name"] for entry, _ in bad)
        return bad

    def _find(self, image_id: str) -> tuple[Segment, int] | None:
        for segment in reversed(self.segments):
            row = segment.ids.find(image_id)
            if row is not None and segment.alive[row]:
                return segment, row
        return None

    def _save(self, path: Path, header: dict[str, Any], overwrite: bool, attachment: Attachment | None) -> None:
        layout, found = self.layout, None
        whole, self._whole = self._whole, False  # forgotten if it fails: later saves may have less space yet
        if (path / disk.MANIFEST).exists() and not (overwrite and not disk.has_manifest(path)):
            found = disk.read_manifest(path, None, None)
        here = found is not None and path == self._home and found == self._manifest
        if found is not None and not here and not overwrite:
            if path == self._home:
                raise LockedError(
                    f"{path}: another process has saved this index since it was loaded; load it again"
                )
            raise MismatchError(f"{path}: there is another index here; load it, or choose another directory")
        wanted = None if attachment is None else attachment[0]
        unchanged = (
            here and found is not None and found["header"] == header and self._saved(path, found, wanted, whole)
        )
        if unchanged and found is not None and found.get("mark") == self.mark:
            return
        disk.clean(path, found)
        generation = 1 + (found["generation"] if found else 0)
        numbers = iter(range(found["next"] if found else 1, 1 << 62))
        kept = {entry["name"]: entry for entry in found["segments"]} if found and here else {}
        segments, entries = [], []
        bearable = 0.0 if whole else _BEARABLE
        for group in [self.segments] if whole else plan(self.segments, kept):
            if not any(segment.live for segment in group):
                continue
            segment = group[0]
            if len(group) == 1 and segment.name in kept and segment.dead <= bearable * len(segment.ids):
                entry = files.write_dead(path, segment, kept[segment.name], generation)
            else:
                entry = files.write_segment(path, group, layout, f"segment-{next(numbers):08d}")
                segment = files.open_segment(path, entry, layout, contents=False)
            segments.append(segment)
            entries.append(entry)
        values = {
            "generation": generation,
            "next": next(numbers),
            "header": header,
            "segments": entries,
            "attachment": found["attachment"]
            if unchanged and found
            else files.attach(path, attachment, generation),
            "mark": self.mark,
        }
        disk.sync_directory(path)
        self._manifest = disk.write_manifest(path, layout.kind, layout.version, values)
        self._home, self.segments, self.damaged = path, segments, ()
        for segment in segments:
            segment.saved_dead = segment.dead
        disk.clean(path, self._manifest)

    def _saved(
        self, path: Path, manifest: Mapping[str, Any], attachment: Mapping[str, Any] | None, whole: bool
    ) -> bool:
        """Whether nothing has changed since `manifest`, and it has what is to be attached, `whole` if so asked."""
        if not self._unchanged(manifest) or (whole and self._scattered()):
            return False
        there = manifest["attachment"] or {}
        return attachment is None or (
            attachment.items() <= there.items() and disk.intact(path / there["name"], there)
        )

    def _unchanged(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the segments are those of `manifest`, in its order and with the same images removed."""
        if any(segment.dead != segment.saved_dead for segment in self.segments):
            return False
        return [segment.name for segment in self.segments] == [entry["name"] for entry in manifest["segments"]]

    def _scattered(self) -> bool:
        return len(self.segments) > 1 or any(segment.dead for segment in self.segments)


def _reason(error: FormatError | FileNotFoundError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: a file of the index is missing"
    return str(error)
