"""`WordSearcher`: which words are nearest to descriptors, by a flat scan or by the nearest cells of words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.index.codebook.cells import CellSearcher
from delf_engine.index.openmp import one_thread
from delf_engine.support.threads import in_threads

__all__ = ["Mode", "WordSearcher", "flat_search"]

Matrix: TypeAlias = npt.NDArray[np.float32]
Mode: TypeAlias = Literal["exact", "fast"]

_MARGIN = 4  # candidates beyond the k asked for: float64 decides between them
_BLOCK = 8192  # descriptors at a time
_MATRIX_BATCH = 20  # descriptors that are worth a product of matrices
_LEAST_PART = 128  # descriptors of a thread


class WordSearcher:
    """Finds the nearest words of descriptors; what that takes is made when it is first needed.

    Parameters
    ----------
    centroids : (W, D) float32
        Finite, C-contiguous. Not copied.
    """

    def __init__(self, centroids: Matrix) -> None:
        self.centroids = centroids
        self._flat: Any = None
        self._cells: CellSearcher | None = None

    def nearest(self, data: Matrix, k: int, mode: Mode, threads: int) -> npt.NDArray[np.int32]:
        """Return the `k` nearest words of each descriptor, nearest first, of equally near ones the lowest first.

        Parameters
        ----------
        data : (N, D) float32
            Finite, C-contiguous.
        k : int
            From 1 to W.
        mode : "exact" or "fast"
            See `Codebook.assign`.
        threads : int
            The result has the same bits with any number.

        Returns
        -------
        (N, k) int32
        """
        words, dim = self.centroids.shape
        fast = mode == "fast" and CellSearcher.pays(words, dim, k)
        search = self._nearest_fast if fast else self._nearest
        out = np.empty((len(data), k), np.int32)
        for start in range(0, len(data), _BLOCK):
            search(data[start : start + _BLOCK], out[start : start + _BLOCK], threads)
        return out

    def _nearest(self, data: Matrix, out: npt.NDArray[np.int32], threads: int) -> None:
        import faiss

        from delf_engine.index.codebook.nearest_kernels import nearest_words

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
        if self._cells is None:
            self._cells = CellSearcher(self.centroids)
        found = self._cells.search(data, out, threads)
        if not found.all():
            rest = np.empty((int((~found).sum()), out.shape[1]), np.int32)
            self._nearest(data[~found], rest, threads)
            out[~found] = rest


def flat_search(index: Any, data: npt.NDArray[np.float32], count: int, threads: int) -> npt.NDArray[np.int64]:
    """Return the `count` words nearest to each descriptor in float32 by a flat index of faiss, (N, count).

    By itself faiss 1.15 multiplies matrices from some 3000 descriptors of 40 dimensions on, and takes three times
    as long for the thousand of a query. In its products all threads wait for each other thousands of times, which
    costs more than it brings where another program works too: here each has descriptors of its own.

    Parameters
    ----------
    index : faiss.IndexFlatL2
    data : (N, D) float32
    count, threads : int
    """
    if len(data) < _MATRIX_BATCH:
        return index.search(data, count)[1]
    parts = np.array_split(data, max(1, min(threads, len(data) // _LEAST_PART)))

    def search(i: int) -> npt.NDArray[np.int64]:
        with one_thread():
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
