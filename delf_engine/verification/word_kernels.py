"""Numba kernel of matching among descriptors that share a visual word. Imported only by functions that run it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from delf_engine.verification.match_kernels import dot

__all__ = ["best_by_words"]


@njit(cache=True, nogil=True)
def _update(best: Any, second: Any, place: Any, other: Any, i: Any, j: Any, similarity: Any) -> None:
    """Merge one candidate into the best two of a row: of equal ones the lower number counts."""
    if j in (place[i], other[i]):  # they share several words
        return
    if similarity > best[i] or (similarity == best[i] and j < place[i]):
        second[i], other[i] = best[i], place[i]
        best[i], place[i] = similarity, j
    elif similarity > second[i] or (similarity == second[i] and j < other[i]):
        second[i], other[i] = similarity, j


@njit(cache=True, nogil=True)
def best_by_words(a: Any, b: Any, words_a: Any, rows_a: Any, words_b: Any, rows_b: Any) -> Any:
    """Find the two nearest of every row of A among the rows of B that share a word, and the nearest the other way.

    Parameters
    ----------
    a, b : (N, D), (M, D) float32
        Unit rows.
    words_a, rows_a : (K,) int64
        Words of A and the rows they are of, ascending by word.
    words_b, rows_b : (L,) int64
        The same of B.

    Returns
    -------
    best, second : (N,) float64
        Inner products; -inf where there is none.
    place, other : (N,) int32
        Their rows of B; -1 where there is none.
    place_b : (M,) int32
        The nearest row of A of each row of B; -1 where there is none.
    """
    n, m = len(a), len(b)
    best, second = np.full(n, -np.inf), np.full(n, -np.inf)
    place, other = np.full(n, -1, np.int32), np.full(n, -1, np.int32)
    best_b, second_b = np.full(m, -np.inf), np.full(m, -np.inf)
    place_b, other_b = np.full(m, -1, np.int32), np.full(m, -1, np.int32)
    start = 0
    for k in range(len(words_a)):
        while start < len(words_b) and words_b[start] < words_a[k]:
            start += 1
        i, at = rows_a[k], start
        while at < len(words_b) and words_b[at] == words_a[k]:
            j = rows_b[at]
            similarity = dot(a[i], b[j])
            _update(best, second, place, other, i, j, similarity)
            _update(best_b, second_b, place_b, other_b, j, i, similarity)
            at += 1
    return best, second, place, other, place_b
