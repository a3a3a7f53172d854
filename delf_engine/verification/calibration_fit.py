"""The curves of a calibration, fitted: from the evidence of labelled pairs to a probability.

Logistic regression (Platt, Probabilistic outputs for support vector machines, 1999) and isotonic regression
(Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, 2002). Pairs
are weighted so that the two labels together weigh as the prior says, whatever their numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delf_engine.config import Config, Profile
from delf_engine.errors import DataError, MismatchError
from delf_engine.verification.result import Verification

__all__ = [
    "EVIDENCE",
    "MINIMUM_PAIRS",
    "Evidence",
    "Method",
    "checked_labels",
    "common_options",
    "evidence_of",
    "extraction_sha256",
    "fit_isotonic",
    "fit_logistic",
    "options_of",
    "verification_sha256",
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

_BACKWARDS = (
    "pairs with label 1 do not have more inliers than pairs with label 0; check that 1 means the same place, "
    "and that the photographs are the ones that were labelled"
)


def evidence_of(verifications: Sequence[Verification], evidence: str) -> Float64:
    """Return the evidence of N pairs, (N,) float64, by its name in `EVIDENCE`.

    Raises
    ------
    DataError
        If a verification holds similarities that are no numbers.
    """
    values = np.array([EVIDENCE[evidence](v) for v in verifications], np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"the evidence of pair {bad[0]} (counted from 0) is not finite: {values[bad[0]]}")
    return values


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


def common_options(verifications: Sequence[Verification], profile: Profile | None) -> dict[str, Any]:
    """Return the options that verifications were made with, see `options_of`.

    Raises
    ------
    MismatchError
        If they are not the same for all, or not those of the profile.
    """
    first = options_of(verifications[0])
    for number, verification in enumerate(verifications):
        if options_of(verification) != first:
            raise MismatchError(
                f"pair {number} (counted from 0) was verified with other options than the first one: "
                f"{options_of(verification)} and {first}; verify all pairs alike"
            )
    if profile is not None:
        config = profile.verification
        expected = {
            "geometry": config.model,
            "estimator": config.estimator,
            "residual_px": config.residual_px,
            "reference_size": config.reference_size,
            "exponent": profile.ranking.exponent,
        }
        if expected != first:
            raise MismatchError(f"the pairs were verified with {first}, profile {profile.name!r} has {expected}")
    return first


def options_of(verification: Verification) -> dict[str, Any]:
    """Return the options of a verification that its evidence depends on, by their names in a `Calibration`."""
    return {
        "geometry": verification.model,
        "estimator": verification.estimator,
        "residual_px": verification.residual_px,
        "reference_size": verification.reference_size,
        "exponent": verification.exponent,
    }


def verification_sha256(profile: Profile) -> str:
    """Return a hash of the options of verification that evidence depends on: all but `min_inliers`.

    Options at their defaults do not count, so that one which is new in a later version does not change it.
    """
    return _sha256(profile.verification, {"min_inliers"})


def extraction_sha256(profile: Profile) -> str:
    """Return a hash of the options of extraction but for `precision`, which is the machine's; see above."""
    return _sha256(profile.extraction, {"precision"})


def _sha256(config: Config, left_out: set[str]) -> str:
    values = config.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fit_logistic(evidence: Float64, labels: Labels, prior: float) -> tuple[float, float]:
    """Fit P(same) = 1 / (1 + exp(-(slope evidence + intercept))).

    Labels are Platt's targets, (n + 1) / (n + 2) and 1 / (n + 2): even pairs that the evidence separates without
    an error get a finite slope. Each pair counts as label 1 with its target's part of its weight.

    Parameters
    ----------
    evidence : (N,) float64
    labels : (N,) bool
        Both occur.
    prior : float
        Above 0 and below 1.

    Returns
    -------
    slope, intercept : float

    Raises
    ------
    DataError
        If the evidence does not speak for label 1.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    evidence, labels, weights = _sorted(evidence, labels, prior)
    spread = float(evidence.std())
    if np.ptp(evidence) == 0:
        raise DataError(_BACKWARDS)
    n, positives = len(labels), int(np.count_nonzero(labels))
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (n - positives + 2))
    parts = np.concatenate([weights * targets, weights * (1 - targets)]) * n
    column = (evidence / spread)[:, None]
    curve = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=200)
    with threadpool_limits(limits=1):  # how a sum is split must not depend on the machine's cores
        curve.fit(np.concatenate([column, column]), np.repeat([1, 0], n), sample_weight=parts)
    slope, intercept = float(curve.coef_[0, 0]) / spread, float(curve.intercept_[0])
    if not slope > 0 or not math.isfinite(intercept):
        raise DataError(_BACKWARDS)
    return slope, intercept


def fit_isotonic(evidence: Float64, labels: Labels, prior: float) -> tuple[list[float], list[float]]:
    """Fit the non-decreasing function of the evidence with the least weighted squared error.

    Parameters and errors are those of `fit_logistic`.

    Returns
    -------
    knots, levels : list of float
        P(same) at ascending evidence; linear between, constant beyond the ends.
    """
    from sklearn.isotonic import IsotonicRegression

    evidence, labels, weights = _sorted(evidence, labels, prior)
    curve = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip")
    curve.fit(evidence, labels.astype(np.float64), sample_weight=weights * len(labels))
    knots, levels = curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist()
    if not levels[-1] > levels[0]:
        raise DataError(_BACKWARDS)
    return knots, levels


def _sorted(evidence: Float64, labels: Labels, prior: float) -> tuple[Float64, Labels, Float64]:
    """Return pairs in an order of their own, so that sums have the same bits in whatever order they came.

    With their weights, which sum to `prior` over label 1 and to 1 - `prior` over label 0.
    """
    order = np.lexsort((labels, evidence))
    labels = labels[order]
    positives = int(np.count_nonzero(labels))
    weights = np.where(labels, prior / max(positives, 1), (1 - prior) / max(len(labels) - positives, 1))
    return evidence[order], labels, weights
