"""The Numba kernel that aggregates descriptors. Imported only by functions that run it: numba loads slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["word_sums"]


@njit(cache=True, nogil=True)
def word_sums(keys: Any, assignments: Any, descriptors: Any, centroids: Any, weights: Any) -> Any:
    """Sum the residuals of an image's descriptors in each of its visual words.

    Sums are in float64 and in the order of the descriptors: the same bits whatever else is aggregated.

    Parameters
    ----------
    keys : (N k,) int64
        Ascending: word << 32 | k descriptor + rank, a key for each of the k words of each descriptor.
    assignments : int
        k.
    descriptors : (N, D) float32
    centroids : (W, D) float32
    weights : (N,) float64
        How often each descriptor counts.

    Returns
    -------
    words : (w,) int32
        Distinct, ascending.
    sums : (w, D) float64
    """
    dim, count = descriptors.shape[1], 0
    for at in range(len(keys)):
        count += at == 0 or keys[at] >> 32 != keys[at - 1] >> 32
    words, sums = np.empty(count, np.int32), np.zeros((count, dim))
    row = -1
    for at in range(len(keys)):
        word = keys[at] >> 32
        if at == 0 or word != keys[at - 1] >> 32:
            row += 1
            words[row] = word
        i = (keys[at] & 0xFFFFFFFF) // assignments
        for d in range(dim):
            sums[row, d] += weights[i] * (np.float64(descriptors[i, d]) - np.float64(centroids[word, d]))
    return words, sums
