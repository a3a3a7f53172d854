"""Numba kernels that recognise degenerate matches. Imported only by functions that run them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["different_matches", "on_a_line"]


@njit(cache=True)
def different_matches(a: Any, b: Any, enough: Any) -> Any:
    """Count matches that differ from all before them, up to `enough`.

    Parameters
    ----------
    a, b : (N, 2) float64
    enough : int
    """
    first = np.empty(enough, np.int64)
    found = 0
    for i in range(len(a)):
        known = False
        for k in range(found):
            j = first[k]
            known |= a[i, 0] == a[j, 0] and a[i, 1] == a[j, 1] and b[i, 0] == b[j, 0] and b[i, 1] == b[j, 1]
        if not known:
            first[found] = i
            found += 1
            if found == enough:
                break
    return found


@njit(cache=True)
def on_a_line(points: Any, tolerance: Any) -> Any:
    """Tell whether the spread of points off their best line is at most `tolerance` of that along it.

    Parameters
    ----------
    points : (N, 2) float64
    tolerance : float
    """
    x, y = 0.0, 0.0
    for i in range(len(points)):
        x += points[i, 0]
        y += points[i, 1]
    x, y = x / len(points), y / len(points)
    xx, yy, xy = 0.0, 0.0, 0.0
    for i in range(len(points)):
        dx, dy = points[i, 0] - x, points[i, 1] - y
        xx += dx * dx
        yy += dy * dy
        xy += dx * dy
    total = xx + yy
    # Eigenvalues of the 2x2 scatter: their product over the square of their sum.
    return not (total > 0.0 and (xx * yy - xy * xy) / total / total > tolerance**2)  # true for NaN, too
