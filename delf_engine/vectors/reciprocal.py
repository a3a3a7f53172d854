"""k-reciprocal re-ranking: images are alike that have the same images for neighbours, which agree that they are.

Zhong, Zheng, Cao, Li: Re-ranking person re-identification with k-reciprocal encoding. CVPR 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.vectors.checks import (
    Indices,
    Scores,
    Vectors,
    check_count,
    check_number,
    check_ranking,
    unit_vectors,
)
from delf_engine.vectors.neighbors import (
    best_first,
    candidate_products,
    links,
    nearest,
    nearest_others,
    pair_products,
)


class ReciprocalGraph:
    """The k-reciprocal encodings of a collection, as sparse matrices: made once, for any queries.

    Queries stand outside: their rankings do not depend on each other, and one is a neighbour of a vector if it is
    as near as that vector's `k1`-th. Distances are 1 - cosine. A vector of zeros is nobody's neighbour.

    Parameters
    ----------
    vectors : (N, D) array
    k1 : int
        Neighbours that may be reciprocal; those of a neighbour are half as many.
    k2 : int
        Encodings that are averaged, the image's own included.
    """

    def __init__(self, vectors: npt.ArrayLike, *, k1: int = 20, k2: int = 6) -> None:
        self._vectors = unit_vectors("vectors", vectors)
        self._k1, self._k2 = check_count("k1", k1), check_count("k2", k2)
        count = len(self._vectors)
        self._there: npt.NDArray[np.bool_] = np.asarray(self._vectors.any(axis=1))
        scores, others = nearest_others(self._vectors, max(self._k1, self._k2 - 1))
        full = count > self._k1  # in a smaller collection everybody is a neighbour
        self._limits = scores[:, self._k1 - 1] if full else np.full(count, -np.inf, np.float32)
        itself = np.arange(count)[:, None]
        listed = np.concatenate([itself, others], axis=1)
        there = self._there[listed] & self._there[:, None]
        there[:, 0] = True

        def mutual(k: int) -> Any:
            chosen = _ones(listed[:, : k + 1], there[:, : k + 1], count)
            return chosen.multiply(chosen.T).tocsr()

        self._half = mutual(round(self._k1 / 2))
        self._single = _encoded(mutual(self._k1), self._half, self._vectors, self._vectors)
        average = _ones(listed[:, : self._k2], there[:, : self._k2], count)
        average.data /= np.repeat(np.diff(average.indptr), np.diff(average.indptr))
        self._encodings = average @ self._single
        self._sums = self._encodings.sum(axis=1)

    def rerank(
        self, queries: npt.ArrayLike, indices: npt.ArrayLike | None = None, *, top: int = 100, weight: float = 0.3
    ) -> tuple[Scores, Indices]:
        """Return the candidates of each query, those of the smallest distance first.

        Parameters
        ----------
        queries : (M, D) array
        indices : (M, K) array of int or None
            Candidates, rows of the collection, as any search found them; -1 is none, and comes last. By default
            the `top` nearest.
        top : int
            Candidates where none are given.
        weight : float
            Of 1 - cosine in the distance, from 0 to 1; the rest is the Jaccard distance of encodings.

        Returns
        -------
        distances, indices : (M, K) float32 and int64
            A distance is infinite where there is no candidate.
        """
        asked = unit_vectors("queries", queries, self._vectors.shape[1])
        weight, top = check_number("weight", weight, 0, 1), check_count("top", top)
        count = len(self._vectors)
        scores, near = nearest(asked, self._vectors, max(self._k1, self._k2 - 1, top if indices is None else 1))
        found = near[:, :top] if indices is None else check_ranking(indices, len(asked), count)
        encoded = self._queries(asked, scores, near)
        jaccard = np.ones(found.shape)
        values = np.zeros(count)
        for i in range(len(asked)):
            own = slice(encoded.indptr[i], encoded.indptr[i + 1])
            values[encoded.indices[own]] = encoded.data[own]
            jaccard[i] = self._jaccard(values, encoded.data[own].sum(), np.maximum(found[i], 0)) if count else 1
            values[encoded.indices[own]] = 0
        cosines = candidate_products(asked, self._vectors, found) if count else np.zeros(found.shape, np.float32)
        distances = ((1 - weight) * jaccard + weight * (1 - cosines.astype(np.float64))).astype(np.float32)
        distances[found < 0] = np.inf
        ordered, order = best_first(-distances, found, found.shape[1])
        return -ordered, order

    def _queries(self, asked: Vectors, scores: Scores, near: Indices) -> Any:
        """Return the encodings of queries, (M, N) sparse, averaged as those of the collection are."""
        from scipy.sparse import diags_array

        there = self._there[near] & np.asarray(asked.any(axis=1))[:, None]
        agreed = there & (scores >= self._limits[near])
        reciprocal = _ones(near[:, : self._k1], agreed[:, : self._k1], len(self._vectors))
        own = _encoded(reciprocal, self._half, asked, self._vectors)
        others = _ones(near[:, : self._k2 - 1], there[:, : self._k2 - 1], len(self._vectors))
        together = own + others @ self._single
        return (diags_array(1 / (1 + others.sum(axis=1))) @ together).tocsr()

    def _jaccard(self, values: npt.NDArray[np.float64], total: float, candidates: Indices) -> Any:
        """Return the Jaccard distances of a query's encoding, (N,), to those of candidates, (K,)."""
        rows = self._encodings[candidates]
        which = np.repeat(np.arange(len(candidates)), np.diff(rows.indptr))
        shared = np.bincount(which, np.minimum(rows.data, values[rows.indices]), len(candidates))
        united = total + self._sums[candidates] - shared
        return 1 - shared / np.where(united > 0, united, 1)


def _ones(indices: Indices, there: npt.NDArray[np.bool_], columns: int) -> Any:
    return links(indices, np.ones(indices.shape), there, columns)


def _encoded(reciprocal: Any, half: Any, rows: Vectors, vectors: Vectors) -> Any:
    """Return Gaussian weights of reciprocal neighbours and of theirs, (M, N) sparse; rows sum to 1, or are empty.

    The half lists of a neighbour are taken in where more than two thirds of them are reciprocal already.
    """
    shared = reciprocal.multiply(reciprocal @ half.T).tocsr()
    sizes = np.diff(half.indptr)
    shared.data = (3 * shared.data > 2 * sizes[shared.indices]).astype(np.float64)
    out = (reciprocal + shared @ half).tocsr()
    out.eliminate_zeros()
    out.sort_indices()
    which = np.repeat(np.arange(len(rows)), np.diff(out.indptr))
    out.data = np.exp(pair_products(rows, which, vectors, out.indices).astype(np.float64) - 1)
    out.data /= np.bincount(which, out.data, len(rows))[which]
    return out
