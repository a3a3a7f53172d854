"""Is one system better than another, or were the queries kind to it? A paired bootstrap over queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError

__all__ = ["Comparison", "paired_bootstrap"]


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

    def __str__(self) -> str:
        return f"{self.difference:+.2f} [{self.low:+.2f}, {self.high:+.2f}] over {self.queries} queries"

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
    if samples < 1 or not 0 < confidence < 1:
        raise ConfigError(f"needs samples >= 1 and 0 < confidence < 1, got {samples} and {confidence}")
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        raise DataError(f"the two systems must have figures for the same queries, got {a.shape} and {b.shape}")
    differences = (a - b)[~np.isnan(a)]
    n = len(differences)
    if n == 0:
        raise DataError("no query to compare the two systems on")
    rng = np.random.default_rng(seed)
    means = [differences[rng.integers(0, n, n)].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Comparison(float(differences.mean()), float(low), float(high), confidence, n)
