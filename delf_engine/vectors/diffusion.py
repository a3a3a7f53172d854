"""Diffusion: a query's similarity spreads over the graph of mutual nearest neighbours.

Iscen, Tolias, Avrithis, Furon, Chum: Efficient diffusion on region manifolds. CVPR 2017.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.vectors.checks import Indices, Scores, check_count, check_number, unit_vectors
from delf_engine.vectors.neighbors import best_first, links, nearest, nearest_others

_TOLERANCE = 1e-8  # of the residual


class DiffusionGraph:
    """The mutual nearest neighbours of a collection, weighted by cosine^power: made once, for any queries.

    Two vectors are joined if each is among the `neighbors` nearest of the other and their cosine is positive. One
    that is joined to none, such as zeros, keeps the similarity that the query gives it.

    Parameters
    ----------
    vectors : (N, D) array
    neighbors : int
    power : float
        At least 0.
    """

    def __init__(self, vectors: npt.ArrayLike, *, neighbors: int = 50, power: float = 3.0) -> None:
        from scipy.sparse import diags_array

        self._vectors = unit_vectors("vectors", vectors)
        self._power = check_number("power", power, 0)
        scores, others = nearest_others(self._vectors, check_count("neighbors", neighbors))
        chosen = links(others, self._weights(scores), scores > 0, len(self._vectors))
        weights = chosen.minimum(chosen.T).tocsr()  # equal both ways, or 0 one way
        weights.eliminate_zeros()
        degrees = weights.sum(axis=1)
        scale = diags_array(1 / np.sqrt(np.where(degrees > 0, degrees, 1)))
        self._graph = (scale @ weights @ scale).tocsr()

    def _weights(self, cosines: Scores) -> npt.NDArray[np.float64]:
        """Return cosine^power, 0 where the cosine is not positive."""
        positive = np.maximum(cosines, 0).astype(np.float64)
        return np.where(positive > 0, positive**self._power, 0)

    def search(
        self, queries: npt.ArrayLike, top: int, *, neighbors: int = 10, alpha: float = 0.99
    ) -> tuple[Scores, Indices]:
        """Return the vectors that most of each query's similarity reaches, best first.

        The similarities f solve (I - alpha S) f = y by conjugate gradients, where y are the query's to its nearest
        vectors and S the graph.

        Parameters
        ----------
        queries : (M, D) array
            Each by itself; none becomes part of the graph.
        top : int
            Results of each query; of fewer vectors, all.
        neighbors : int
            Vectors that a query is joined to.
        alpha : float
            How far similarity spreads: from 0 up to, but not, 1.

        Returns
        -------
        scores, indices : (M, min(top, N)) float32 and int64
            Scores may have any size: they order the results of one query.
        """
        from scipy.sparse import eye_array
        from scipy.sparse.linalg import cg
        from threadpoolctl import threadpool_limits

        asked = unit_vectors("queries", queries, self._vectors.shape[1])
        top, alpha = check_count("top", top), check_number("alpha", alpha, 0, 1)
        if alpha == 1:
            raise ConfigError("alpha must be less than 1: similarity would spread without end")
        cosines, near = nearest(asked, self._vectors, check_count("neighbors", neighbors))
        given = self._weights(cosines)
        count = len(self._vectors)
        everything = np.arange(count)
        scores = np.empty((len(asked), min(top, count)), np.float32)
        indices = np.empty(scores.shape, np.int64)
        if not count:
            return scores, indices
        system = (eye_array(count, format="csr") - alpha * self._graph).tocsr()
        with threadpool_limits(1):  # with several, BLAS adds in an order that depends on their number
            for i in range(len(asked)):
                start = np.zeros(count)
                start[near[i]] = given[i]
                reached, _ = cg(system, start, rtol=_TOLERANCE)
                best = best_first(reached.astype(np.float32)[None], everything[None], scores.shape[1])
                scores[i], indices[i] = best[0][0], best[1][0]
        return scores, indices
