"""Numba kernels of exact matching: the maxima of rows and columns of a matrix that is never written.

Imported only by functions that run them. The columns of B lie in panels of 32, and a block of panels stays in the
first-level cache while all rows of A pass by. Every sum is taken in the order of the dimensions, so the bits
depend on the two descriptors and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from delf_engine.tiles import LANES, ROWS
from delf_engine.verification.match_tiles import VECTORS, match_bytes, match_codes, match_floats

__all__ = [
    "PANEL",
    "best_of_bytes",
    "best_of_codes",
    "best_of_floats",
    "byte_codes",
    "distances_between",
    "panels",
    "select",
    "settle",
    "unit_rows",
]

#: Columns side by side.
PANEL = VECTORS * LANES
_BLOCK = 4 * PANEL  # columns that all rows pass by at a time


@njit(cache=True, nogil=True)
def unit_rows(rows: Any, tolerance: Any, out: Any) -> Any:
    """Write rows at unit length; return whether all were finite and within `tolerance` of it.

    Parameters
    ----------
    rows : (N, D) float32
    tolerance : float
    out : (N, D) float32
        Overwritten, up to the first that is not.
    """
    for i in range(len(rows)):
        total = 0.0
        for d in range(rows.shape[1]):
            total += np.float64(rows[i, d]) * np.float64(rows[i, d])
        norm = np.sqrt(total)
        if not abs(norm - 1.0) <= tolerance:  # true for NaN as well
            return False
        for d in range(rows.shape[1]):
            out[i, d] = np.float32(np.float64(rows[i, d]) / norm)
    return True


@njit(cache=True, nogil=True)
def panels(rows: Any, out: Any) -> None:
    """Write rows as the columns of panels.

    Parameters
    ----------
    rows : (N, D) float32 or int32
    out : (P D 32,) of the same type
        One (D, 32) matrix a panel, P = N / 32 rounded up. Overwritten; columns beyond N are zeros.
    """
    n, dim = rows.shape
    out[:] = 0
    for j in range(n):
        start = (j // PANEL) * dim * PANEL + j % PANEL
        for d in range(dim):
            out[start + d * PANEL] = rows[j, d]


@njit(cache=True, nogil=True)
def byte_codes(rows: Any, codes: Any, norms: Any) -> None:
    """Quantise rows to whole numbers from -127 to 127, as the ``uint8`` codec of a store does.

    Parameters
    ----------
    rows : (N, D) float32
        Not zero.
    codes : (N, E) int8
        Overwritten, E >= D; zeros beyond D.
    norms : (N,) float32
        Overwritten: one over the length of each row of codes.
    """
    for i in range(len(rows)):
        largest = np.float32(0)
        for d in range(rows.shape[1]):
            largest = max(largest, abs(rows[i, d]))
        step = np.float32(127) / largest
        total: Any = 0
        for d in range(rows.shape[1]):
            code = np.int32(np.rint(rows[i, d] * step))
            codes[i, d] = code
            total += code * code
        codes[i, rows.shape[1] :] = 0
        norms[i] = np.float32(1.0 / np.sqrt(np.float64(total)))


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


@njit(cache=True, nogil=True)
def _lanes(n: Any) -> Any:
    low = np.float32(-np.inf)
    return (
        np.full((n, LANES), low),
        np.full((n, LANES), low),
        np.zeros((n, LANES), np.int32),
        np.zeros((n, LANES), np.int32),
    )


@njit(cache=True, nogil=True)
def _columns(width: Any) -> Any:
    low = np.float32(-np.inf)
    return np.full(width, low), np.full(width, low), np.zeros(width, np.int32)


@njit(cache=True, nogil=True)
def _merged(lanes: Any, columns: Any, m: Any) -> Any:
    n = len(lanes[0])
    best, second = np.empty(n, np.float32), np.empty(n, np.float32)
    place, other = np.empty(n, np.int32), np.empty(n, np.int32)
    _reduce(lanes, best, second, place, other)
    return best, second, place, other, columns[0][:m], columns[1][:m], columns[2][:m]


@njit(cache=True, nogil=True)
def best_of_floats(a: Any, columns: Any, m: Any, bias: Any) -> Any:
    """Find the largest and the second largest inner product of every row of A and of every row of B.

    Parameters
    ----------
    a : (N, D) float32
    columns : (P D 32,) float32
        B, as `panels` makes it.
    m : int
        Rows of B, M.
    bias : (32 P,) float32
        0, and -inf beyond M.

    Returns
    -------
    best, second, place, other : (N,) float32, float32, int32, int32
        For each row of A: its largest product, the second largest (-inf where there is none), and the rows of B
        of both, of equal ones the first.
    best, second, place : (M,) float32, float32, int32
        The same for the rows of B, but for the row of the second.
    """
    n, last, width = len(a), len(a) - 1, len(bias)
    lanes, ends = _lanes(n), _columns(width)
    for first in range(0, width, _BLOCK):
        for i in range(0, n, ROWS):
            i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            for column in range(first, min(first + _BLOCK, width), PANEL):
                match_floats(
                    a, i, i1, i2, i3, n - i, columns, column, bias,
                    lanes[0], lanes[1], lanes[2], lanes[3], ends[0], ends[1], ends[2],
                )  # fmt: skip
    return _merged(lanes, ends, m)


@njit(cache=True, nogil=True)
def best_of_bytes(a: Any, norms_a: Any, columns: Any, m: Any, bias: Any, norms_b: Any) -> Any:
    """Do what `best_of_floats` does for cosines of codes, where the processor multiplies bytes.

    Sums of products are exact; a cosine is such a sum times one over both lengths, in float32.

    Parameters
    ----------
    a : (N, E / 4) int32
        Four unsigned bytes each: codes of A plus 128.
    norms_a : (N,) float32
        One over the length of each row of codes.
    columns : (P E / 4 32,) int32
        Four signed bytes each: codes of B, as `panels` makes it.
    m : int
        Rows of B, M.
    bias : (32 P,) int32
        Minus 128 times the sum of each row of codes of B, and 1 beyond M.
    norms_b : (32 P,) float32
        One over the length of each row of codes of B, and -inf beyond M.

    Returns
    -------
    As `best_of_floats`.
    """
    n, last, width = len(a), len(a) - 1, len(bias)
    lanes, ends = _lanes(n), _columns(width)
    for first in range(0, width, _BLOCK):
        for i in range(0, n, ROWS):
            i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            for column in range(first, min(first + _BLOCK, width), PANEL):
                match_bytes(
                    a, i, i1, i2, i3, n - i, columns, column, bias, norms_a, norms_b,
                    lanes[0], lanes[1], lanes[2], lanes[3], ends[0], ends[1], ends[2],
                )  # fmt: skip
    return _merged(lanes, ends, m)


@njit(cache=True, nogil=True)
def best_of_codes(a: Any, norms_a: Any, columns: Any, m: Any, bias: Any, norms_b: Any) -> Any:
    """Do what `best_of_bytes` does, bit for bit, on any processor.

    Parameters
    ----------
    a : (N, E) float32
        Codes of A. E is at most 1,040: sums of whole numbers below 2^24 are exact in float32, too.
    norms_a : (N,) float32
    columns : (P E 32,) float32
        Codes of B, as `panels` makes it.
    m : int
    bias : (32 P,) float32
        0, and 1 beyond M.
    norms_b : (32 P,) float32
    """
    n, last, width = len(a), len(a) - 1, len(bias)
    lanes, ends = _lanes(n), _columns(width)
    for first in range(0, width, _BLOCK):
        for i in range(0, n, ROWS):
            i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
            for column in range(first, min(first + _BLOCK, width), PANEL):
                match_codes(
                    a, i, i1, i2, i3, n - i, columns, column, bias, norms_a, norms_b,
                    lanes[0], lanes[1], lanes[2], lanes[3], ends[0], ends[1], ends[2],
                )  # fmt: skip
    return _merged(lanes, ends, m)


@njit(cache=True, nogil=True)
def _dot(x: Any, y: Any) -> Any:
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
        similarity = _dot(x, rows[j])
        if similarity > best:
            best, at = similarity, j
    return at


@njit(cache=True, nogil=True)
def distances_between(a: Any, b: Any, rows_a: Any, rows_b: Any, out: Any) -> None:
    """Write the distances of pairs of rows.

    Parameters
    ----------
    a, b : (N, D), (M, D) float32
    rows_a, rows_b : (R,) int32
    out : (R,) float64
        Overwritten.
    """
    for k in range(len(rows_a)):
        out[k] = _distance(a[rows_a[k]], b[rows_b[k]])


@njit(cache=True, nogil=True)
def settle(a: Any, b: Any, found: Any, margin: Any, similarities: Any, distances: Any) -> None:
    """Decide again in float64 where two candidates are closer than rounding can explain.

    Parameters
    ----------
    a, b : (N, D), (M, D) float32
        Unit rows.
    found : tuple
        As `best_of_floats` returns it. Places are corrected: both of each row of A, and that of each row of B that
        A has chosen.
    margin : float32
        Twice the worst rounding of a sum.
    similarities, distances : (N,) float32, float64
        Overwritten: of each row of A and its nearest of B.
    """
    best, second, place, other, best_b, second_b, place_b = found
    for i in range(len(a)):
        if second[i] >= best[i] - margin:
            nearest = _nearest(a[i], b)
            if nearest != place[i]:
                place[i], other[i] = nearest, place[i]
        j = place[i]
        if second_b[j] >= best_b[j] - margin:
            place_b[j] = _nearest(b[j], a)
            second_b[j] = -np.inf  # once is enough
        similarities[i] = np.float32(_dot(a[i], b[j]))
        distances[i] = _distance(a[i], b[j])


@njit(cache=True, nogil=True)
def select(place: Any, place_b: Any, distances: Any, mutual: Any, limit: Any, keep: Any, both_ways: Any) -> None:
    """Tell which nearest neighbours are near enough, and each other's where that is asked.

    Parameters
    ----------
    place, place_b : (N,), (M,) int32
        Nearest neighbours of A in B, and of B in A.
    distances : (N,) float64
        To the nearest of B.
    mutual : bool
    limit : float
        Largest distance.
    keep, both_ways : (N,) bool
        Overwritten: which are matches, and which are each other's nearest.
    """
    for i in range(len(place)):
        both_ways[i] = place_b[place[i]] == i
        keep[i] = distances[i] <= limit and (both_ways[i] or not mutual)
