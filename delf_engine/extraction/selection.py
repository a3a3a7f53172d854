"""Which cells become features: the best by attention, over all levels jointly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["select_top"]


def select_top(scores: npt.NDArray[np.float32], max_features: int, min_score: float) -> npt.NDArray[np.int64]:
    """Return the indices of the highest scores, in descending order.

    Parameters
    ----------
    scores : (N,) float32
        NaN is never selected.
    max_features : int
        At most this many.
    min_score : float
        Only scores at or above it.

    Returns
    -------
    (M,) int64
        Equal scores stand in the order of their index, so the result does not depend on the sort.
    """
    eligible = np.flatnonzero(scores >= min_score)
    order = np.argsort(-scores[eligible], kind="stable")[:max_features]
    return eligible[order]
