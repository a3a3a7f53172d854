"""Is one system better than another, or were the queries kind to it? A paired bootstrap over queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.landmarks import RecognitionFigures

__all__ = ["Comparison", "QueryDifference", "paired_bootstrap", "query_differences", "recognition_bootstrap"]


@dataclass(frozen=True)
class Comparison:
    """Mean difference of two systems over the same queries, and its bootstrap interval.

    Attributes
    ----------
    difference : float
        Mean of (first - second), in the unit of the figures.
    low, high : float
        Ends of the percentile interval.
    confidence : float
        Of the interval, 0 to 1.
    queries : int
        Number of queries compared.
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


@dataclass(frozen=True)
class QueryDifference:
    """What two systems reach on one query.

    Attributes
    ----------
    query : str
    positives : int
    first, second : float
        Figures of the two systems.
    difference : float
        first - second.
    """

    query: str
    positives: int
    first: float
    second: float
    difference: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return dict(vars(self))


def paired_bootstrap(
    first: npt.ArrayLike, second: npt.ArrayLike, *, samples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare two systems by their figures for the same queries.

    Queries are drawn with replacement, the same ones for both systems (Efron and Tibshirani 1993, percentile
    interval). With a handful of queries the interval is too narrow rather than too wide.

    Parameters
    ----------
    first, second : (Q,) float
        One figure a query, such as `Evaluation.average_precision`. NaN, in both, leaves the query out.
    samples : int
        Resamples drawn.
    confidence : float
        Of the interval, above 0 and below 1.
    seed : int

    Raises
    ------
    DataError
        If the figures are not of the same queries, or of none.
    ConfigError
        If `samples` or `confidence` is out of range.
    """
    _check_options(samples, confidence)
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        raise DataError(f"the two systems must have figures for the same queries, got {a.shape} and {b.shape}")
    differences = (a - b)[~np.isnan(a)]
    n = len(differences)
    if n == 0:
        raise DataError("no query to compare the two systems on")
    rng = np.random.default_rng(seed)
    means = [differences[rng.integers(0, n, n)].mean() for _ in range(samples)]
    low, high = _interval(means, confidence)
    return Comparison(float(differences.mean()), low, high, confidence, n)


def recognition_bootstrap(
    first: RecognitionFigures,
    second: RecognitionFigures,
    *,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by their global average precision, in per cent.

    As `paired_bootstrap`, but GAP is no mean of figures of single queries: predictions of all queries are sorted
    into one list. It is computed anew from the queries of each sample; a query drawn twice predicts twice.

    Parameters
    ----------
    first, second : RecognitionFigures
        Of the same queries.
    samples, confidence, seed
        As `paired_bootstrap` takes them.

    Raises
    ------
    DataError
        If the figures are not of the same queries, or no query shows a landmark.
    ConfigError
        If `samples` or `confidence` is out of range.
    """
    _check_options(samples, confidence)
    shown = first.shows_landmark
    if first.query_names != second.query_names or not np.array_equal(shown, second.shows_landmark):
        raise DataError("the two systems must have figures for the same queries of one ground truth")
    if not shown.any():
        raise DataError("no query shows a landmark: there is no global average precision to compare")
    rng = np.random.default_rng(seed)
    n = len(shown)
    differences: list[float] = []
    while len(differences) < samples:
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        landmarks = int(times[shown].sum())
        if landmarks:  # a sample without one has no figure
            differences.append(100 * (_area(first, times) - _area(second, times)) / landmarks)
    low, high = _interval(differences, confidence)
    return Comparison(first.gap - second.gap, low, high, confidence, n)


def query_differences(
    query_names: Sequence[str], first: npt.ArrayLike, second: npt.ArrayLike, *, positives: npt.ArrayLike
) -> list[QueryDifference]:
    """Return the figures of two systems query by query, the largest loss of the first one at the top.

    Parameters
    ----------
    query_names : sequence of Q str
    first, second : (Q,) float
        One figure a query, such as `Evaluation.average_precision`. NaN, in both, leaves the query out.
    positives : (Q,) int
        Positives of each query.

    Raises
    ------
    DataError
        If the figures are not of the same queries.
    """
    a, b, counts = np.asarray(first, np.float64), np.asarray(second, np.float64), np.asarray(positives)
    shape = (len(query_names),)
    if not a.shape == b.shape == counts.shape == shape or (np.isnan(a) != np.isnan(b)).any():
        raise DataError(f"figures of {shape[0]} queries were expected, got {a.shape}, {b.shape}, {counts.shape}")
    rows = [
        QueryDifference(name, int(count), one, two, one - two)
        for name, count, one, two in zip(query_names, counts.tolist(), a.tolist(), b.tolist(), strict=True)
        if not np.isnan(one)
    ]
    return sorted(rows, key=lambda row: (row.difference, row.query))


def _check_options(samples: int, confidence: float) -> None:
    if samples < 1 or not 0 < confidence < 1:
        raise ConfigError(f"needs samples >= 1 and 0 < confidence < 1, got {samples} and {confidence}")


def _interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _area(figures: RecognitionFigures, times: npt.NDArray[np.int64]) -> float:
    """Return the sum of precisions at the right predictions when each query occurs a number of times."""
    right = np.repeat(figures.recognised[figures.order], times[figures.order])
    return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].sum())
