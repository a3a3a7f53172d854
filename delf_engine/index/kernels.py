"""Numba kernels that assign words, and count and merge the postings of an ASMK index.

Imported only by functions that run them: numba takes a while to load. Arrays that come from a segment or a
codebook are read-only and C-contiguous; sums are in float64 and in a fixed order, so that results are the same
bits on every call and with any number of segments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["copy_postings", "count_postings", "nearest_words"]


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


@njit(cache=True, nogil=True)
def count_postings(words: Any, word_offsets: Any, image_ids: Any, alive: Any, all_alive: Any, counts: Any) -> Any:
    """Add the number of live images that have each of `words` to `counts`; False if arrays are damaged.

    With `all_alive` the postings themselves are not read, only where they begin.
    """
    for w in range(len(words)):
        begin, end = word_offsets[words[w]], word_offsets[words[w] + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        if all_alive:
            counts[w] += end - begin
            continue
        for p in range(begin, end):
            if image_ids[p] < 0 or image_ids[p] >= len(alive):
                return False
            counts[w] += alive[image_ids[p]]
    return True


@njit(cache=True, nogil=True)
def copy_postings(
    word_offsets: Any, image_ids: Any, codes: Any, new_rows: Any, cursor: Any, out_ids: Any, out_codes: Any
) -> None:
    """Append the live postings of one segment, already checked by `count_postings`, to those of a larger one.

    Parameters
    ----------
    word_offsets, image_ids, codes
        Of the segment.
    new_rows : (n,) int32
        New row of each image, -1 if it was removed.
    cursor : (W,) int64
        Where the next posting of each word goes; advanced.
    out_ids : (P,) int32
    out_codes : (P, L) uint64, or uint16 as the codes of the segment
    """
    for word in range(len(cursor)):
        for p in range(word_offsets[word], word_offsets[word + 1]):
            row = new_rows[image_ids[p]]
            if row >= 0:
                out_ids[cursor[word]] = row
                out_codes[cursor[word]] = codes[p]
                cursor[word] += 1
