"""Which words are nearest to descriptors: `WordSearcher`, by a flat scan or by `CellSearcher`, in two levels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.support.threads import faiss_in_one_thread, in_threads, usable_cores

Matrix: TypeAlias = npt.NDArray[np.float32]
Mode: TypeAlias = Literal["exact", "fast"]

_LEAST_WORDS = 2048  # fewer are scanned flat in hardly more time
_LEAST_CELLS, _LARGEST_DIM = 64, 1024
_PROBES = 4.0  # times the root of the number of cells: an eighth of 1,024
_MARGIN = 4  # candidates beyond the k asked for: float64 decides between them
_ROUNDS = 8  # of k-means, over at most
_SAMPLE = 32  # words a cell
_LANES = 16  # floats of a vector
_FAR = 1e4  # times the longest centroid
_BLOCK = 8192  # descriptors at a time
_MATRIX_BATCH = 20  # descriptors that are worth a product of matrices
_LEAST_PART = 128  # descriptors of a thread
_MOST_ON_DEVICE = 8  # words of a descriptor: it looks for one after the other


class WordSearcher:
    """Finds the nearest of words, (W, D) float32; what that takes is made when it is first needed."""

    def __init__(self, centroids: Matrix) -> None:
        self.centroids = centroids
        self._flat: Any = None
        self.device = ("", 0)  # that helps, and the process that it helps
        self._on_devices: dict[tuple[str, bool], Any] = {}

    def nearest(self, data: Matrix, k: int, mode: Mode, threads: int) -> npt.NDArray[np.int32]:
        """Return the words that `Codebook.assign` describes, (N, k) int32; `data` is finite, C-contiguous."""
        words, dim = self.centroids.shape
        fast = mode == "fast" and CellSearcher.pays(words, dim, k)
        device, process = self.device
        if process != os.getpid() or k > _MOST_ON_DEVICE:
            return self._on_host(data, k, fast, threads)
        from delf_engine.index.codebook.on_device import DeviceWords

        if (device, fast) not in self._on_devices:
            columns, largest = _as_columns(self.centroids, words), float(_squared_norms(self.centroids).max())
            cells = self._cells.cells() if fast else None
            self._on_devices[device, fast] = DeviceWords(columns, largest, cells, device)
        out, sure = self._on_devices[device, fast].nearest(data, k)
        out[~sure] = self._on_host(data[~sure], k, fast, threads)
        return out

    def _on_host(self, data: Matrix, k: int, fast: bool, threads: int) -> npt.NDArray[np.int32]:
        search = self._nearest_fast if fast else self._nearest
        out = np.empty((len(data), k), np.int32)
        for start in range(0, len(data), _BLOCK):
            search(data[start : start + _BLOCK], out[start : start + _BLOCK], threads)
        return out

    def _nearest(self, data: Matrix, out: npt.NDArray[np.int32], threads: int) -> None:
        import faiss

        from delf_engine.index.codebook.kernels import nearest_words

        words, dim = self.centroids.shape
        if self._flat is None:
            flat = faiss.IndexFlatL2(dim)
            flat.add(self.centroids)
            self._flat = flat  # complete: another thread may look at it
        # faiss rounds differently with the size of the batch. It proposes a few words more than are asked
        # for, and float64 decides; rows where a word left out could still be one of the nearest are rare.
        count = min(words, out.shape[1] + _MARGIN)
        proposed = flat_search(self._flat, data, count, threads)
        if count == words:
            tolerance = np.full(len(data), -1.0)
        else:  # of |x|^2 + |c|^2 - 2 x.c in float32, for two words
            largest = _squared_norms(self.centroids).max()
            tolerance = 8 * (dim + 4) * 2.0**-24 * (_squared_norms(data) + largest)
        nearest_words(data, self.centroids, proposed.astype(np.int32), tolerance, out)

    def _nearest_fast(self, data: Matrix, out: npt.NDArray[np.int32], threads: int) -> None:
        found = self._cells.search(data, out, threads)
        if not found.all():
            rest = np.empty((int((~found).sum()), out.shape[1]), np.int32)
            self._nearest(data[~found], rest, threads)
            out[~found] = rest

    @cached_property
    def _cells(self) -> CellSearcher:
        return CellSearcher(self.centroids)


class CellSearcher:
    """Nearest of W words, (W, D) float32, by a two-level search: nearest cells of words, then the words in them.

    The words are clustered into about ``4 sqrt(W)`` cells by k-means, as those of an inverted file. A descriptor
    is compared with the centre of every cell and with the words of the nearest of them (128 of 1,024 cells, 91 of
    512), all descriptors of a batch together, cell after cell: a cell's words are read once and meet every
    descriptor that looks into it.

    Whether a word is found does not depend on the batch or the number of threads: see `kernels`. Words with the
    same centroid lie in the same cell, and of them the lowest are found.
    """

    def __init__(self, centroids: Matrix) -> None:
        self._centroids = centroids
        self._longest = float(np.linalg.norm(centroids.astype(np.float64), axis=1).max())
        count = max(_LEAST_CELLS, 1 << round(np.log2(4 * np.sqrt(len(centroids)))))
        self._probes = round(_PROBES * np.sqrt(count))
        self._cells, self._cell_of = _clustered(centroids, count)
        self._count = count
        order = np.argsort(self._cell_of, kind="stable")
        sizes = np.bincount(self._cell_of, minlength=count)
        widths = -(-sizes // _LANES) * _LANES
        self._bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
        self._words = np.zeros(self._bounds[-1], np.int32)
        self._bias = np.full(self._bounds[-1], -np.inf, np.float32)
        dim = centroids.shape[1]
        self._columns = np.zeros(self._bounds[-1] * dim, np.float32)
        first = 0
        for size, width, start in zip(sizes, widths, self._bounds, strict=False):
            members = order[first : first + size]
            self._words[start : start + size] = members
            columns, bias = _as_columns(centroids[members], int(width))
            self._bias[start : start + width] = bias
            self._columns[dim * start : dim * (start + width)] = columns
            first += size

    @staticmethod
    def pays(words: int, dim: int, k: int) -> bool:
        """Return whether this is quicker than a flat scan, of so many words and dimensions for `k` words."""
        return words >= _LEAST_WORDS and dim <= _LARGEST_DIM and 64 * k <= words

    def cells(self) -> tuple[tuple[Matrix, Matrix], npt.NDArray[np.int32], int]:
        """Return the centres as columns with their bias, the cell of each word, and how many are looked into."""
        return self._cells, self._cell_of, self._probes

    def search(self, data: Matrix, out: npt.NDArray[np.int32], threads: int) -> npt.NDArray[np.bool_]:
        """Write the words nearest to each descriptor, (N, D) float32, finite, to `out`, (N, k), nearest first.

        (N,) bool is returned: False where fewer than k words were found, or a descriptor is so far from all words
        that float32 cannot tell their distances apart: its row of `out` means nothing.
        """
        near = np.linalg.norm(data.astype(np.float64), axis=1) <= _FAR * self._longest
        parts = max(1, min(threads, len(data) // _LEAST_PART))
        bounds = np.linspace(0, len(data), parts + 1).astype(np.int64)

        def work(i: int) -> None:
            part = slice(bounds[i], bounds[i + 1])
            near[part] &= self._part(data[part], out[part])

        in_threads(work, parts, parts)
        return near

    def _part(self, data: Matrix, out: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        from delf_engine.index.codebook import kernels

        if not len(data):
            return np.ones(0, bool)
        cells = np.empty((len(data), self._probes), np.int32)
        found = np.empty(len(data), np.int32)
        kernels.probe(data, *self._cells, self._count, cells, found)
        best = np.full((len(data), out.shape[1] + _MARGIN), -np.inf, np.float32)
        words = np.zeros(best.shape, np.int32)
        starts, members = np.empty(self._count + 1, np.int64), np.empty(cells.size, np.int32)
        # Each descriptor's nearest cell first: few words of the others are better then than what it has.
        none, one = np.zeros_like(found), np.ones_like(found)
        for first, last in ((none, one), (one, found)):
            kernels.group(cells, first, last, starts, members)
            kernels.scan(data, starts, members, self._columns, self._bias, self._words, self._bounds, best, words)
        enough = best[:, -1] > -np.inf
        kernels.nearest_words(data, self._centroids, words, np.full(len(data), -1.0), out)
        return enough


def _clustered(words: Matrix, count: int) -> tuple[tuple[Matrix, Matrix], npt.NDArray[np.int32]]:
    """Return the centres of `count` cells as columns with their bias, and the cell of each word."""
    from delf_engine.index.codebook import kernels

    rng = np.random.default_rng(0)
    sample = words[np.sort(rng.permutation(len(words))[: _SAMPLE * count])]
    centres = np.zeros((count, words.shape[1]), np.float32)  # there are fewer only where words are
    chosen = np.sort(rng.permutation(len(sample))[:count])
    centres[: len(chosen)] = sample[chosen]
    width = -(-count // _LANES) * _LANES

    def nearest(rows: Matrix, columns: Matrix, bias: Matrix) -> npt.NDArray[np.int32]:
        parts = np.linspace(0, len(rows), usable_cores() + 1).astype(np.int64)
        out = np.empty(len(rows), np.int32)

        def work(i: int) -> None:
            part = slice(parts[i], parts[i + 1])
            kernels.nearest_columns(rows[part], columns, bias, out[part])

        in_threads(work, len(parts) - 1, len(parts) - 1)
        return out

    for _ in range(_ROUNDS):
        cell_of = nearest(sample, *_as_columns(centres, width))
        sizes = np.bincount(cell_of, minlength=count)
        sums = np.stack([np.bincount(cell_of, column, count) for column in sample.T], axis=1)
        used = sizes > 0
        centres = centres.copy()
        centres[used] = sums[used] / sizes[used, None]
    columns = _as_columns(centres, width)
    return columns, nearest(words, *columns)


def _as_columns(rows: Matrix, width: int) -> tuple[Matrix, Matrix]:
    """Return rows as the columns of a flat (D, width) matrix, and minus half their squares, -inf for padding."""
    columns = np.zeros((rows.shape[1], width), np.float32)
    columns[:, : len(rows)] = rows.T
    bias = np.full(width, -np.inf, np.float32)
    bias[: len(rows)] = -0.5 * np.einsum("nd,nd->n", rows, rows, dtype=np.float64)
    return columns.ravel(), bias


def flat_search(index: Any, data: npt.NDArray[np.float32], count: int, threads: int) -> npt.NDArray[np.int64]:
    """Return the `count` words nearest to each descriptor, (N, D) float32, by a flat index of faiss, (N, count).

    By itself faiss 1.15 multiplies matrices from some 3000 descriptors of 40 dimensions on, and takes three times
    as long for the thousand of a query. In its products all threads wait for each other thousands of times, which
    costs more than it brings where another program works too: here each has descriptors of its own.
    """
    if len(data) < _MATRIX_BATCH:
        return index.search(data, count)[1]
    parts = np.array_split(data, max(1, min(threads, len(data) // _LEAST_PART)))

    def search(i: int) -> npt.NDArray[np.int64]:
        with faiss_in_one_thread():
            return index.search(parts[i], count)[1]

    with _by_matrix_product():
        return np.concatenate(in_threads(search, len(parts), len(parts)))


@contextmanager
def _by_matrix_product() -> Iterator[None]:
    # The setting is one of the whole process: a search in another thread finds the same, at another speed.
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    try:
        faiss.cvar.distance_compute_blas_threshold = min(before, _MATRIX_BATCH)
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def _squared_norms(matrix: Matrix) -> npt.NDArray[np.float64]:
    return np.einsum("nd,nd->n", matrix, matrix, dtype=np.float64)
