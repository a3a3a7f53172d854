"""Numba kernels of training codebooks. Imported only by functions that run them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["accumulate", "choose_apart"]


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


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def choose_apart(sample: Any, draws: Any, begin: Any, chosen: Any, nearest: Any) -> None:
    """Choose rows by the rule of k-means++: each with a chance in proportion to its squared distance to the rest.

    Parameters
    ----------
    sample : (M, D) float32
    draws : (n,) float64
        In [0, 1), one for each row to be chosen now.
    begin : int
        How many were chosen before.
    chosen : (W,) int64
        ``chosen[begin : begin + n]`` is written.
    nearest : (M,) float32
        Squared distance of each row to those chosen; 0 before the first, -1 for the chosen. Updated.
    """
    rows, dim = sample.shape
    for w in range(begin, begin + len(draws)):
        total = 0.0
        if w > 0:
            last = sample[chosen[w - 1]]
            for i in range(rows):
                if nearest[i] >= 0:
                    distance = np.float32(0)
                    for d in range(dim):
                        difference = sample[i, d] - last[d]
                        distance += difference * difference
                    if w == 1 or distance < nearest[i]:
                        nearest[i] = distance
                    total += np.float64(nearest[i])
        pick = -1
        if total > 0:
            rest = draws[w - begin] * total
            for i in range(rows):
                if nearest[i] > 0:
                    pick = i
                    rest -= np.float64(nearest[i])
                    if rest < 0:
                        break
        else:  # the first, or all that remain equal one that is chosen: any will do
            free = np.int64(draws[w - begin] * (rows - w))
            for i in range(rows):
                if nearest[i] >= 0:
                    if free == 0:
                        pick = i
                        break
                    free -= 1
        chosen[w] = pick
        nearest[pick] = -1
