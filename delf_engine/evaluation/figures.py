"""What all figures share: means over the queries that can be measured, and numbers for JSON."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["mean_of_found", "or_none"]


def mean_of_found(values: npt.NDArray[np.float64]) -> float:
    """Return the mean of what is not NaN, rounded once: the same for any order; NaN, silently, if all are."""
    told = values[~np.isnan(values)]
    return math.fsum(told.tolist()) / len(told) if len(told) else math.nan


def or_none(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return value if math.isfinite(value) else None
