"""Segments: the immutable parts of a collection, and which of them become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from delf_engine.index.ids import IdTable

__all__ = [
    "MAX_SEGMENTS",
    "Allocate",
    "Arrays",
    "Layout",
    "Segment",
    "dtype_of",
    "frozen",
    "in_order",
    "merge",
    "merged",
    "plan",
]

MAX_SEGMENTS = 8

_PIECES = 64  # merged at a time when images change places: each takes a byte for every row of its segment

Arrays = Mapping[str, npt.NDArray[Any]]
Allocate = Callable[[str, tuple[int, ...]], npt.NDArray[Any]]  # makes the named array of a new segment


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


def dtype_of(layout: Layout, name: str) -> tuple[str, int]:
    """Return dtype and number of dimensions of an array of a segment."""
    return (IdTable.DTYPES[name], 1) if name in IdTable.DTYPES else layout.dtypes[name]


def merge(layout: Layout, group: Sequence[Segment], allocate: Allocate) -> None:
    """Write the live rows of several segments, and their ids, into new arrays."""
    ids = [segment.ids[int(row)] for segment in group for row in np.flatnonzero(segment.alive)]
    for name, array in IdTable.build(ids).items():
        allocate(name, array.shape)[...] = array
    layout.merge(group, allocate)


def merged(layout: Layout, group: Sequence[Segment]) -> Segment:
    """Return the live rows of several segments as one in memory."""
    arrays: dict[str, npt.NDArray[Any]] = {}

    def allocate(name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        arrays[name] = np.empty(shape, dtype_of(layout, name)[0])
        return arrays[name]

    merge(layout, group, allocate)
    return Segment(frozen(arrays))


def frozen(arrays: dict[str, npt.NDArray[Any]]) -> Arrays:
    """Return the arrays of a segment that is made in memory, read-only."""
    # Read-only like mapped ones: the kernels are compiled once for both.
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


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


def in_order(segments: Sequence[Segment], rows: npt.NDArray[np.int64]) -> Iterator[list[Segment]]:
    """Yield groups of segments that hold the images of a collection in another order, once each group is merged.

    Parameters
    ----------
    segments : sequence of Segment
    rows : (N,) int64
        Every live row in the order wanted, counted through all segments.

    Yields
    ------
    list of Segment
        One of `segments` by itself if its images stay together and in their order, otherwise pieces.
    """
    ends = np.cumsum([len(segment.ids) for segment in segments])
    owner = np.searchsorted(ends, rows, side="right")
    breaks = np.flatnonzero((np.diff(rows) < 0) | (np.diff(owner) != 0)) + 1
    pieces: list[Segment] = []
    for start, stop in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        segment, first = segments[owner[start]], ends[owner[start]] - len(segments[owner[start]].ids)
        whole = stop - start == segment.live
        if pieces and (whole or len(pieces) == _PIECES):
            yield pieces
            pieces = []
        if whole:
            yield [segment]
        else:
            piece = Segment(segment.arrays)
            piece.alive[:] = False
            piece.alive[rows[start:stop] - first] = True
            pieces.append(piece)
    if pieces:
        yield pieces
