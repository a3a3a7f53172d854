"""Numba kernel that decides in float64, and in a fixed order of sums, which words are nearest to descriptors.

Imported only by functions that run it: numba takes a while to load. Arrays that come from a segment or a codebook
are read-only and C-contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["nearest_words"]


@njit(cache=True, nogil=True)
def _distance(x: Any, y: Any) -> Any:
    total = 0.0
    for d in range(len(x)):
        difference = np.float64(x[d]) - np.float64(y[d])
        total += difference * difference
    return total


@njit(cache=True, nogil=True)
def _insert(word: Any, distance: Any, words: Any, distances: Any, found: Any) -> Any:
    """Insert into a list of at most len(words) sorted by (distance, word); return how many it holds."""
    k = len(words)
    if found == k and (distance, word) >= (distances[k - 1], words[k - 1]):
        return found
    at = min(found, k - 1)
    while at > 0 and (distance, word) < (distances[at - 1], words[at - 1]):
        distances[at] = distances[at - 1]
        words[at] = words[at - 1]
        at -= 1
    distances[at] = distance
    words[at] = word
    return min(found + 1, k)


@njit(cache=True, nogil=True)
def nearest_words(descriptors: Any, centroids: Any, proposed: Any, tolerance: Any, out: Any) -> None:
    """Pick each descriptor's nearest words from those proposed, or from all where these may not suffice.

    Parameters
    ----------
    descriptors : (N, D) float32
    centroids : (W, D) float32
    proposed : (N, C) int32
        Words with the C smallest inexact distances.
    tolerance : (N,) float64
        By how much the inexact squared distances may mislead; negative where all words are proposed.
    out : (N, k) int32
        Overwritten.
    """
    n, k = out.shape
    distances = np.empty(k, np.float64)
    for i in range(n):
        found = 0
        farthest = 0.0
        for c in range(proposed.shape[1]):
            distance = _distance(descriptors[i], centroids[proposed[i, c]])
            farthest = max(farthest, distance)
            found = _insert(proposed[i, c], distance, out[i], distances, found)
        if farthest - distances[k - 1] <= tolerance[i]:
            found = 0
            for word in range(len(centroids)):
                found = _insert(
                    np.int32(word), _distance(descriptors[i], centroids[word]), out[i], distances, found
                )
