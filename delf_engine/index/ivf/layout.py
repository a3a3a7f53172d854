"""What an `IvfIndex` keeps of its images: codes of single descriptors, as the inverted lists of a faiss index."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.index.ivf.codecs import Codec, Codes
from delf_engine.index.kdtree.layout import offsets_of, row_counts
from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment

__all__ = ["IvfLayout", "Lists", "Rows", "damaged"]

Ids = npt.NDArray[np.int64]

# Inverted lists as faiss writes, and maps, them: this, the size of each list, then the codes and ids of each.
_HEADER = struct.Struct("<4sQQ4sQ")
_ID = 8  # bytes


@dataclass(frozen=True)
class Rows:
    """What is kept of one image: the cell and the code of each of its descriptors.

    Attributes
    ----------
    cells : (N,) int32
    codes : (N, B) uint8
    """

    cells: npt.NDArray[np.int32]
    codes: Codes


class IvfLayout(Layout):
    """The arrays of a segment. The id of a descriptor is its number in the order of insertion, from 0.

    Parameters
    ----------
    words : int
        Of the codebook.
    codec : Codec
    """

    def __init__(self, words: int, codec: Codec) -> None:
        self._words, self._codec = words, codec
        self.dtypes: Mapping[str, tuple[str, int]] = {
            "row_offsets": ("<i8", 1),  # (n + 1,) id of the first descriptor of each image
            "lists": ("|u1", 1),  # `Lists`
            **({"levels": ("<f4", 3)} if codec.is_pq else {}),  # of the codec
        }

    def build(self, payloads: Sequence[Rows]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        cells = np.concatenate([payload.cells for payload in payloads])
        codes = np.concatenate([payload.codes for payload in payloads])
        order = np.argsort(cells, kind="stable")
        sizes = np.bincount(cells, minlength=self._words)
        lists = self._new_lists(sizes, lambda _, shape: np.empty(shape, np.uint8))
        codes, begin = codes[order], 0
        for cell in np.flatnonzero(sizes).tolist():
            rows = slice(begin, begin + sizes[cell])
            lists.codes(cell)[:], lists.ids(cell)[:] = codes[rows], order[rows]
            begin = rows.stop
        offsets = offsets_of([len(payload.cells) for payload in payloads])
        levels = {"levels": self._codec.trained()} if self._codec.is_pq else {}
        return {"row_offsets": offsets, "lists": lists.data, **levels}

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        counts = np.concatenate([row_counts(segment)[segment.alive] for segment in segments])
        offsets = offsets_of(counts)
        allocate("row_offsets", offsets.shape)[...] = offsets
        if self._codec.is_pq:
            levels = segments[0].arrays["levels"]  # the same in all
            allocate("levels", levels.shape)[...] = levels
        sources, first, sizes = [], 0, np.zeros(self._words, np.int64)
        for segment in segments:
            sources.append(_Source(segment, self.lists(segment), offsets[first : first + segment.live]))
            sizes += sources[-1].sizes()
            first += segment.live
        out = self._new_lists(sizes, allocate)
        for cell in np.flatnonzero(sizes).tolist():
            parts = [source.live(cell) for source in sources]
            out.ids(cell)[:] = np.concatenate([ids for ids, _ in parts])
            out.codes(cell)[:] = np.concatenate([codes for _, codes in parts])

    def lists(self, segment: Segment) -> Lists:
        """Return the inverted lists of a segment."""
        return Lists(segment.arrays["lists"], self._words, self._codec.code_bytes)

    def _new_lists(self, sizes: Ids, allocate: Allocate) -> Lists:
        """Return lists of these sizes, still to be filled."""
        header = self._header() + sizes.astype("<i8").tobytes()
        length = len(header) + int(sizes.sum()) * (self._codec.code_bytes + _ID)
        data = np.asarray(allocate("lists", (length,)))
        data[: len(header)] = np.frombuffer(header, np.uint8)
        return Lists(data, self._words, self._codec.code_bytes)

    def _header(self) -> bytes:
        return _HEADER.pack(b"ilar", self._words, self._codec.code_bytes, b"full", self._words)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        offsets, data = arrays["row_offsets"], arrays["lists"]
        if len(offsets) != images + 1 or int(offsets[0]) != 0 or int(offsets[-1]) < 0:
            return "row_offsets do not fit the images"
        begin = _HEADER.size + 8 * self._words
        if len(data) < begin or bytes(data[: _HEADER.size]) != self._header():
            return "the inverted lists do not fit the codebook or the codec"
        sizes = data[_HEADER.size : begin].view("<i8")
        if (sizes < 0).any() or (sizes > offsets[-1]).any() or int(sizes.sum()) != int(offsets[-1]):
            return "the inverted lists do not hold the descriptors of the images"
        if len(data) != begin + int(sizes.sum()) * (self._codec.code_bytes + _ID):
            return f"the inverted lists take {len(data)} bytes"
        if self._codec.is_pq and arrays["levels"].shape != self._codec.shape:
            return f"levels have shape {arrays['levels'].shape}, wanted {self._codec.shape}"
        return None


class Lists:
    """The inverted lists of a segment as bytes, in the order in which faiss writes them.

    Attributes
    ----------
    data : (B,) uint8
    sizes : (W,) int64
        Descriptors in each list.
    """

    def __init__(self, data: Codes, words: int, code_bytes: int) -> None:
        begin = _HEADER.size + 8 * words
        self.data, self.sizes, self._code_bytes = data, data[_HEADER.size : begin].view("<i8"), code_bytes
        self._begins = begin + offsets_of(self.sizes * (code_bytes + _ID))

    def codes(self, cell: int) -> Codes:
        """Return the codes in a list, (n, code_bytes), as they lie."""
        begin, size = self._begins[cell], self.sizes[cell]
        return self.data[begin : begin + size * self._code_bytes].reshape(size, self._code_bytes)

    def ids(self, cell: int) -> Ids:
        """Return the ids in a list, (n,), ascending, as they lie."""
        end = self._begins[cell + 1]
        return self.data[end - _ID * self.sizes[cell] : end].view("<i8")


class _Source:
    """A segment that is merged into a larger one.

    Parameters
    ----------
    segment : Segment
    lists : Lists
        Of it.
    first : (m,) int64
        New id of the first descriptor of each of its live images.
    """

    def __init__(self, segment: Segment, lists: Lists, first: Ids) -> None:
        self._segment, self._lists, self._offsets = segment, lists, segment.arrays["row_offsets"]
        self._shifts = np.zeros(len(segment.ids), np.int64)
        self._shifts[segment.alive] = first - self._offsets[:-1][segment.alive]

    def sizes(self) -> Ids:
        """Return how many descriptors of live images each list holds, (W,)."""
        sizes = self._lists.sizes.copy()
        if self._segment.dead:
            for cell in np.flatnonzero(sizes).tolist():
                sizes[cell] = len(self.live(cell)[0])
        return sizes

    def live(self, cell: int) -> tuple[Ids, Codes]:
        """Return the new ids and the codes of the descriptors of live images in a list."""
        ids, codes = self._lists.ids(cell), self._lists.codes(cell)
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < int(self._offsets[-1]):
            raise damaged(self._segment)
        images = np.searchsorted(self._offsets, ids, side="right") - 1
        keep = self._segment.alive[images]
        return ids[keep] + self._shifts[images[keep]], codes[keep]


def damaged(segment: Segment) -> FormatError:
    """Return the error of a segment whose lists name descriptors that it does not have."""
    return FormatError(
        f"{segment.name or 'segment'}: the inverted lists are damaged: they point outside; build the index again"
    )
