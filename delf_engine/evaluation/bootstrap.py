"""Is one system better than another, or were the queries kind to it? A paired bootstrap over queries.

Queries are drawn with replacement, the same ones for both systems (Efron and Tibshirani 1993, percentile
interval). With a handful of queries the interval is too narrow rather than too wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError

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
    if samples < 1:
        raise ConfigError(f"needs 1 sample at least, got {samples}")
    difference, queries = float(differences.mean()), len(differences)
    if queries == 1:  # drawn again and again, it is the same
        return Comparison(difference, difference, difference, _CONFIDENCE, queries)
    from scipy.stats import bootstrap

    found = bootstrap(
        (differences,),
        lambda drawn: float(drawn.mean()),
        n_resamples=samples,
        batch=_BATCH,
        vectorized=False,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Comparison(difference, float(low), float(high), _CONFIDENCE, queries)
