"""The nearest descriptors of an `IvfIndex`: which cells are visited, and who scans them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import IvfConfig
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import Segment
from delf_engine.index.ivf_layout import UNIT, check_count, damaged
from delf_engine.index.kdtree_layout import row_counts
from delf_engine.index.product_quantizer import ProductQuantizer
from delf_engine.support.threads import in_threads

__all__ = ["Neighbours", "Searcher", "live_descriptors"]

_FINER = 128  # steps of a query descriptor in one of an indexed one
_CENTRE = 128 * _FINER
_MOST_PROBES = 1024  # that a small collection is given
_EXPECTED = 4  # times the neighbours wanted, how many descriptors the visited cells should hold
_SHARE = 1 << 20  # comparisons that are worth a thread

Matrix = npt.NDArray[np.float32]
Heaps = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # keys and places, see `ivf_kernels`
Neighbours = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class _Visits:
    cells: npt.NDArray[np.int32]  # (C,) ascending
    starts: npt.NDArray[np.int64]  # (C + 1,) where the visitors of each begin
    visitors: npt.NDArray[np.int32]  # (V,) query descriptors

    @classmethod
    def of(cls, words: npt.NDArray[np.int32]) -> _Visits:
        flat = words.ravel()
        order = np.argsort(flat, kind="stable")
        cells, first = np.unique(flat[order], return_index=True)
        starts = np.append(first, len(flat)).astype(np.int64)
        return cls(cells, starts, (order // words.shape[1]).astype(np.int32))

    def shares(self, segments: Sequence[Segment], threads: int) -> npt.NDArray[np.int64]:
        """Return where the cells of each share begin and end, of about equal work."""
        sizes = np.zeros(len(self.cells))
        for segment in segments:
            offsets = segment.arrays["cell_offsets"]
            sizes += np.maximum(offsets[self.cells + 1] - offsets[self.cells], 0)
        done = np.cumsum(sizes * np.diff(self.starts))
        count = min(threads, 1 + int(done[-1] // _SHARE))
        inner = np.searchsorted(done, done[-1] * np.arange(1, count) / count)
        return np.unique(np.concatenate([[0], inner, [len(self.cells)]]))


class Searcher:
    """Finds nearest descriptors in the segments as they are.

    Parameters
    ----------
    segments : sequence of Segment
    codebook : Codebook
    quantizer : ProductQuantizer or None
        None: descriptors are scanned, not codes.
    config : IvfConfig
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        codebook: Codebook,
        quantizer: ProductQuantizer | None,
        config: IvfConfig,
    ) -> None:
        self._segments = segments
        self._codebook = codebook
        self._quantizer = quantizer
        self._config = config
        self.images = sum(len(segment.ids) for segment in segments)
        self.descriptors = live_descriptors(segments)
        check_count(sum(len(segment.arrays["rows"]) for segment in segments))

    @property
    def probes(self) -> int:
        """Cells that each query descriptor visits.

        More than are configured, up to 1,024, where a collection is so small that they would hold too few
        descriptors.
        """
        words, wanted = self._codebook.words, _EXPECTED * self._config.neighbours
        needed = -(-words * wanted // max(self.descriptors, 1))
        return min(words, max(self._config.probes, min(needed, _MOST_PROBES)))

    def cells(self, descriptors: Matrix, threads: int | None = None) -> npt.NDArray[np.int32]:
        """Return the cells that each query descriptor visits, (Q, probes) int32."""
        return self._codebook.assign(descriptors, self.probes, mode=self._config.assignment, threads=threads)

    def nearest(self, descriptors: Matrix, cells: npt.NDArray[np.int32], threads: int) -> Neighbours:
        """Return the nearest descriptors that the visited cells hold, nearest first, with any number of threads.

        Parameters
        ----------
        descriptors : (Q, D) float32
            At least one.
        cells : (Q, P) int32
        threads : int

        Returns
        -------
        rows : (Q, K) int64
            Counted in the order of insertion through all segments, by (distance, row); -1 for none.
        squared : (Q, K) float64
            Squared distances.
        images : (Q, K) int64
            Image of each row, counted through all segments.

        Raises
        ------
        FormatError
            If a segment turns out to be damaged.
        """
        from delf_engine.index.ivf_kernels import EMPTY

        queries = _whole_numbers(descriptors)
        keys, _ = self._scanned(descriptors, queries, _Visits.of(cells), threads)
        keys.sort(axis=1)
        missing = keys == EMPTY
        rows = keys & 0xFFFFFFFF
        rows[missing] = -1
        squared = (keys >> 32).astype(np.float64) * (UNIT / _FINER) ** 2
        return rows, squared, self._images_of(rows)

    def _scanned(
        self, descriptors: Matrix, queries: npt.NDArray[np.int32], visits: _Visits, threads: int
    ) -> Heaps:
        from delf_engine.index import ivf_kernels as kernels

        count = self._config.neighbours
        kept = count if self._quantizer is None else count * self._config.rescored
        shares = visits.shares(self._segments, threads)
        scan_rows: Any = kernels.scan_rows  # mypy takes the starred arguments for too many
        scan_codes: Any = kernels.scan_codes

        def scan(i: int) -> Heaps:
            heaps = _empty(len(queries), kept)
            a, b = shares[i], shares[i + 1]
            asked = (visits.cells[a:b], visits.starts[a : b + 1], visits.visitors)
            first = 0
            for segment in self._segments:
                s = segment.arrays
                where = (s["row_offsets"], segment.alive, first, first)
                if self._quantizer is None:
                    cells: tuple[Any, ...] = (s["cell_offsets"], s["rows"], s["descriptors"])
                    whole = scan_rows(*asked, queries, *cells, *where, *heaps)
                else:
                    given = (descriptors, self._codebook.centroids)
                    levels = (self._quantizer.columns, self._quantizer.bounds)
                    cells = (s["cell_offsets"], s["rows"], s["codes"])
                    whole = scan_codes(*asked, *given, *levels, *cells, *where, *heaps)
                if not whole:
                    raise damaged(segment)
                first += len(s["rows"])
            return heaps

        parts = in_threads(scan, len(shares) - 1, threads)
        heaps = parts[0]
        for more in parts[1:]:
            kernels.merge(*more, *heaps)
        return heaps if self._quantizer is None else self._rescored(queries, heaps, threads)

    def _rescored(self, queries: npt.NDArray[np.int32], found: Heaps, threads: int) -> Heaps:
        from delf_engine.index import ivf_kernels as kernels

        heaps = _empty(len(queries), self._config.neighbours)
        bounds = np.linspace(0, len(queries), threads + 1).astype(np.int64)

        def compare(i: int) -> None:
            part, first = slice(bounds[i], bounds[i + 1]), 0
            for segment in self._segments:
                descriptors = segment.arrays["descriptors"]
                given = (found[0][part], found[1][part])
                kernels.rescore(queries[part], descriptors, first, *given, heaps[0][part], heaps[1][part])
                first += len(descriptors)

        in_threads(compare, threads, threads)
        return heaps

    def _images_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        images = np.zeros_like(rows)
        first = first_image = 0
        for segment in self._segments:
            offsets = segment.arrays["row_offsets"]
            here = (rows >= first) & (rows < first + offsets[-1])
            images[here] = first_image + np.searchsorted(offsets, rows[here] - first, side="right") - 1
            first += len(segment.arrays["rows"])
            first_image += len(segment.ids)
        return images


def live_descriptors(segments: Sequence[Segment]) -> int:
    """Return the number of descriptors of images that were not removed."""
    return sum(
        int(row_counts(segment)[segment.alive].sum()) if segment.dead else len(segment.arrays["rows"])
        for segment in segments
    )


def _whole_numbers(descriptors: Matrix) -> npt.NDArray[np.int32]:
    """Return query descriptors as the kernels take them, 128 times finer than indexed ones; off by 1 / 32512."""
    scaled = np.rint(descriptors.astype(np.float64) / UNIT * _FINER)
    return (np.clip(scaled, -127 * _FINER, 127 * _FINER) + _CENTRE).astype(np.int32)


def _empty(queries: int, count: int) -> Heaps:
    from delf_engine.index.ivf_kernels import EMPTY

    return np.full((queries, count), EMPTY, np.int64), np.zeros((queries, count), np.int64)
