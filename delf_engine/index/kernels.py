"""Numba kernels that assign words, and score and merge the postings of an ASMK index.

Imported only by functions that run them: numba takes a while to load. Arrays that come from a segment or a
codebook are read-only and C-contiguous; sums are in float64 and in a fixed order, so that results are the same
bits on every call and with any number of segments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["copy_postings", "count_postings", "nearest_words", "score_postings", "score_units"]


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
def _ones(x: Any) -> Any:
    # The usual sideways addition; LLVM makes one popcnt instruction of it.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def score_postings(
    query_words: Any,
    query_codes: Any,
    weights: Any,
    selectivity: Any,
    word_offsets: Any,
    image_ids: Any,
    codes: Any,
    scores: Any,
) -> Any:
    """Add one query's similarities to the images of one segment.

    Parameters
    ----------
    query_words : (Q,) int32
    query_codes : (Q, L) uint64
    weights : (Q,) float64
        Of each word.
    selectivity : (D + 1,) float64
        By Hamming distance.
    word_offsets : (W + 1,) int64
        Where the postings of each word begin.
    image_ids : (P,) int32
    codes : (P, L) uint64
    scores : (n,) float64
        Added to.

    Returns
    -------
    bool
        False if the segment's arrays point outside each other: they are damaged.
    """
    length = query_codes.shape[1]
    for q in range(len(query_words)):
        begin, end = word_offsets[query_words[q]], word_offsets[query_words[q] + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        for p in range(begin, end):
            distance = 0
            for part in range(length):
                distance += _ones(query_codes[q, part] ^ codes[p, part])
            image = image_ids[p]
            if image < 0 or image >= len(scores) or distance >= len(selectivity):
                return False
            scores[image] += weights[q] * selectivity[distance]
    return True


@njit(cache=True, nogil=True)
def score_units(
    query_words: Any,
    query_units: Any,
    weights: Any,
    alpha: Any,
    threshold: Any,
    strict: Any,
    half: Any,
    word_offsets: Any,
    image_ids: Any,
    units: Any,
    scores: Any,
) -> Any:
    """Add one query's similarities to the images of one segment, of residuals that are not binarised.

    Parameters
    ----------
    query_words : (Q,) int32
    query_units : (Q, D) float32
        Residuals of unit length, or zero.
    weights : (Q,) float64
        Of each word.
    alpha, threshold : float
    strict : bool
        Whether a similarity at the threshold itself scores nothing.
    half : (65536,) float32
        The value of every float16, by its bits: numba knows no float16 on a CPU.
    word_offsets : (W + 1,) int64
        Where the postings of each word begin.
    image_ids : (P,) int32
    units : (P, D) uint16
        Bits of float16.
    scores : (n,) float64
        Added to.

    Returns
    -------
    bool
        False if the segment's arrays point outside each other: they are damaged.
    """
    dim = query_units.shape[1]
    for q in range(len(query_words)):
        begin, end = word_offsets[query_words[q]], word_offsets[query_words[q] + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        for p in range(begin, end):
            similarity = 0.0
            for d in range(dim):
                similarity += np.float64(query_units[q, d]) * np.float64(half[units[p, d]])
            image = image_ids[p]
            if image < 0 or image >= len(scores):
                return False
            if similarity > threshold or (similarity == threshold and not strict):
                scores[image] += weights[q] * np.sign(similarity) * abs(similarity) ** alpha
    return True


@njit(cache=True, nogil=True)
def count_postings(words: Any, word_offsets: Any, image_ids: Any, alive: Any, counts: Any) -> Any:
    """Add the number of live images that have each of `words` to `counts`; False if arrays are damaged."""
    for w in range(len(words)):
        begin, end = word_offsets[words[w]], word_offsets[words[w] + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
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
