"""What an `IvfIndex` keeps of its images: codes of single descriptors, as the inverted lists of a faiss index.

A code has 8 bits a component, or is one of product quantisation.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment, offsets_of, row_counts
from delf_engine.support.threads import faiss_in_one_thread

Ids: TypeAlias = npt.NDArray[np.int64]
Matrix: TypeAlias = npt.NDArray[np.float32]
Codes: TypeAlias = npt.NDArray[np.uint8]
#: What is kept of one image: the cell of each of its descriptors, (N,) int32, and its code, (N, B).
Rows: TypeAlias = tuple[npt.NDArray[np.int32], Codes]

# Inverted lists as faiss writes, and maps, them: this, the size of each list, then the codes and ids of each.
_HEADER = struct.Struct("<4sQQ4sQ")
_ID = 8  # bytes
_LEVELS = 256  # of a part: its code is a byte
_PART = 4  # dimensions of a part, or fewer where these do not divide the dimension


class Codec:
    """Codes of descriptors, made and compared by faiss, for a codebook's centroids, (W, D) float32.

    With "uint8", components are kept in units of 1 / 127, rounded, each off by at most 1 / 254; what lies beyond
    [-1, 1] is cut off. With "pq" (Jégou, Douze, Schmid, TPAMI 2011), a byte for each part of a few dimensions says
    which of 256 levels is nearest: levels are found by k-means among the words of the codebook at unit length,
    which are spread as the descriptors that they were trained on, when they are first needed. A `ConfigError` if
    there are fewer than 256 words for "pq".

    Attributes
    ----------
    code_bytes : int
        Of a descriptor.
    unit : float
        Length that distances of the faiss index are in.
    levels : (M, 256, D / M) float32 or None
        Of "pq", once they are known: those that a saved index was made with are set before it is used.
    """

    def __init__(self, name: Literal["uint8", "pq"], centroids: Matrix) -> None:
        words, dim = centroids.shape
        self.is_pq = name == "pq"
        if self.is_pq and words < _LEVELS:
            raise ConfigError(f'codec = "pq" needs a codebook of at least {_LEVELS} words, got {words}')
        self.code_bytes = dim // math.gcd(dim, _PART) if self.is_pq else dim
        self.shape = (self.code_bytes, _LEVELS, dim // self.code_bytes)
        self.unit = 1.0 if self.is_pq else 1 / 127
        self.levels: Matrix | None = None
        self._centroids = centroids

    def scaled(self, descriptors: Matrix) -> Matrix:
        """Return query descriptors as the faiss index takes them, (N, D)."""
        return np.ascontiguousarray(descriptors / np.float32(self.unit))

    def encode(self, descriptors: Matrix) -> Codes:
        """Return the codes of (N, D) descriptors, (N, code_bytes)."""
        if not self.is_pq:  # 128 means 0
            return (np.clip(np.rint(self.scaled(descriptors)), -127, 127) + 128).astype(np.uint8)
        index = self.index()  # which its quantiser is a part of
        with faiss_in_one_thread():
            codes: Codes = index.pq.compute_codes(self.scaled(descriptors))
        return codes

    def index(self) -> Any:
        """Return an empty `faiss.IndexIVF` of these codes, with a list a word; words are assigned by others."""
        import faiss

        words, dim = self._centroids.shape
        coarse = faiss.IndexFlatL2(dim)
        index: Any
        if self.is_pq:
            index = faiss.IndexIVFPQ(coarse, dim, words, self.code_bytes, 8)
            index.by_residual = False
            faiss.copy_array_to_vector(self.trained().ravel(), index.pq.centroids)
        else:
            kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
            index = faiss.IndexIVFScalarQuantizer(coarse, dim, words, kind, faiss.METRIC_L2, False)
        index.is_trained = True
        return index

    def trained(self) -> Matrix:
        """Return the levels of product quantisation."""
        import faiss

        if self.levels is None:
            norms = np.linalg.norm(self._centroids, axis=1, keepdims=True)
            unit = (self._centroids / np.where(norms > 0, norms, 1)).astype(np.float32)
            quantizer = faiss.ProductQuantizer(unit.shape[1], self.code_bytes, 8)
            with faiss_in_one_thread():
                quantizer.train(unit)
            levels = faiss.vector_to_array(quantizer.centroids)
            self.levels = levels.reshape(self.shape)
        return self.levels


class IvfLayout(Layout):
    """The arrays of a segment. The id of a descriptor is its number in the order of insertion, from 0."""

    def __init__(self, words: int, codec: Codec) -> None:
        self._words, self._codec = words, codec
        self.dtypes: Mapping[str, tuple[str, int]] = {
            "row_offsets": ("<i8", 1),  # (n + 1,) id of the first descriptor of each image
            "lists": ("|u1", 1),  # `Lists`
            **({"levels": ("<f4", 3)} if codec.is_pq else {}),  # of the codec
        }

    def build(self, payloads: Sequence[Rows]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        cells = np.concatenate([cells for cells, _ in payloads])
        codes = np.concatenate([codes for _, codes in payloads])
        order = np.argsort(cells, kind="stable")
        sizes = np.bincount(cells, minlength=self._words)
        lists = self._new_lists(sizes, lambda _, shape: np.empty(shape, np.uint8))
        codes, begin = codes[order], 0
        for cell in np.flatnonzero(sizes).tolist():
            rows = slice(begin, begin + sizes[cell])
            lists.codes(cell)[:], lists.ids(cell)[:] = codes[rows], order[rows]
            begin = rows.stop
        offsets = offsets_of([len(cells) for cells, _ in payloads])
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
    """The inverted lists of a segment, `data`, in bytes as faiss writes them, and their `sizes`, (W,) int64."""

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
    """A segment, with its lists, that is merged into a larger one.

    `first`, (m,) int64, is the new id of the first descriptor of each of its live images.
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
            raise self._segment.damaged("the inverted lists")
        images = np.searchsorted(self._offsets, ids, side="right") - 1
        keep = self._segment.alive[images]
        return ids[keep] + self._shifts[images[keep]], codes[keep]
