"""What a search may return: some ids, all but some, or scores from a value on; and the best of what is left."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, UnknownIdError
from delf_engine.index.contract import check_ids
from delf_engine.index.segments.collection import Collection

__all__ = ["Limits", "best"]


@dataclass(frozen=True)
class Limits:
    """Which images a search may return: what is left of ranking the whole collection, scores unchanged.

    Attributes
    ----------
    among : iterable of str or None
        These images only; None: any. An id that the index does not hold raises `UnknownIdError` when it is
        searched, since a search among images that are not there cannot be meant.
    exclude : iterable of str
        All but these, such as the query itself. Ids that the index does not hold are ignored: they are left out
        already.
    min_score : float or None
        Leave out images with a lower score, compared in float64. None: any above 0.

    Raises
    ------
    ConfigError
        If ids are a single string, empty or no strings, or `min_score` is not a finite number.
    """

    among: Iterable[str] | None = None
    exclude: Iterable[str] = ()
    min_score: float | None = None

    def __post_init__(self) -> None:
        real = isinstance(self.min_score, numbers.Real) and not isinstance(self.min_score, bool)
        if self.min_score is not None and not (real and math.isfinite(self.min_score)):
            raise ConfigError(f"min_score must be a finite number, got {self.min_score!r}")
        object.__setattr__(self, "min_score", None if self.min_score is None else float(self.min_score))
        object.__setattr__(self, "among", None if self.among is None else tuple(check_ids(self.among)))
        object.__setattr__(self, "exclude", tuple(check_ids(self.exclude)))

    def allowed(self, collection: Collection) -> npt.NDArray[np.bool_] | None:
        """Return which rows of a flushed collection may be returned, (n,) bool through all segments; None: all.

        Raises
        ------
        UnknownIdError
            If an id of `among` is not there.
        """
        wanted = None if self.among is None else list(self.among)
        left_out = list(self.exclude)
        if wanted is None and not left_out:
            return None
        allowed = np.full(sum(len(segment.ids) for segment in collection.segments), wanted is None)
        if wanted is not None:
            rows = collection.rows(wanted)
            unknown = [wanted[i] for i in np.flatnonzero(rows < 0)]
            if unknown:
                more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
                raise UnknownIdError(f"among: the index holds no image {unknown[0]!r}{more}")
            allowed[rows] = True
        rows = collection.rows(left_out)
        allowed[rows[rows >= 0]] = False
        return allowed


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
    from delf_engine.index.segments.best_kernels import best_rows

    everywhere = np.ones(0, bool) if allowed is None else allowed
    rows = best_rows(scores, min(top_k, len(scores)), everywhere, 0.0 if min_score is None else min_score)
    return rows[np.argsort(-scores[rows], kind="stable")]
