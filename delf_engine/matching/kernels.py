"""Numba kernels of exact matching: the maxima of rows and columns of a matrix that is never written.

Imported only by functions that run them. Those that take long let go of Python's interpreter lock; short ones
keep it, since getting it back from another thread takes longer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from delf_engine.matching.micro_kernel import LANES, PANEL, ROWS, match_tile, njit_tiled

_BLOCK = 4 * PANEL  # columns that all rows pass by at a time


@njit(cache=True, nogil=True)
def _reduce(lanes: Any, best: Any, second: Any, place: Any, other: Any) -> None:
    """Merge the lanes of each row: of equal ones the first column counts, of the best and of the second."""
    for i in range(len(best)):
        top, low, at, under = lanes[0][i, 0], lanes[1][i, 0], lanes[2][i, 0], lanes[3][i, 0]
        for lane in range(1, LANES):
            value, column = lanes[0][i, lane], lanes[2][i, lane] + lane
            if value > top or (value == top and column < at):
                value, column, top, at = top, at, value, column
            if value > low or (value == low and column < under):
                low, under = value, column
            value, column = lanes[1][i, lane], lanes[3][i, lane] + lane
            if value > low or (value == low and column < under):
                low, under = value, column
        best[i], second[i], place[i], other[i] = top, low, at, under


@njit_tiled
def best_of(a: Any, norms_a: Any, columns: Any, m: Any, bias: Any, norms_b: Any) -> Any:
    """Find the largest and the second largest similarity of every row of A and of every row of B.

    Similarities are inner products of float32 rows, or cosines of codes of 8 bits: a sum of products of codes
    times one over both lengths, in float32. Such sums are exact, of bytes and of floats, as whole numbers below
    2^24 are: the bits are the same.

    Parameters
    ----------
    a : (N, D) float32; or (N, E) float32 of codes, E at most 1,040; or (N, E / 4) int32 of four codes each
        A. Four codes, plus 128, are unsigned bytes of a whole number.
    norms_a : (N,) float32 or None
        One over the length of each row of codes. None with `norms_b`: products are not scaled.
    columns : (P D 32,) float32 or (P E / 4 32,) int32
        B, as `panels` or `byte_panels` makes it.
    m : int
        Rows of B, M.
    bias : (32 P,) float32 or int32
        What sums begin with. Floats: 0. Bytes: minus 128 times the sum of each row of codes of B. Beyond M: 1 with
        norms, -inf without.
    norms_b : (32 P,) float32 or None
        One over the length of each row of codes, and -inf beyond M.

    Returns
    -------
    best, second, place, other : (N,) float32, float32, int32, int32
        For each row of A: its largest similarity, the second largest (-inf where there is none), and the rows of B
        of both, of equal ones the first.
    best, second, place : (M,) float32, float32, int32
        The same for the rows of B, but for the row of the second.
    """
    n, last, width, low = len(a), len(a) - 1, len(bias), np.float32(-np.inf)
    lanes = (
        np.full((n, LANES), low),
        np.full((n, LANES), low),
        np.zeros((n, LANES), np.int32),
        np.zeros((n, LANES), np.int32),
    )
    best_b, second_b, place_b = np.full(width, low), np.full(width, low), np.zeros(width, np.int32)
    for first in range(0, width, _BLOCK):
        for i in range(0, n, ROWS):
            i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            for column in range(first, min(first + _BLOCK, width), PANEL):
                match_tile(
                    a, i, i1, i2, i3, n - i, columns, column, bias, norms_a, norms_b,
                    lanes[0], lanes[1], lanes[2], lanes[3], best_b, second_b, place_b,
                )  # fmt: skip
    best, second = np.empty(n, np.float32), np.empty(n, np.float32)
    place, other = np.empty(n, np.int32), np.empty(n, np.int32)
    _reduce(lanes, best, second, place, other)
    return best, second, place, other, best_b[:m], second_b[:m], place_b[:m]


@njit(cache=True, nogil=True)
def dot(x: Any, y: Any) -> Any:
    """Return the inner product of two float32 vectors in float64."""
    total = 0.0  # products of float32 are exact in float64
    for d in range(len(x)):
        total += np.float64(x[d]) * np.float64(y[d])
    return total


@njit(cache=True, nogil=True)
def _distance(x: Any, y: Any) -> Any:
    total = 0.0
    for d in range(len(x)):
        difference = np.float64(x[d]) - np.float64(y[d])
        total += difference * difference
    return np.sqrt(total)


@njit(cache=True, nogil=True)
def _nearest(x: Any, rows: Any) -> Any:
    best, at = -np.inf, 0
    for j in range(len(rows)):
        similarity = dot(x, rows[j])
        if similarity > best:
            best, at = similarity, j
    return at


@njit(cache=True)
def distances_between(a: Any, b: Any, rows: Any) -> Any:
    """Return the distance, (N,), of each row of A, (N, D), to that row of B, (M, D); 0 if B has but one."""
    out = np.zeros(len(a))
    if len(b) > 1:
        for i in range(len(a)):
            out[i] = _distance(a[i], b[rows[i]])
    return out


@njit(cache=True, nogil=True)
def break_ties(a: Any, b: Any, found: Any, margin: Any) -> Any:
    """Decide again in float64 where two candidates are closer than rounding can explain.

    `a` and `b`, (N, D) and (M, D) float32, are unit rows, `found` is what `best_of` returns: its places are
    corrected, both of each row of A, and that of each row of B that A has chosen. `margin` is twice the worst
    rounding of a sum. Returns similarity, (N,) float32, and distance, (N,) float64, of each row and its nearest.
    """
    best, second, place, other, best_b, second_b, place_b = found
    similarities, distances = np.empty(len(a), np.float32), np.empty(len(a))
    for i in range(len(a)):
        if second[i] >= best[i] - margin:
            nearest = _nearest(a[i], b)
            if nearest != place[i]:
                place[i], other[i] = nearest, place[i]
        j = place[i]
        if second_b[j] >= best_b[j] - margin:
            place_b[j] = _nearest(b[j], a)
            second_b[j] = -np.inf  # once is enough
        similarities[i] = np.float32(dot(a[i], b[j]))
        distances[i] = _distance(a[i], b[j])
    return similarities, distances


@njit(cache=True)
def chords(cosines: Any) -> Any:
    """Return the distances of unit vectors with these cosines, (N,) float64."""
    out = np.empty(len(cosines))
    for i in range(len(cosines)):
        out[i] = np.sqrt(max(2.0 - 2.0 * np.float64(cosines[i]), 0.0))
    return out


@njit(cache=True)
def select(
    place: Any, place_b: Any, similarities: Any, distances: Any, mutual: Any, limit: Any, ratio: Any, others: Any
) -> Any:
    """Return pairs, (K, 2) int32, their similarities, and those of all mutual nearest neighbours, (L,) float32.

    Parameters
    ----------
    place, place_b : (N,), (M,) int32
        Nearest neighbours of A in B, and of B in A.
    similarities, distances : (N,) float32, float64
        To the nearest of B.
    limit : float
        Largest distance.
    ratio : float
        Largest share of the distance to the second nearest; 0: no such test.
    others : (N,) float64
        That distance, 0 where there is none. Empty without the test.
    """
    n = len(place)
    pairs, of_pairs, of_mutual = np.empty((n, 2), np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
    kept, both = 0, 0
    for i in range(n):
        both_ways = place_b[place[i]] == i
        if both_ways:
            of_mutual[both] = similarities[i]
            both += 1
        good = distances[i] <= limit and (both_ways or not mutual)
        if good and (ratio == 0.0 or (others[i] > 0.0 and distances[i] <= ratio * others[i])):
            pairs[kept, 0], pairs[kept, 1], of_pairs[kept] = i, place[i], similarities[i]
            kept += 1
    return pairs[:kept].copy(), of_pairs[:kept].copy(), of_mutual[:both].copy()
