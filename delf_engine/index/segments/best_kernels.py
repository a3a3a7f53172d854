"""Numba kernel that finds the best of many scores. Imported only by functions that run it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _shortened(scores: Any, rows: Any, count: Any, wanted: Any) -> Any:
    """Move the `wanted` highest of the first `count` scores to the front, in order, of ties the first ones."""
    limit = np.partition(scores[:count], count - wanted)[count - wanted]
    room = wanted
    for i in range(count):
        room -= scores[i] > limit
    kept = 0
    for i in range(count):
        if scores[i] > limit or (scores[i] == limit and room > 0):
            room -= scores[i] == limit
            scores[kept] = scores[i]
            rows[kept] = rows[i]
            kept += 1
    return limit


@njit(cache=True, nogil=True)
def best_rows(scores: Any, wanted: Any, allowed: Any, lowest: Any) -> Any:
    """Return the rows, (K,) int64, of the at most `wanted` highest positive scores, ascending, of ties the first.

    One pass over the scores, (N,) float32, and memory for a few times as many rows as are wanted. `allowed`, (N,)
    bool, says where to look, everywhere if it is empty; scores below `lowest` are left out.
    """
    size = min(4 * wanted + 1024, len(scores))
    kept, rows = np.empty(size, np.float32), np.empty(size, np.int64)
    limit, count = np.float32(0), 0
    for row in range(len(scores)):
        score = scores[row]
        if score > limit and np.float64(score) >= lowest and (len(allowed) == 0 or allowed[row]):
            if count == size:
                limit = _shortened(kept, rows, count, wanted)
                count = wanted
                if score <= limit:  # later ones of equal scores give way
                    continue
            kept[count] = score
            rows[count] = row
            count += 1
    if count > wanted:
        _shortened(kept, rows, count, wanted)
        count = wanted
    return rows[:count].copy()
