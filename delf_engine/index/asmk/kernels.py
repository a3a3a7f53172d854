"""Numba kernels of an ASMK index: they aggregate descriptors, count, merge and score postings.

Imported only by functions that run them: numba takes a while to load. Arrays that come
from a segment or a codebook are read-only and C-contiguous; sums are in float64 and in a fixed order.

The rows of a segment are scored range by range, small enough for the sums of a range to stay in the cache, and
ranges are shared out among threads. Each row's sum is in the order of the query's words: the same bits for any
ranges, threads and segments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

RANGE = 262_144  # rows: two megabytes of sums stay in the cache, and runs of postings are read in one go
_CHUNK = 1024  # postings whose similarities are computed together
_FEW = 64  # that are not worth it


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
    out_codes : (P, L) uint64
    """
    for word in range(len(cursor)):
        for p in range(word_offsets[word], word_offsets[word + 1]):
            row = new_rows[image_ids[p]]
            if row >= 0:
                out_ids[cursor[word]] = row
                out_codes[cursor[word]] = codes[p]
                cursor[word] += 1


@njit(cache=True, nogil=True)
def _ones(x: Any) -> Any:
    # The usual sideways addition; LLVM makes one popcnt instruction of it, or one for eight numbers.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _first_of(image_ids: Any, begin: Any, end: Any, row: Any) -> Any:
    """Return the first posting from `begin` on that is of `row` or a later one."""
    while begin < end:
        middle = (begin + end) // 2
        if image_ids[middle] < row:
            begin = middle + 1
        else:
            end = middle
    return begin


@njit(cache=True, nogil=True)
def _begin(query_words: Any, word_offsets: Any, image_ids: Any, first: Any, cursors: Any) -> Any:
    """Write where the postings of each word that are of rows from `first` on begin; False if they are damaged."""
    for q in range(len(query_words)):
        begin, end = word_offsets[query_words[q]], word_offsets[query_words[q] + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        if begin < end and (image_ids[begin] < 0 or image_ids[end - 1] < image_ids[begin]):
            return False
        cursors[q] = begin if first == 0 else _first_of(image_ids, begin, end, first)
    return True


@njit(cache=True, nogil=True)
def _add(image_ids: Any, values: Any, low: Any, high: Any, scores: Any) -> Any:
    """Add each value to the score of its row; False, and nothing added, if a row is not from low to high - 1."""
    outside = 0
    for p in range(len(image_ids)):
        outside += (image_ids[p] < low) | (image_ids[p] >= high)
    if outside:
        return False
    for p in range(len(image_ids)):
        scores[image_ids[p]] += values[p]
    return True


@njit(cache=True, nogil=True)
def score_signs(
    first: Any,
    last: Any,
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
    first, last : int
        Score rows ``first`` to ``last - 1``.
    query_words : (Q,) int32
    query_codes : (Q, L) uint64
    weights : (Q,) float64
        Of each word.
    selectivity : (D + 1,) float64
        By Hamming distance.
    word_offsets : (W + 1,) int64
        Where the postings of each word begin.
    image_ids : (P,) int32
        Ascending within a word.
    codes : (P, L) uint64
    scores : (n,) float64
        Added to.

    Returns
    -------
    bool
        False if the segment's arrays point outside each other: they are damaged.
    """
    length, dim = query_codes.shape[1], len(selectivity) - 1
    cursors, values = np.empty(len(query_words), np.int64), np.empty(_CHUNK)
    if not _begin(query_words, word_offsets, image_ids, first, cursors):
        return False
    for low in range(first, last, RANGE):
        high = min(low + RANGE, last)
        for q in range(len(query_words)):
            end = word_offsets[query_words[q] + 1]
            if high < len(scores):
                end = _first_of(image_ids, cursors[q], end, high)
            weight, code = weights[q], query_codes[q, 0]
            if end - cursors[q] <= _FEW:
                for p in range(cursors[q], end):
                    row, distance = image_ids[p], 0
                    for i in range(length):
                        distance += _ones(query_codes[q, i] ^ codes[p, i])
                    if row < low or row >= high or distance > dim:
                        return False
                    scores[row] += weight * selectivity[distance]
                cursors[q] = end
                continue
            for begin in range(cursors[q], end, _CHUNK):
                count = min(_CHUNK, end - begin)
                farthest = 0
                if length == 1:
                    part = codes[begin : begin + count, 0]
                    for p in range(count):
                        distance = _ones(code ^ part[p])
                        farthest = max(farthest, distance)
                        values[p] = weight * selectivity[min(distance, dim)]
                else:
                    for p in range(count):
                        distance = 0
                        for i in range(length):
                            distance += _ones(query_codes[q, i] ^ codes[begin + p, i])
                        farthest = max(farthest, distance)
                        values[p] = weight * selectivity[min(distance, dim)]
                if farthest > dim or not _add(image_ids[begin : begin + count], values, low, high, scores):
                    return False
            cursors[q] = end
    return True


@njit(cache=True, nogil=True)
def normalise(scores: Any, words: Any, word_counts: Any, alive: Any, out: Any) -> None:
    """Divide scores, (n,), by the lengths of query and image, roots of their words; what is dead scores 0."""
    length = np.sqrt(np.float64(words))
    for i in range(len(scores)):
        # Two roots, each of a whole number: the product could lose an image's last bit to the query.
        score = scores[i] / (length * np.sqrt(np.float64(max(word_counts[i], 1))))
        out[i] = np.float32(score) if alive[i] else np.float32(0)
