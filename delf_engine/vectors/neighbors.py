"""Exact nearest neighbours by cosine whose bits depend on neither threads nor what else is searched."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.vectors.checks import Indices, Scores, Vectors, check_count, unit_vectors

_BLOCK = 4096  # queries, or pairs, at a time
_SPARE = 32  # candidates beyond those asked for, to be sure of the last


def nearest_neighbors(queries: npt.ArrayLike, vectors: npt.ArrayLike, k: int) -> tuple[Scores, Indices]:
    """Return the `k` vectors with the largest cosine to each query, best first.

    Parameters
    ----------
    queries, vectors : (M, D) and (N, D) array
    k : int
        At least 1; of fewer vectors, all are returned.

    Returns
    -------
    scores, indices : (M, min(k, N)) float32 and int64
    """
    units = unit_vectors("vectors", vectors)
    return nearest(unit_vectors("queries", queries, units.shape[1]), units, check_count("k", k))


def nearest(queries: Vectors, vectors: Vectors, k: int) -> tuple[Scores, Indices]:
    """Return what `nearest_neighbors` does, of unit vectors.

    faiss finds a few more than asked for by products of matrices, whose rounding depends on threads; these are
    compared by products in float64. Where one that was left out might belong in, all that might are.
    """
    import faiss

    k = min(k, len(vectors))
    scores, indices = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    if not k:
        return scores, indices
    wide = min(len(vectors), k + _SPARE)
    slack = (vectors.shape[1] + 8) * 2.0**-23  # twice what rounding in float32 can do
    for start in range(0, len(queries), _BLOCK):
        rows = slice(start, start + _BLOCK)
        rough, found = faiss.knn(queries[rows], vectors, wide, metric=faiss.METRIC_INNER_PRODUCT)
        scores[rows], indices[rows] = best_first(candidate_products(queries[rows], vectors, found), found, k)
        if wide < len(vectors):
            unsure = start + np.flatnonzero(scores[rows, -1] <= rough.min(axis=1) + slack)
            different, first, which = np.unique(queries[unsure], axis=0, return_index=True, return_inverse=True)
            for number, query in enumerate(different):  # equal ones once: copies are why most are unsure
                least = scores[unsure[first[number]], -1] - slack
                may = np.flatnonzero(vectors @ query >= least)[None]
                same = unsure[which.ravel() == number]
                scores[same], indices[same] = best_first(candidate_products(query[None], vectors, may), may, k)
    return scores, indices


def best_first(scores: Scores, indices: Indices, k: int) -> tuple[Scores, Indices]:
    """Return the `k` largest scores of each row with their indices, the lower index first where they are equal."""
    order = np.lexsort((indices, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(indices, order, axis=1)


def candidate_products(queries: Vectors, vectors: Vectors, indices: Indices) -> Scores:
    """Return the product of each query with its candidates, (M, K) float32."""
    rows = np.repeat(np.arange(len(queries)), indices.shape[1])
    return pair_products(queries, rows, vectors, indices.ravel()).reshape(indices.shape)


def pair_products(a: Vectors, rows: npt.NDArray[Any], b: Vectors, columns: npt.NDArray[Any]) -> Scores:
    """Return the products of ``a[rows]`` with ``b[columns]``, (n,) float32; each is summed by itself."""
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        pairs = slice(start, start + _BLOCK)
        out[pairs] = np.multiply(a[rows[pairs]], b[columns[pairs]], dtype=np.float64).sum(axis=1)
    return out


def nearest_others(vectors: Vectors, k: int) -> tuple[Scores, Indices]:
    """Return the `k` nearest of each unit vector but itself, (N, min(k, N - 1)), best first."""
    scores, indices = nearest(vectors, vectors, k + 1)
    itself = indices == np.arange(len(vectors))[:, None]
    if itself.size:
        itself[~itself.any(axis=1), -1] = True  # enough copies come before it
    shape = (len(vectors), max(indices.shape[1] - 1, 0))
    return scores[~itself].reshape(shape), indices[~itself].reshape(shape)


def links(indices: Indices, values: npt.NDArray[Any], there: npt.NDArray[np.bool_], columns: int) -> Any:
    """Return a sparse (M, columns) matrix of `values` at the `indices` of each row, where `there`."""
    from scipy.sparse import csr_array

    counts = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
    matrix = csr_array((values[there], indices[there], counts), shape=(len(indices), columns))
    matrix.sort_indices()
    return matrix
