"""Is one system better than another, or were the queries kind to it? A paired bootstrap over queries.

Queries are drawn with replacement, the same ones for both systems (Efron and Tibshirani 1993, percentile
interval). With a handful of queries the interval is too narrow rather than too wide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.landmarks import RecognitionFigures

_CONFIDENCE = 0.95
_BATCH = 64  # resamples drawn at a time: with all queries of a large benchmark in memory


@dataclass(frozen=True)
class Comparison:
    """Mean difference (first - second) of two systems over the same queries, in the unit of the figures.

    `low` and `high` are the ends of its percentile interval, of the confidence 0.95.
    """

    difference: float
    low: float
    high: float
    confidence: float
    queries: int

    @property
    def verdict(self) -> str:
        """In words: "first is better", "second is better", or "no difference shown" if the interval holds 0."""
        if self.low > 0:
            return "first is better"
        return "second is better" if self.high < 0 else "no difference shown"

    def __str__(self) -> str:
        return f"{self.difference:+.2f} [{self.low:+.2f}, {self.high:+.2f}] over {self.queries} queries"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return dict(vars(self))


def paired_bootstrap(
    first: npt.ArrayLike, second: npt.ArrayLike, *, samples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare two systems by their figures for the same queries.

    Parameters
    ----------
    first, second : (Q,) numbers
        One for each query, such as `Evaluation.average_precision`. NaN, in both, leaves the query out.
    samples : int
        Resamples of the queries.
    seed : int
        Seed of the resampling.

    Raises
    ------
    DataError
        If the figures are not of the same queries, or of none.
    ConfigError
        If `samples` is below 1.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        raise DataError(f"the two systems must have figures for the same queries, got {a.shape} and {b.shape}")
    differences = (a - b)[~np.isnan(a)]
    if len(differences) == 0:
        raise DataError("no query to compare the two systems on")
    return _compared(
        float(differences.mean()), len(differences), lambda drawn: float(differences[drawn].mean()), samples, seed
    )


def recognition_bootstrap(
    first: RecognitionFigures, second: RecognitionFigures, *, samples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two systems by their global average precision, in per cent.

    As `paired_bootstrap`, but GAP is no mean of figures of single queries: predictions of all queries are sorted
    into one list. It is computed again from the queries of each sample; a query drawn twice predicts twice. A
    sample in which no query shows a landmark shows no difference. A `DataError` if the figures are not of the same
    queries, or no query shows a landmark; a `ConfigError` if `samples` is below 1.
    """
    shown = first.shows_landmark
    if first.query_names != second.query_names or not np.array_equal(shown, second.shows_landmark):
        raise DataError("the two systems must have figures for the same queries of one ground truth")
    if not shown.any():
        raise DataError("no query shows a landmark: there is no global average precision to compare")

    def difference(drawn: npt.NDArray[np.int64]) -> float:
        times = np.bincount(drawn, minlength=len(shown))
        landmarks = int(times[shown].sum())
        return 100 * (_area(first, times) - _area(second, times)) / landmarks if landmarks else 0.0

    return _compared(first.mean_ap - second.mean_ap, len(shown), difference, samples, seed)


def _compared(
    difference: float, queries: int, of_drawn: Callable[[npt.NDArray[np.int64]], float], samples: int, seed: int
) -> Comparison:
    if samples < 1:
        raise ConfigError(f"needs 1 sample at least, got {samples}")
    if queries == 1:  # drawn again and again, it is the same
        return Comparison(difference, difference, difference, _CONFIDENCE, queries)
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.arange(queries),),
        of_drawn,
        n_resamples=samples,
        batch=_BATCH,
        vectorized=False,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Comparison(difference, float(low), float(high), _CONFIDENCE, queries)


def _area(figures: RecognitionFigures, times: npt.NDArray[np.int64]) -> float:
    """Return the sum of precisions at the right predictions when each query occurs a number of times."""
    right = np.repeat(figures.recognised[figures.order], times[figures.order])
    return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].sum())
