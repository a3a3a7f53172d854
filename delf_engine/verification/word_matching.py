"""Matching pruned by visual words: only descriptors that share one are compared.

Descriptors of one patch mostly fall into the same cell of a codebook, or into one of the next (several words a
descriptor); all others need not be looked at.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import MismatchError
from delf_engine.verification.matching import (
    MatchedPair,
    Matches,
    Prepared,
    check_rules,
    chosen_matches,
)

__all__ = ["match_by_words"]


def match_by_words(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    words_a: npt.ArrayLike,
    words_b: npt.ArrayLike,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> MatchedPair:
    """Match descriptors that share a visual word, and no others.

    Parameters
    ----------
    a, b : (N, D), (M, D) float32
        L2-normalised descriptors.
    words_a, words_b : (N,) or (N, k), (M,) or (M, k) int
        Words of each descriptor, as `Codebook.assign` returns them.
    mutual, ratio, max_distance
        As in `match_descriptors`, neighbours being those that share a word.

    Returns
    -------
    MatchedPair
        Neighbours are exact in float64; ties go to the lowest index.

    Raises
    ------
    MismatchError
        If dimensions differ, or there are not as many rows of words as descriptors.
    FeatureError, ConfigError
        As `match_descriptors`.
    """
    check_rules(ratio, max_distance)
    sides = Prepared(a, "A", "float32"), Prepared(b, "B", "float32")
    if sides[0].dim != sides[1].dim:
        raise MismatchError(f"descriptors of {sides[0].dim} and {sides[1].dim} dimensions cannot be matched")
    listed = (*_listed(words_a, len(sides[0]), "A"), *_listed(words_b, len(sides[1]), "B"))
    if not len(sides[0]) or not len(sides[1]):
        return MatchedPair(Matches(np.empty((0, 2), np.int32), np.empty(0, np.float32)), np.empty(0, np.float32))

    from delf_engine.verification.match_kernels import distances_between
    from delf_engine.verification.word_kernels import best_by_words

    unit_a, unit_b = sides[0].unit, sides[1].unit
    best, _, to_b, other, to_a = best_by_words(unit_a, unit_b, *listed)
    distances = np.where(to_b >= 0, distances_between(unit_a, unit_b, to_b), np.inf)
    others = np.where(other >= 0, distances_between(unit_a, unit_b, other), 0.0)
    similarities = np.where(to_b >= 0, best, 0).astype(np.float32)
    return chosen_matches(to_b, to_a, similarities, distances, mutual, ratio, max_distance, lambda: others)


def _listed(words: npt.ArrayLike, count: int, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return words and their rows, ascending by word."""
    given = np.asarray(words)
    if given.dtype.kind not in "iu" or given.ndim not in (1, 2) or len(given) != count:
        raise MismatchError(
            f"words of {name} must be whole numbers of shape ({count},) or ({count}, k), got {given.dtype} of "
            f"shape {given.shape}"
        )
    table = (given[:, None] if given.ndim == 1 else given).astype(np.int64)
    rows = np.repeat(np.arange(count), table.shape[1])
    order = np.argsort(table.ravel(), kind="stable")
    return table.ravel()[order], rows[order]
