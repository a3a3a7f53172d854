"""What a search may return: some ids, all but some, or scores from a value on; and the best of what is left."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, UnknownIdError
from delf_engine.index.collection import Collection
from delf_engine.index.contract import check_ids

__all__ = ["Limits", "best"]

_MANY = 1 << 16  # scores that are worth a kernel: it reads them once


@dataclass(frozen=True)
class Limits:
    """Which rows of a collection a search may return.

    Attributes
    ----------
    allowed : (n,) bool or None
        By row, counted through all segments, removed ones included. None: all.
    min_score : float or None
        The lowest score, in float64. None: any above 0.
    """

    allowed: npt.NDArray[np.bool_] | None = None
    min_score: float | None = None

    @classmethod
    def of(
        cls,
        collection: Collection,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
    ) -> Limits:
        """Look ids up in a collection, which is flushed.

        Raises
        ------
        ConfigError
            If ids are a single string, empty or no strings, or `min_score` is not a finite number.
        UnknownIdError
            If an id of `among` is not there.
        """
        real = isinstance(min_score, numbers.Real) and not isinstance(min_score, bool)
        if min_score is not None and not (real and math.isfinite(min_score)):
            raise ConfigError(f"min_score must be a finite number, got {min_score!r}")
        lowest = None if min_score is None else float(min_score)
        left_out = check_ids(exclude)
        wanted = None if among is None else check_ids(among)
        collection.flush()
        if wanted is None and not left_out:
            return cls(None, lowest)
        count = sum(len(segment.ids) for segment in collection.segments)
        allowed = np.full(count, wanted is None)
        if wanted is not None:
            rows = collection.rows(wanted)
            unknown = [wanted[i] for i in np.flatnonzero(rows < 0)]
            if unknown:
                more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
                raise UnknownIdError(f"among: the index holds no image {unknown[0]!r}{more}")
            allowed[rows] = True
        rows = collection.rows(left_out)
        allowed[rows[rows >= 0]] = False
        return cls(allowed, lowest)

    def best(self, scores: npt.NDArray[np.float32], top_k: int) -> npt.NDArray[np.int64]:
        """Return the rows of the at most `top_k` best allowed scores, as `best`."""
        return best(scores, top_k, allowed=self.allowed, min_score=self.min_score)


def best(
    scores: npt.NDArray[np.float32],
    top_k: int,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    min_score: float | None = None,
) -> npt.NDArray[np.int64]:
    """Return where the at most `top_k` highest positive scores are, in descending order, ties by position.

    Parameters
    ----------
    scores : (N,) float32
    top_k : int
    allowed : (N,) bool or None
        Where to look; None: everywhere.
    min_score : float or None
        Lower scores are left out. Compared in float64, where a score is the value that it shows.

    Returns
    -------
    (K,) int64
    """
    top_k = min(top_k, len(scores))
    if len(scores) >= _MANY:
        from delf_engine.index import score_kernels

        everywhere = np.ones(0, bool) if allowed is None else allowed
        found = score_kernels.best_rows(scores, top_k, everywhere, 0.0 if min_score is None else min_score)
    else:
        found = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
        if min_score is not None:
            found = found[scores[found].astype(np.float64) >= min_score]
        if len(found) > top_k:
            limit = np.partition(scores[found], len(found) - top_k)[len(found) - top_k]
            above = found[scores[found] > limit]
            level = found[scores[found] == limit][: top_k - len(above)]
            found = np.sort(np.concatenate([above, level]))
    return found[np.argsort(-scores[found], kind="stable")].astype(np.int64)
