"""The nearest descriptors in some cells of an `IvfIndex`, found by faiss segment by segment.

Results are those of one list of all descriptors, in order of (distance, row): the same bits in any segments,
batches and threads. faiss computes the distance of a query to a code the same way wherever the code lies; of codes
that are equally far it keeps any, so that where there are such at the end of what was asked for, all are fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.index.ivf.layout import Codec, Ids, Lists, Matrix
from delf_engine.index.segments.segment import Segment, row_counts
from delf_engine.support.threads import faiss_in_one_thread, in_threads

Neighbours: TypeAlias = tuple[Ids, Matrix, Ids]  # rows, squared distances, images

_LEAST_PART = 32  # query descriptors that are worth a thread


class SegmentSearcher:
    """The inverted lists of a segment as a faiss index, mapped as they lie; removed images are left out.

    Of its `images` so many are `dead`, of its `rows` so many `descriptors` are of images that are there.
    """

    def __init__(self, segment: Segment, lists: Lists, codec: Codec) -> None:
        faiss = _faiss()
        counts = row_counts(segment)
        self._segment = segment
        self.images, self.dead = len(segment.ids), segment.dead
        self.rows, self.descriptors = int(counts.sum()), int(counts[segment.alive].sum())
        self._index = codec.index()
        self._data = lists.data  # which the index refers to
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(self._data), len(self._data))
        self._lists = faiss.read_InvertedLists(reader)
        self._index.replace_invlists(self._lists, False)
        self._selector: Any = None
        if self.dead:
            alive = np.packbits(np.repeat(segment.alive, counts), bitorder="little")
            self._selector = faiss.IDSelectorBitmap(alive)

    def nearest(self, queries: Matrix, cells: Ids, count: int) -> tuple[Ids, Matrix]:
        """Return the nearest rows that the visited cells hold, and their squared distances.

        Of (Q, D) queries and the (Q, P) cells that each visits: both (Q, count), row -1 for none, distances in
        units of the codec. Raises `FormatError` if lists name descriptors that the segment does not have.
        """
        pointer = _faiss().swig_ptr
        rows = np.empty((len(queries), count + 1), np.int64)
        squared = np.empty((len(queries), count + 1), np.float32)
        coarse = np.zeros(cells.shape, np.float32)  # distances of the cells, which matter to codes of residuals
        asked = (len(queries), pointer(queries), count + 1, pointer(cells), pointer(coarse))
        found = (pointer(squared), pointer(rows))
        self._index.search_preassigned_c(*asked, *found, False, self._parameters(cells))
        self._check(rows)
        for query in np.flatnonzero((squared[:, -1] == squared[:, -2]) & (rows[:, -1] >= 0)):
            part, farthest = slice(query, query + 1), squared[query, -1]
            rows[query, :-1], squared[query, :-1] = self._first(queries[part], cells[part], farthest, count)
        return rows[:, :-1], squared[:, :-1]

    def _first(self, query: Matrix, cells: Ids, farthest: np.float32, count: int) -> tuple[Ids, Matrix]:
        """Return the first rows, by (distance, row), of all that are no farther."""
        faiss, coarse = _faiss(), np.zeros(cells.shape, np.float32)
        radius = float(np.nextafter(farthest, np.float32(np.inf)))  # what is as far as the radius is left out
        asked = (1, faiss.swig_ptr(query), radius, faiss.swig_ptr(cells), faiss.swig_ptr(coarse))
        result = faiss.RangeSearchResult(1)
        self._index.range_search_preassigned_c(*asked, result, False, self._parameters(cells))
        total = int(faiss.rev_swig_ptr(result.lims, 2)[1])
        squared = faiss.rev_swig_ptr(result.distances, total).copy()
        rows = faiss.rev_swig_ptr(result.labels, total).copy()
        self._check(rows)
        order = np.lexsort((rows, squared))[:count]
        return rows[order], squared[order]

    def _check(self, rows: Ids) -> None:
        if rows.size and not -1 <= int(rows.min()) <= int(rows.max()) < self.rows:
            raise self._segment.damaged("the inverted lists")

    def _parameters(self, cells: Ids) -> Any:
        return _faiss().SearchParametersIVF(nprobe=cells.shape[1], sel=self._selector)

    def images_of(self, rows: Ids) -> Ids:
        """Return the image of each row; anything where there is none."""
        return np.searchsorted(self._segment.arrays["row_offsets"], rows, side="right") - 1


def nearest(
    segments: Sequence[SegmentSearcher], queries: Matrix, cells: npt.NDArray[np.int32], count: int, threads: int
) -> Neighbours:
    """Return the nearest descriptors of all segments, one at least, with any number of threads.

    `queries`, (Q, D) float32, are as the codec scales them; each visits its `cells`, (Q, P) int32. Returned are,
    (Q, count) each, nearest first: rows, counted in the order of insertion through all segments, -1 for none;
    squared distances, float32 in units of the codec; and images, counted through all segments. A `FormatError` if
    a segment turns out to be damaged.
    """
    visited = cells.astype(np.int64)
    parts = max(1, min(threads, len(queries) // _LEAST_PART))
    bounds = np.linspace(0, len(queries), parts + 1).astype(np.int64)

    def part(i: int) -> Neighbours:
        some = slice(bounds[i], bounds[i + 1])
        with faiss_in_one_thread():
            return _nearest(segments, queries[some], visited[some], count)

    rows, squared, images = zip(*in_threads(part, parts, threads), strict=True)
    return np.concatenate(rows), np.concatenate(squared), np.concatenate(images)


def _nearest(segments: Sequence[SegmentSearcher], queries: Matrix, cells: Ids, count: int) -> Neighbours:
    found: list[Neighbours] = []
    first = first_image = 0
    for segment in segments:
        rows, squared = segment.nearest(queries, cells, count)
        found.append((np.where(rows >= 0, first + rows, -1), squared, first_image + segment.images_of(rows)))
        first += segment.rows
        first_image += segment.images
    if len(found) == 1:
        return found[0]
    rows, squared, images = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
    order = np.lexsort((rows, np.where(rows >= 0, squared, np.inf)))[:, :count]
    return tuple(np.take_along_axis(array, order, 1) for array in (rows, squared, images))  # type: ignore[return-value]


def _faiss() -> Any:
    import faiss

    return faiss  # whose stubs lack what is used here
