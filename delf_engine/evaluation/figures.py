"""Figures of rankings, one for each query and their means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Figures of the rankings of Q queries, in per cent; NaN for a query without a positive.

    Attributes
    ----------
    name : str
        What was measured: a set-up, a part of a solution, or "all".
    query_names : tuple of Q str
    positives : (Q,) int64
        Images that each query should find.
    average_precision : (Q,) float64
    ranks : tuple of R int
        The k of the figures below.
    precision : (Q, R) float64
        Share of positives among the first k; the protocol says where a ranking that ends early counts as cut.
    recall : (Q, R) float64 or None
        100 if one positive at least is among the first k, else 0: recall@k of metric learning, which is not the
        share of the positives found. None where the protocol has no such figure.
    measure : str
        What the mean of the average precisions is called.
    """

    name: str
    query_names: tuple[str, ...]
    positives: npt.NDArray[np.int64]
    average_precision: Float64
    ranks: tuple[int, ...]
    precision: Float64
    recall: Float64 | None = None
    measure: str = "mAP"

    def __post_init__(self) -> None:
        for array in (self.positives, self.average_precision, self.precision, self.recall):
            if array is not None:
                array.flags.writeable = False

    @property
    def evaluated(self) -> int:
        """Number of queries that have a positive."""
        return int((self.positives > 0).sum())

    @property
    def mean_ap(self) -> float:
        """Mean average precision over the queries that have a positive; NaN if none has."""
        return mean_of_found(self.average_precision)

    @property
    def mean_precision(self) -> dict[int, float]:
        """Mean precision mP@k, by k."""
        return self._means(self.precision)

    @property
    def mean_recall(self) -> dict[int, float]:
        """Share of the queries with a positive among the first k, by k; empty without this figure."""
        return {} if self.recall is None else self._means(self.recall)

    @property
    def figures(self) -> dict[str, float]:
        """All means by their names, the main one first."""
        return {
            self.measure: self.mean_ap,
            **{f"recall@{k}": value for k, value in self.mean_recall.items()},
            **{f"mP@{k}": value for k, value in self.mean_precision.items()},
        }

    def _means(self, table: Float64) -> dict[int, float]:
        return {k: mean_of_found(column) for k, column in zip(self.ranks, table.T, strict=True)}

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {value:.2f}" for name, value in self.figures.items())
        return f"{type(self).__name__}({self.name}, {self.evaluated} queries: {means})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a query without a positive has None."""
        values = zip(self.query_names, self.average_precision.tolist(), strict=True)
        out: dict[str, Any] = {"name": self.name, "queries": self.evaluated, "mean_ap": or_none(self.mean_ap)}
        if self.recall is not None:
            out["mean_recall"] = {str(k): or_none(value) for k, value in self.mean_recall.items()}
        out["mean_precision"] = {str(k): or_none(value) for k, value in self.mean_precision.items()}
        return out | {"average_precision": {name: or_none(value) for name, value in values}}


def mean_of_found(values: Float64) -> float:
    """Return the mean of what is not NaN, rounded once: the same for any order; NaN, silently, if all are."""
    found = values[~np.isnan(values)]
    return math.fsum(found.tolist()) / len(found) if len(found) else math.nan


def or_none(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return value if math.isfinite(value) else None
