"""`FastSearcher`: the words nearest to descriptors by a scan of 4-bit codes, decided in float64."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FastSearcher", "flat_search", "levels"]

_LEAST_WORDS = 16384  # fewer are scanned flat in less time
_LARGEST_DIM = 256  # sums of so many bytes fit 16 bits
_PROPOSALS = 24  # words decided on, and
_PER_WORD = 4  # so many more for each that is asked for
_LEVELS = 16
_ROUNDS = 20
_FAR = 1e4  # times the longest centroid
_MATRIX_BATCH = 20  # descriptors that are worth a product of matrices
_LEAST_PART = 128  # descriptors of a thread


class FastSearcher:
    """Nearest words by scalar quantisation of the centroids to 4 bits in each dimension.

    Every dimension of the centroids has 16 levels of its own (one-dimensional k-means), so that the distance of a
    descriptor to a word is about a sum of D looked-up bytes. Registers hold the tables (fast scan of faiss). The
    24 + 4 k words of the smallest sums are proposed, and distances in float64 decide between them.

    All words are scanned. Descriptors of photographs have too many dimensions for cells (IVF) and graphs (HNSW) to
    pay at the 16,384 words of a packaged codebook: in the time of this scan they find fewer of the nearest.

    The sums are whole numbers: what is found are the same bits for any batch and number of threads. Words with the
    same centroid share one code and count as one proposal, so that of such words the lowest are found.

    Parameters
    ----------
    centroids : (W, D) float32
        Finite. Not copied.

    References
    ----------
    André, Kermarrec, Le Scouarnec: Cache locality is not enough: high-performance nearest neighbor search with
    product quantization fast scan. VLDB 2015.
    """

    def __init__(self, centroids: npt.NDArray[np.float32]) -> None:
        import faiss

        self._centroids = centroids
        dim = centroids.shape[1]
        rows = (centroids + np.float32(0)).view(f"V{4 * dim}").ravel()  # the sum makes 0 of -0
        _, first, group = np.unique(rows, return_index=True, return_inverse=True)
        order = np.argsort(first)  # groups in the order of their lowest words
        rank = np.empty(len(first), np.int64)
        rank[order] = np.arange(len(first))
        group = rank[group.ravel()]
        self._members = np.argsort(group, kind="stable").astype(np.int32)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(group))])
        index = faiss.IndexPQFastScan(dim, dim, 4)
        distinct = centroids[first[order]]
        faiss.copy_array_to_vector(levels(distinct).ravel(), index.pq.centroids)
        index.is_trained = True
        index.add(distinct)
        self._index: Any = index
        self._longest = float(np.linalg.norm(centroids.astype(np.float64), axis=1).max())

    @staticmethod
    def pays(words: int, dim: int, k: int) -> bool:
        """Return whether this is quicker than a flat scan, of so many words and dimensions for `k` words."""
        return words >= _LEAST_WORDS and dim <= _LARGEST_DIM and 16 * k <= words

    def search(self, data: npt.NDArray[np.float32], out: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Write the words nearest to each descriptor, nearest first.

        Parameters
        ----------
        data : (N, D) float32
            Finite.
        out : (N, k) int32
            Overwritten.

        Returns
        -------
        (N,) bool
            False where a descriptor is so far from all words that float32 cannot tell their distances apart:
            its row of `out` means nothing.
        """
        from delf_engine.index import assignment_kernels

        count = min(_PROPOSALS + _PER_WORD * out.shape[1], len(self._starts) - 1)
        _, proposed = self._index.search(data, count)
        groups = (self._members, self._starts)
        near = np.linalg.norm(data.astype(np.float64), axis=1) <= _FAR * self._longest
        near &= assignment_kernels.decide(data, self._centroids, proposed, *groups, out)
        return near


def flat_search(index: Any, data: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    """Return the `count` words nearest to each descriptor in float32 by a flat index of faiss, (N, count).

    By itself faiss 1.15 multiplies matrices from some 3000 descriptors of 40 dimensions on, and takes three times
    as long for the thousand of a query. In its products all threads wait for each other thousands of times, which
    costs more than it brings where another program works too: here each has descriptors of its own.

    Parameters
    ----------
    index : faiss.IndexFlatL2
    data : (N, D) float32
    count : int
    """
    import faiss

    threads = faiss.omp_get_max_threads()
    if len(data) < _MATRIX_BATCH:
        return index.search(data, count)[1]
    parts = np.array_split(data, max(1, min(threads, len(data) // _LEAST_PART)))

    def search(part: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        faiss.omp_set_num_threads(1)  # of this thread
        return index.search(part, count)[1]

    with _by_matrix_product():
        if threads == 1:
            return index.search(data, count)[1]
        with ThreadPoolExecutor(len(parts)) as pool:
            return np.concatenate(list(pool.map(search, parts)))


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


def levels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return 16 levels for each column by one-dimensional k-means, begun at its quantiles.

    Parameters
    ----------
    values : (W, D) float32

    Returns
    -------
    (D, 16) float32
        Ascending. Levels repeat where a column has fewer values.
    """
    ordered = np.sort(values, axis=0).astype(np.float64)
    begin = ((np.arange(_LEVELS) + 0.5) * len(ordered) / _LEVELS).astype(np.int64)
    out = ordered[begin].T.copy()
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(ordered, axis=0)])
    for column in range(values.shape[1]):
        level = out[column]
        for _ in range(_ROUNDS):
            bounds = np.searchsorted(ordered[:, column], (level[1:] + level[:-1]) / 2)
            bounds = np.concatenate([[0], bounds, [len(ordered)]])
            counts = np.diff(bounds)
            level = np.where(counts > 0, np.diff(sums[bounds, column]) / np.maximum(counts, 1), level)
        out[column] = np.sort(level)
    return out.astype(np.float32)
