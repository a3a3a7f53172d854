"""Numba kernel of training codebooks. Imported only by functions that run it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["accumulate"]


@njit(cache=True, nogil=True)
def accumulate(
    descriptors: Any, centroids: Any, words: Any, sums: Any, counts: Any, errors: Any, farthest: Any, rows: Any
) -> None:
    """Add descriptors to what one pass of k-means keeps of each word.

    Parameters
    ----------
    descriptors : (N, D) float32
    centroids : (W, D) float32
    words : (N,) int32
        Of each descriptor.
    sums : (W, D) float64
    counts : (W,) int64
    errors : (W,) float64
        Sums of squared distances to the word.
    farthest : (W,) float64
        The largest of them, and
    rows : (W, D) float32
        the descriptor that has it, of several the first.
    """
    for i in range(len(descriptors)):
        word = words[i]
        counts[word] += 1
        error = 0.0
        for d in range(descriptors.shape[1]):
            value = np.float64(descriptors[i, d])
            sums[word, d] += value
            difference = value - np.float64(centroids[word, d])
            error += difference * difference
        errors[word] += error
        if error > farthest[word]:
            farthest[word] = error
            rows[word] = descriptors[i]
