"""The curves of a calibration, fitted: from the evidence of labelled pairs to a probability.

Logistic regression (Platt, Probabilistic outputs for support vector machines, 1999) and isotonic regression
(Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, 2002). Pairs
are weighted so that the two labels together weigh as the prior says, whatever their numbers.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError
from delf_engine.verification.result import Verification

__all__ = [
    "EVIDENCE",
    "MINIMUM_PAIRS",
    "Evidence",
    "Method",
    "checked_labels",
    "class_weights",
    "evidence_matrix",
    "fit_isotonic",
    "fit_logistic",
]

Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Method = Literal["logistic", "isotonic"]
Evidence = Literal["inliers", "inlier_similarity", "log_inliers", "log_inlier_similarity"]

#: What a curve may depend on. Each grows, or stays, with every inlier more: that keeps probabilities monotone.
EVIDENCE: dict[str, Callable[[Verification], float]] = {
    "inliers": lambda v: float(v.inliers),
    "inlier_similarity": lambda v: v.inlier_similarity,
    "log_inliers": lambda v: math.log1p(v.inliers),
    "log_inlier_similarity": lambda v: math.log1p(v.inlier_similarity),
}

#: Pairs of either label that a fit needs: ten for each parameter of a line, more for steps anywhere.
MINIMUM_PAIRS: dict[str, int] = {"logistic": 10, "isotonic": 50}

# A set of evidence must be better by this (mean log loss, nats) to be taken before one with fewer.
_BETTER = 1e-9


def evidence_matrix(verifications: Sequence[Verification], evidence: Sequence[str]) -> Float64:
    """Return the evidence of pairs.

    Parameters
    ----------
    verifications : sequence of N Verification
    evidence : sequence of K names of `EVIDENCE`

    Returns
    -------
    (N, K) float64

    Raises
    ------
    DataError
        If a verification holds similarities that are no numbers.
    """
    rows = [[EVIDENCE[name](v) for name in evidence] for v in verifications]
    matrix = np.array(rows, np.float64).reshape(len(rows), len(evidence))
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise DataError(f"the evidence of pair {bad[0]} (counted from 0) is not finite: {matrix[bad[0]].tolist()}")
    return matrix


def checked_labels(labels: npt.ArrayLike, pairs: int, method: str) -> Labels:
    """Return the labels of `pairs` pairs as booleans.

    Raises
    ------
    DataError
        If there is not one label a pair, one is neither 0 nor 1, or there are fewer pairs of a label than the
        method needs (`MINIMUM_PAIRS`).
    """
    values = np.asarray(labels)
    if values.shape != (pairs,):
        raise DataError(f"one label a pair is needed, got labels of shape {values.shape} for {pairs} pairs")
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise DataError("labels must be 1 (the same place) or 0 (different places)")
    same = values.astype(bool)
    least = MINIMUM_PAIRS[method]
    for label, count in ((1, int(same.sum())), (0, int((~same).sum()))):
        if count < least:
            raise DataError(
                f"{count} pairs with label {label} are too few: {method} calibration needs {least} of either label"
            )
    return same


def class_weights(labels: Labels, prior: float) -> Float64:
    """Return weights of pairs, (N,), that sum to `prior` over label 1 and to 1 - `prior` over label 0."""
    positives = int(np.count_nonzero(labels))
    return np.where(labels, prior / max(positives, 1), (1 - prior) / max(len(labels) - positives, 1))


def fit_logistic(evidence: Float64, labels: Labels, prior: float) -> tuple[list[float], float]:
    """Fit P(same) = 1 / (1 + exp(-(coefficients . evidence + intercept))) with no negative coefficient.

    Labels are Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2): even pairs that the evidence separates without
    an error get a finite slope. Of a loss that is convex the best non-negative coefficients are the free optimum
    over one of the sets of evidence, the others being zero: all sets are tried, the smallest first.

    Parameters
    ----------
    evidence : (N, K) float64
        K is small.
    labels : (N,) bool
        Both occur.
    prior : float
        Above 0 and below 1.

    Returns
    -------
    coefficients : list of K float
    intercept : float

    Raises
    ------
    DataError
        If no evidence speaks for label 1.
    """
    # In an order of their own: sums over pairs then have the same bits in whatever order they came.
    order = np.lexsort((labels, *evidence.T))
    evidence, labels = evidence[order], labels[order]
    targets = _platt_targets(labels)
    weights = class_weights(labels, prior)
    spread = evidence.std(axis=0)
    columns = [int(k) for k in np.flatnonzero(spread > 0)]
    best: tuple[tuple[int, ...], Float64, float] | None = None
    best_loss = math.inf
    for size in range(1, len(columns) + 1):
        for chosen in itertools.combinations(columns, size):
            scaled = evidence[:, chosen] / spread[list(chosen)]
            slopes, intercept = _regress(scaled, targets, weights)
            if not (slopes > 0).all() or not math.isfinite(intercept):
                continue
            loss = _log_loss(scaled @ slopes + intercept, targets, weights)
            if loss < best_loss - _BETTER:
                best, best_loss = (chosen, slopes / spread[list(chosen)], intercept), loss
    if best is None:
        raise DataError(_BACKWARDS)
    coefficients = [0.0] * evidence.shape[1]
    for k, slope in zip(best[0], best[1].tolist(), strict=True):
        coefficients[k] = slope
    return coefficients, best[2]


def fit_isotonic(score: Float64, labels: Labels, prior: float) -> tuple[list[float], list[float]]:
    """Fit the non-decreasing function of a score with the least weighted squared error.

    Parameters
    ----------
    score : (N,) float64
    labels : (N,) bool
        Both occur.
    prior : float
        Above 0 and below 1.

    Returns
    -------
    knots, levels : list of float
        P(same) at ascending scores; linear between them, constant beyond the ends.

    Raises
    ------
    DataError
        If the score does not speak for label 1.
    """
    from sklearn.isotonic import IsotonicRegression

    order = np.lexsort((labels, score))
    score, labels = score[order], labels[order]
    curve = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip")
    curve.fit(score, labels.astype(np.float64), sample_weight=class_weights(labels, prior) * len(labels))
    knots, levels = curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist()
    if not levels[-1] > levels[0]:
        raise DataError(_BACKWARDS)
    return knots, levels


_BACKWARDS = (
    "pairs with label 1 do not have more inliers than pairs with label 0; check that 1 stands for the same place, "
    "and that the photographs are the ones that were labelled"
)


def _platt_targets(labels: Labels) -> Float64:
    positives = int(np.count_nonzero(labels))
    negatives = len(labels) - positives
    return np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def _regress(scaled: Float64, targets: Float64, weights: Float64) -> tuple[Float64, float]:
    """Return slopes and intercept; each pair counts as label 1 with its target's part of its weight."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    curve = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=200)
    n = len(targets)
    parts = np.concatenate([weights * targets, weights * (1 - targets)]) * n
    # One thread: how a sum is split must not depend on the machine's cores. Warnings: evidence that is nearly
    # collinear; the solver then goes another way, and a set with less of it is as good.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve.fit(np.concatenate([scaled, scaled]), np.repeat([1, 0], n), sample_weight=parts)
    return curve.coef_[0], float(curve.intercept_[0])


def _log_loss(logits: Float64, targets: Float64, weights: Float64) -> float:
    return float((weights * (np.logaddexp(0, logits) - targets * logits)).sum())
