"""Numba kernels that prepare descriptors for matching: unit rows, codes of 8 bits, panels of columns.

Imported only by functions that run them. They are short and keep Python's interpreter lock, see `kernels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from delf_engine.matching.plain_tiles import PANEL


@njit(cache=True, nogil=True)
def _squared_norm(row: Any) -> Any:
    total = 0.0
    for d in range(len(row)):
        total += np.float64(row[d]) * np.float64(row[d])
    return total


@njit(cache=True)
def are_unit(rows: Any, tolerance: Any) -> Any:
    """Tell whether rows, (N, D) float32, are finite and within `tolerance` of unit length."""
    for i in range(len(rows)):
        good = abs(np.sqrt(_squared_norm(rows[i])) - 1.0) <= tolerance  # false for NaN as well
        if not good:
            return False
    return True


@njit(cache=True)
def unit_rows(rows: Any) -> Any:
    """Return rows, (N, D) float32 and none of them zero, at unit length, as the float64 quotient is rounded."""
    out = np.empty_like(rows)
    for i in range(len(rows)):
        norm = np.sqrt(_squared_norm(rows[i]))
        for d in range(rows.shape[1]):
            out[i, d] = np.float32(np.float64(rows[i, d]) / norm)
    return out


@njit(cache=True, nogil=True)
def _width(count: Any) -> Any:
    return (count + PANEL - 1) // PANEL * PANEL


@njit(cache=True)
def panels(rows: Any, low: Any) -> Any:
    """Return rows, (N, D) float32, as the columns of panels, (P D 32,) float32, and their bias, (32 P,) float32.

    One (D, 32) matrix a panel, P = N / 32 rounded up. Columns beyond N hold zeros, with bias `low`; others have 0.
    """
    n, dim = rows.shape
    out, bias = np.zeros(_width(n) * dim, np.float32), np.full(_width(n), low)
    for j in range(n):
        start = (j // PANEL) * dim * PANEL + j % PANEL
        bias[j] = 0
        for d in range(dim):
            out[start + d * PANEL] = rows[j, d]
    return out, bias


@njit(cache=True)
def byte_codes(rows: Any) -> Any:
    """Quantise rows to whole numbers from -127 to 127, as the ``uint8`` codec of a store does.

    Of (N, D) float32, none of them zero, come codes, (N, E) int8 with E the next multiple of 4 and zeros beyond D,
    and one over the length of each row of codes, (N,) float32.
    """
    n, dim = rows.shape
    codes, norms = np.zeros((n, (dim + 3) // 4 * 4), np.int8), np.empty(n, np.float32)
    for i in range(n):
        largest = np.float32(0)
        for d in range(dim):
            largest = max(largest, abs(rows[i, d]))
        step = np.float32(127) / largest
        total: Any = 0
        for d in range(dim):
            code = np.int32(np.rint(rows[i, d] * step))
            codes[i, d] = code
            total += code * code
        norms[i] = np.float32(1.0 / np.sqrt(np.float64(total)))
    return codes, norms


@njit(cache=True)
def byte_panels(codes: Any, norms: Any) -> Any:
    """Return codes as the columns of panels of bytes.

    Parameters
    ----------
    codes, norms
        As `byte_codes` returns them.

    Returns
    -------
    panels : (P E 32,) int8
        One (E / 4, 32, 4) array a panel: four signed bytes side by side.
    bias : (32 P,) int32
        Minus 128 times the sum of each row of codes, and 1 beyond N.
    norms : (32 P,) float32
        One over the lengths, and -inf beyond N: times 1 it is below all cosines.
    """
    n, dim = codes.shape
    out, bias = np.zeros(_width(n) * dim, np.int8), np.ones(_width(n), np.int32)
    ends = np.full(_width(n), np.float32(-np.inf))
    for j in range(n):
        start = (j // PANEL) * dim * PANEL + j % PANEL * 4
        total: Any = 0
        for d in range(dim):
            total += codes[j, d]
            out[start + d // 4 * 4 * PANEL + d % 4] = codes[j, d]
        bias[j], ends[j] = -128 * total, norms[j]
    return out, bias, ends
