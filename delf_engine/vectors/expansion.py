"""Vectors that are made better by their neighbours: query expansion, and database-side augmentation.

Chum et al., ICCV 2007 (average expansion). Radenović et al., TPAMI 2018 (alpha). Turcot, Lowe, ICCV Workshops 2009
(augmentation). Gordo et al., IJCV 2017 (weights by rank).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.vectors.checks import Indices, Vectors, check_count, check_number, normalized, unit_vectors
from delf_engine.vectors.neighbors import nearest, nearest_others

_BLOCK = 256  # vectors that are summed at a time


def expand_queries(
    queries: npt.ArrayLike, vectors: npt.ArrayLike, *, top: int = 10, alpha: float = 3.0
) -> Vectors:
    """Return each query plus its nearest vectors, weighted by cosine^alpha, L2-normalised: (M, D) float32.

    Parameters
    ----------
    queries, vectors : (M, D) and (N, D) array
        A query of zeros stays so.
    top : int
        Neighbours that are added.
    alpha : float
        0: all weigh 1, average query expansion. Otherwise vectors of negative cosine are left out.
    """
    units = unit_vectors("vectors", vectors)
    asked = unit_vectors("queries", queries, units.shape[1])
    top, alpha = check_count("top", top), check_number("alpha", alpha, 0)
    scores, indices = nearest(asked, units, top)
    return _added(asked, units, indices, np.maximum(scores, 0).astype(np.float64) ** alpha)


def augment_database(vectors: npt.ArrayLike, *, top: int = 10, alpha: float | None = None) -> Vectors:
    """Return each vector plus its nearest others, weighted, L2-normalised: (N, D) float32.

    Parameters
    ----------
    vectors : (N, D) array
        One of zeros stays so.
    top : int
        Neighbours that are added.
    alpha : float or None
        None: the r-th neighbour weighs (top + 1 - r) / (top + 1); else cosine^alpha, as in `expand_queries`.
    """
    units, top = unit_vectors("vectors", vectors), check_count("top", top)
    power = None if alpha is None else check_number("alpha", alpha, 0)
    scores, indices = nearest_others(units, top)
    if power is None:
        ranks = np.arange(1, indices.shape[1] + 1)
        weights = np.broadcast_to((top + 1 - ranks) / (top + 1), indices.shape)
    else:
        weights = np.maximum(scores, 0).astype(np.float64) ** power
    return _added(units, units, indices, weights)


def _added(start: Vectors, vectors: Vectors, indices: Indices, weights: npt.NDArray[np.float64]) -> Vectors:
    """Return ``start`` plus the weighted vectors that each row of `indices` names, normalised."""
    total = start.copy()
    for first in range(0, len(start), _BLOCK):
        rows = slice(first, first + _BLOCK)
        more = (weights[rows, :, None] * vectors[indices[rows]]).sum(axis=1)
        total[rows] = normalized(start[rows] + more)
    total[~start.any(axis=1)] = 0  # nothing is near it
    return total
