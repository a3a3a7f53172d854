"""`ExactTree`: the nearest descriptors of a small collection, all of them, by one KD-tree of SciPy."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Found: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

_BLOCK = 256  # query descriptors whose neighbours are compared at a time
_SLACK = 1e-9  # relative; sums of squares in another order differ by far less


class ExactTree:
    """A KD-tree (Bentley, CACM 1975) of R descriptors, (R, D) float32, searched until nothing nearer can be left.

    With descriptors of 40 dimensions that is nearly all of it, so that time grows with the collection. Equally
    near descriptors come in the order of their rows, also where not all of them are asked for.
    """

    def __init__(self, descriptors: npt.NDArray[np.float32]) -> None:
        from scipy.spatial import cKDTree

        self._rows = descriptors.astype(np.float64)
        self._tree = cKDTree(self._rows)

    def nearest(self, queries: npt.NDArray[np.float32], k: int) -> Found:
        """Return the `k` nearest rows of each query, (Q, D) float32, and their squared distances, (Q, k) each.

        Nearest are those of the smallest (distance, row); distances are sums in float64.
        """
        rows, squared = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        for start in range(0, len(queries), _BLOCK):
            block = slice(start, start + _BLOCK)
            rows[block], squared[block] = self._block(queries[block].astype(np.float64), k)
        return rows, squared

    def _block(self, queries: npt.NDArray[np.float64], k: int) -> Found:
        wanted = min(k + 1, len(self._rows))
        far, found = self._tree.query(queries, np.arange(1, wanted + 1))
        rows = found[:, :k].astype(np.int64)
        squared = _squared(queries[:, None], self._rows[rows])
        # The sort is by the last key first.
        order = np.lexsort((rows, squared))
        rows, squared = np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)
        if wanted > k:
            # The tree returns any of those that tie for the last place: have them all, and take the first rows.
            for i in np.flatnonzero(far[:, k] <= far[:, k - 1] * (1 + _SLACK)):
                ball = self._tree.query_ball_point(queries[i], far[i, k - 1] * (1 + _SLACK))
                near = np.sort(np.array(ball, np.int64))
                every = _squared(queries[i], self._rows[near])
                first = np.argsort(every, kind="stable")[:k]
                rows[i], squared[i] = near[first], every[first]
        return rows, squared


def _squared(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    difference = x - y
    return (difference * difference).sum(-1)
