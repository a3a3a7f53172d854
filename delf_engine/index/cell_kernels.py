"""Numba kernels that find the words nearest to descriptors cell by cell. Imported only by functions that run them.

Words lie in columns, sixteen and more side by side, and every lane of a vector adds up the products of one word in
the order of the dimensions: what is found are the same bits for any batch, number of threads and vector length.
Of two vectors at a time the columns are read once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["group", "nearest_columns", "probe", "scan"]

_HALVINGS = 12


@njit(cache=True, nogil=True, fastmath={"contract"})
def _products(a: Any, b: Any, columns: Any, bias: Any, out_a: Any, out_b: Any) -> None:
    """Write ``bias + x . column`` of every column for the vectors a and b."""
    count = columns.shape[1]
    for w in range(count):
        out_a[w] = bias[w]
        out_b[w] = bias[w]
    for d in range(0, columns.shape[0], 4):  # of a multiple of four rows
        a0, a1, a2, a3 = a[d], a[d + 1], a[d + 2], a[d + 3]
        b0, b1, b2, b3 = b[d], b[d + 1], b[d + 2], b[d + 3]
        row0, row1, row2, row3 = columns[d], columns[d + 1], columns[d + 2], columns[d + 3]
        for w in range(count):
            x0, x1, x2, x3 = row0[w], row1[w], row2[w], row3[w]
            out_a[w] = out_a[w] + a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            out_b[w] = out_b[w] + b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3


@njit(cache=True, nogil=True)
def _above(values: Any, limit: Any) -> Any:
    count = 0
    for value in values:
        count += value > limit
    return count


@njit(cache=True, nogil=True)
def nearest_columns(data: Any, columns: Any, bias: Any, out: Any) -> None:
    """Write the column of the largest ``bias + x . column`` of each row x, of several the first.

    Parameters
    ----------
    data : (n, D) float32
    columns : (D, C) float32
        D a multiple of 4.
    bias : (C,) float32
    out : (n,) int32
    """
    scores = np.empty((2, columns.shape[1]), np.float32)
    for i in range(0, len(data), 2):
        other = min(i + 1, len(data) - 1)
        _products(data[i], data[other], columns, bias, scores[0], scores[1])
        out[i] = np.argmax(scores[0])
        out[other] = np.argmax(scores[1 if other > i else 0])


@njit(cache=True, nogil=True)
def _choose(scores: Any, count: Any, out: Any) -> Any:
    """Write about the len(out) best of `count` scores, the best first, the others by number; return how many."""
    wanted = len(out)
    best = np.argmax(scores[:count])
    low, high = scores[:count].min(), scores[best]
    for _ in range(_HALVINGS):
        middle = low + (high - low) * np.float32(0.5)
        if _above(scores, middle) > wanted:
            low = middle
        else:
            high = middle
    out[0] = best
    found = 1
    for cell in range(count):
        if scores[cell] > high and cell != best and found < wanted:
            out[found] = cell
            found += 1
    for cell in range(count):  # those at about the limit, as long as there is room
        if found == wanted:
            break
        if low <= scores[cell] <= high and cell != best:
            out[found] = cell
            found += 1
    return found


@njit(cache=True, nogil=True)
def probe(data: Any, columns: Any, bias: Any, count: Any, out: Any, found: Any) -> None:
    """Choose the cells that each descriptor looks into.

    Parameters
    ----------
    data : (n, D) float32
    columns : (D, C) float32
        Centres of the cells, D a multiple of 4.
    bias : (C,) float32
        Minus half their squared norms; -inf for padding.
    count : int
        Cells without padding.
    out : (n, P) int32
        Overwritten: cells, the nearest first.
    found : (n,) int32
        How many of them.
    """
    scores = np.empty((2, columns.shape[1]), np.float32)
    for i in range(0, len(data), 2):
        other = min(i + 1, len(data) - 1)
        _products(data[i], data[other], columns, bias, scores[0], scores[1])
        found[i] = _choose(scores[0], count, out[i])
        if other > i:
            found[other] = _choose(scores[1], count, out[other])


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
def _keep(scores: Any, words: Any, best: Any, best_words: Any) -> None:
    """Merge words into a list of the best so far, highest score first, of equal ones the first that came."""
    last = len(best) - 1
    if _above(scores, best[last]) == 0:
        return
    for w in range(len(words)):
        score = scores[w]
        if score > best[last]:
            at = last
            while at > 0 and score > best[at - 1]:
                best[at] = best[at - 1]
                best_words[at] = best_words[at - 1]
                at -= 1
            best[at] = score
            best_words[at] = words[w]


@njit(cache=True, nogil=True)
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
    widest = 1
    for cell in range(len(bounds) - 1):
        widest = max(widest, bounds[cell + 1] - bounds[cell])
    scores = np.empty((2, widest), np.float32)
    dim = data.shape[1]
    for cell in range(len(bounds) - 1):
        begin, end = bounds[cell], bounds[cell + 1]
        if begin == end:
            continue
        width = end - begin
        matrix = columns[dim * begin : dim * end].reshape(dim, width)
        for v in range(starts[cell], starts[cell + 1], 2):
            other = min(v + 1, starts[cell + 1] - 1)
            i, j = rows[v], rows[other]
            _products(data[i], data[j], matrix, bias[begin:end], scores[0, :width], scores[1, :width])
            _keep(scores[0, :width], words[begin:end], best[i], found[i])
            if other > v:
                _keep(scores[1, :width], words[begin:end], best[j], found[j])
