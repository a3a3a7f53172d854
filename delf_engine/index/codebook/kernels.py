"""Numba kernels of codebooks: they find the words nearest to descriptors, and add up what k-means needs.

Imported only by functions that run them: numba takes a while to load. Arrays that come from a codebook are
read-only and C-contiguous.

Cell by cell, words lie in columns, sixteen and more side by side, and every lane of a vector adds up the products
of one word in the order of the dimensions (see `matching`): what is found are the same bits for any batch and
number of threads. Four descriptors at a time share the reading of the columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from delf_engine.matching.micro_kernel import LANES, ROWS, njit_tiled, scores_16, scores_32

HALVINGS = 12  # of the span of scores, in which a limit is found


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


@njit_tiled
def _products(data: Any, rows: Any, columns: Any, at: Any, bias: Any, limits: Any, scores: Any) -> Any:
    """Write ``bias + x . column`` of four rows x and the columns of the matrix that begins at `at` of `columns`.

    `bias` has as many values as the matrix has columns, a multiple of 16; `scores` has no fewer columns. Returns
    which rows have scores above their limits, in bits.
    """
    i0, i1, i2, i3 = rows
    width, above = len(bias), 0
    for w in range(0, width - LANES, 2 * LANES):
        above |= scores_32(data, i0, i1, i2, i3, columns, at + w, width, bias, w, limits, scores)
    if width % (2 * LANES):
        w = width - LANES
        above |= scores_16(data, i0, i1, i2, i3, columns, at + w, width, bias, w, limits, scores)
    return above


@njit(cache=True, nogil=True)
def _four(i: Any, last: Any) -> Any:
    return i, min(i + 1, last), min(i + 2, last), min(i + 3, last)


@njit(cache=True, nogil=True)
def _above(values: Any, count: Any, limit: Any) -> Any:
    found = np.int32(0)
    for i in range(count):
        found += np.int32(values[i] > limit)
    return found


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})
def _extremes(values: Any, count: Any) -> Any:
    """Return the smallest and the largest of the first values; there is no NaN among them."""
    low, high = values[0], values[0]
    for i in range(count):
        low = min(low, values[i])
        high = max(high, values[i])
    return low, high


@njit(cache=True, nogil=True)
def _place(values: Any, value: Any) -> Any:
    place = 0
    while values[place] != value:
        place += 1
    return place


@njit_tiled
def nearest_columns(data: Any, columns: Any, bias: Any, out: Any) -> None:
    """Write the column of the largest ``bias + x . column`` of each row x, (n, D), of several the first.

    `columns` is a (D, C) matrix, flat, C a multiple of 16; all are float32; `out` is (n,) int32.
    """
    scores, limits, last = np.empty((ROWS, len(bias)), np.float32), np.empty(ROWS, np.float32), len(data) - 1
    for i in range(0, len(data), ROWS):
        _products(data, _four(i, last), columns, 0, bias, limits, scores)
        for row in range(i, min(i + ROWS, last + 1)):
            out[row] = _place(scores[row - i], _extremes(scores[row - i], len(bias))[1])


@njit(cache=True, nogil=True)
def _choose(scores: Any, count: Any, out: Any) -> Any:
    """Write about the len(out) best of `count` scores, the best first, the others by number; return how many."""
    wanted = len(out)
    low, best = _extremes(scores, count)
    high = best
    for _ in range(HALVINGS):
        middle = low + (high - low) * np.float32(0.5)
        if _above(scores, count, middle) > wanted:
            low = middle
        else:
            high = middle
    out[0] = _place(scores, best)
    found = 1
    for cell in range(count):
        if scores[cell] > high and cell != out[0] and found < wanted:
            out[found] = cell
            found += 1
    if 2 * found > wanted:
        return found
    for cell in range(count):  # many at the limit itself: the first of them
        if low <= scores[cell] <= high and cell != out[0] and found < wanted:
            out[found] = cell
            found += 1
    return found


@njit_tiled
def probe(data: Any, columns: Any, bias: Any, count: Any, out: Any, found: Any) -> None:
    """Choose the cells that each descriptor looks into.

    Parameters
    ----------
    data : (n, D) float32
    columns : (D C,) float32
        A (D, C) matrix: the centres of the cells, C a multiple of 16.
    bias : (C,) float32
        Minus half their squared norms; -inf for padding.
    count : int
        Cells without padding.
    out : (n, P) int32
        Overwritten: cells, the nearest first.
    found : (n,) int32
        How many of them.
    """
    scores, limits, last = np.empty((ROWS, len(bias)), np.float32), np.empty(ROWS, np.float32), len(data) - 1
    for i in range(0, len(data), ROWS):
        _products(data, _four(i, last), columns, 0, bias, limits, scores)
        for row in range(i, min(i + ROWS, last + 1)):
            found[row] = _choose(scores[row - i], count, out[row])


@njit(cache=True, nogil=True)
def group(cells: Any, first: Any, found: Any, starts: Any, rows: Any) -> None:
    """Turn the cells of each descriptor into the descriptors of each cell, ascending.

    Parameters
    ----------
    cells : (n, P) int32
    first, found : (n,) int32
        Columns of `cells` that count: from ``first[i]`` up to ``found[i] - 1``.
    starts : (C + 1,) int64
        Overwritten: where the descriptors of each cell begin.
    rows : (n P,) int32
        Overwritten: the descriptors.
    """
    starts[:] = 0
    for i in range(len(cells)):
        for p in range(first[i], found[i]):
            starts[cells[i, p] + 1] += 1
    for cell in range(len(starts) - 1):
        starts[cell + 1] += starts[cell]
    cursor = starts.copy()
    for i in range(len(cells)):
        for p in range(first[i], found[i]):
            cell = cells[i, p]
            rows[cursor[cell]] = i
            cursor[cell] += 1


@njit(cache=True, nogil=True)
def _keep(scores: Any, words: Any, begin: Any, end: Any, best: Any, best_words: Any) -> None:
    """Merge words into a list of the best so far, highest score first, of equal ones the first that came."""
    last = len(best) - 1
    for w in range(begin, end):
        score = scores[w - begin]
        if score > best[last]:
            at = last
            while at > 0 and score > best[at - 1]:
                best[at] = best[at - 1]
                best_words[at] = best_words[at - 1]
                at -= 1
            best[at] = score
            best_words[at] = words[w]


@njit_tiled
def scan(
    data: Any, starts: Any, rows: Any, columns: Any, bias: Any, words: Any, bounds: Any, best: Any, found: Any
) -> None:
    """Compare descriptors with the words of the cells that they look into.

    Parameters
    ----------
    data : (n, D) float32
    starts, rows
        The descriptors of each cell, as `group` makes them.
    columns : (D W,) float32
        One (D, w) matrix a cell: its words, padded to whole vectors.
    bias : (W,) float32
        Minus half the squared norm of each word; -inf for padding.
    words : (W,) int32
        Ascending within a cell.
    bounds : (C + 1,) int64
        Where the words of each cell begin.
    best : (n, K) float32
        Largest scores so far, descending.
    found : (n, K) int32
        Their words.
    """
    widest = LANES
    for cell in range(len(bounds) - 1):
        widest = max(widest, bounds[cell + 1] - bounds[cell])
    scores, limits = np.empty((ROWS, widest), np.float32), np.empty(ROWS, np.float32)
    worst = best.shape[1] - 1
    for cell in range(len(bounds) - 1):
        begin, end = bounds[cell], bounds[cell + 1]
        at, biases, last = data.shape[1] * begin, bias[begin:end], starts[cell + 1] - 1
        for v in range(starts[cell], last + 1, ROWS):
            v0, v1, v2, v3 = _four(v, last)
            group_rows = (rows[v0], rows[v1], rows[v2], rows[v3])
            for i in range(ROWS):
                limits[i] = best[group_rows[i], worst]
            above = _products(data, group_rows, columns, at, biases, limits, scores)
            for i in range(min(ROWS, last + 1 - v)):
                if above >> i & 1:
                    row = group_rows[i]
                    _keep(scores[i], words, begin, end, best[row], found[row])


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
