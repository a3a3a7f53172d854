"""Numba kernels that compare dense vectors. Imported only by functions that run them: numba takes a while to load.

BLAS adds in another order with another number of rows or queries. Here each product is added up in the same
order whatever else is asked for, in float64, so that scores are the same bits for one query and for many, with any
number of segments and threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["products", "products_of_halves"]


@njit(cache=True, nogil=True)
def _product(x: Any, y: Any) -> Any:
    # Eight sums at a time: one after the other, each addition would wait for the one before.
    whole = len(x) - len(x) % 8
    a = b = c = d = e = f = g = h = 0.0
    for i in range(0, whole, 8):
        a += x[i] * y[i]
        b += x[i + 1] * y[i + 1]
        c += x[i + 2] * y[i + 2]
        d += x[i + 3] * y[i + 3]
        e += x[i + 4] * y[i + 4]
        f += x[i + 5] * y[i + 5]
        g += x[i + 6] * y[i + 6]
        h += x[i + 7] * y[i + 7]
    total = ((a + e) + (c + g)) + ((b + f) + (d + h))
    for i in range(whole, len(x)):
        total += x[i] * y[i]
    return total


@njit(cache=True, nogil=True)
def products(queries: Any, rows: Any, out: Any) -> None:
    """Multiply each query with each row; a row is read once for all queries.

    Parameters
    ----------
    queries : (Q, L) float64
    rows : (n, L) float32
    out : (Q, n) float64
        Overwritten.
    """
    row = np.empty(rows.shape[1], np.float64)
    for r in range(len(rows)):
        for i in range(len(row)):
            row[i] = rows[r, i]
        for q in range(len(queries)):
            out[q, r] = _product(queries[q], row)


@njit(cache=True, nogil=True)
def products_of_halves(queries: Any, rows: Any, half: Any, out: Any) -> None:
    """Do as `products` with rows in half precision.

    Parameters
    ----------
    queries, out
        As there.
    rows : (n, L) uint16
        Bits of float16.
    half : (65536,) float32
        The value of every float16, by its bits.
    """
    row = np.empty(rows.shape[1], np.float64)
    for r in range(len(rows)):
        for i in range(len(row)):
            row[i] = half[rows[r, i]]
        for q in range(len(queries)):
            out[q, r] = _product(queries[q], row)
