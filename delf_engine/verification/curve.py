"""`Curve`: a logistic curve from the evidence of a `Verification` to odds, and its fit to labelled pairs.

Platt, Probabilistic outputs for support vector machines, 1999; fitted with scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from delf_engine.config import Config
from delf_engine.errors import DataError
from delf_engine.verification.fine import EPIPOLAR_BY_CHANCE, PLANAR_BY_CHANCE
from delf_engine.verification.result import Verification

Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Probability = Annotated[float, Field(gt=0, lt=1)]
Evidence = Literal[
    "inliers", "inlier_similarity", "log_inliers", "log_inlier_similarity", "log_epipolar", "log_planar"
]

#: What a curve may depend on. Each grows, or stays, with every inlier more: that keeps probabilities monotone.
EVIDENCE: dict[str, Callable[[Verification], float]] = {
    "inliers": lambda v: float(v.inliers),
    "inlier_similarity": lambda v: v.inlier_similarity,
    "log_inliers": lambda v: math.log1p(v.inliers),
    "log_inlier_similarity": lambda v: math.log1p(v.inlier_similarity),
    "log_epipolar": lambda v: math.log1p(max(0, v.fine.epipolar - EPIPOLAR_BY_CHANCE)) if v.fine else 0.0,
    "log_planar": lambda v: math.log1p(max(0, v.fine.planar - PLANAR_BY_CHANCE)) if v.fine else 0.0,
}

#: Share of different places that may be called the same, and the least probability of that answer.
FALSE_ACCEPTANCE, _LEAST = 1e-4, 0.9

_BACKWARDS = (
    "pairs with label 1 do not have more inliers than pairs with label 0; check that 1 means the same place, "
    "and that the photographs are the ones that were labelled"
)


class Curve(Config):
    """The log odds of pairs with a share `prior` of one place: sum of weight x evidence, plus the intercept.

    The likelihood ratio is kept between 1 / (positives + 2) and negatives + 2, after Laplace's rule of succession:
    what none of n pairs did may still happen about once in n + 2.
    """

    # None is below 0, so that no inlier more ever lowers the probability.
    weights: dict[Evidence, Annotated[float, Field(ge=0)]]
    intercept: float
    # Pairs that it was fitted on.
    positives: int = Field(ge=1)
    negatives: int = Field(ge=1)
    # Probability, at the prior, from which on the answer is "same": at most one in 10,000 of the pairs of
    # different places that it was fitted on reaches it, unless more have the highest probability of all, and it is
    # 0.9 at least.
    accept: Probability

    @classmethod
    def fit(
        cls,
        verifications: Sequence[Verification],
        labels: Labels,
        evidence: Sequence[Evidence],
        prior: float,
        weights: Float64,
    ) -> Curve:
        """Fit a curve; the same pairs in any order give the same bits. Each pair stands for `weights` pairs, (N,).

        A `DataError` if pairs of one place have no more of the evidence than the others, or evidence is not
        finite.
        """
        values = np.stack([evidence_of(verifications, name) for name in evidence], axis=1)
        slopes, intercept = _fit_logistic(values, labels, prior, weights)
        kept = dict(zip(evidence, slopes, strict=True))
        numbers = round(weights[labels].sum()), round(weights[~labels].sum())
        curve = cls(weights=kept, intercept=intercept, positives=numbers[0], negatives=numbers[1], accept=0.5)
        wrong = curve.ratios([v for v, same in zip(verifications, labels, strict=True) if not same], prior)
        order = np.argsort(-wrong, kind="stable")
        above = np.cumsum(weights[~labels][order]) > FALSE_ACCEPTANCE * weights[~labels].sum()
        highest = logistic(float(wrong[order[int(above.argmax())]]) + logit(prior))
        most = logistic(math.log(curve.negatives + 2) + logit(prior))  # no pair gets more
        accept = min(max(_LEAST, math.nextafter(highest, 1)), most)
        return curve.model_copy(update={"accept": accept})

    def ratios(self, verifications: Sequence[Verification], prior: float) -> Float64:
        """Return ln(P(evidence | same) / P(evidence | different)) of each, (N,), within what the pairs support."""
        total = np.full(len(verifications), self.intercept - logit(prior))
        for name, weight in self.weights.items():
            total += weight * evidence_of(verifications, name)
        return np.clip(total, -math.log(self.positives + 2), math.log(self.negatives + 2))


def evidence_of(verifications: Sequence[Verification], evidence: str) -> Float64:
    """Return one kind of evidence of each verification, (N,) float64; `DataError` where it is not finite."""
    values = np.array([EVIDENCE[evidence](v) for v in verifications], np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(f"the evidence of pair {bad[0]} (counted from 0) is not finite: {values[bad[0]]}")
    return values


def _fit_logistic(
    evidence: Float64, labels: Labels, prior: float, stand_for: Float64
) -> tuple[list[float], float]:
    """Fit P(same) = 1 / (1 + exp(-(weights evidence + intercept))) to evidence, (N, K).

    Pairs are weighted so that the two labels together weigh as the prior says, whatever their numbers. They are
    sorted first, so that sums have the same bits in whatever order they came. Labels are Platt's targets,
    (n + 1) / (n + 2) and 1 / (n + 2): even pairs that the evidence separates without an error get finite weights.
    Each pair counts as label 1 with its target's part of its weight. Evidence that would count against is left
    out.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    order = np.lexsort((stand_for, labels, *evidence.T[::-1]))
    evidence, labels, stand_for = evidence[order], labels[order], stand_for[order]
    spread = evidence.std(axis=0)
    used = np.ptp(evidence, axis=0) > 0
    n, positives, negatives = len(labels), float(stand_for[labels].sum()), float(stand_for[~labels].sum())
    weights = stand_for * np.where(labels, prior / positives, (1 - prior) / negatives)
    targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    parts = np.concatenate([weights * targets, weights * (1 - targets)]) * n
    while used.any():
        columns = evidence[:, used] / spread[used]
        curve = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=200)
        with threadpool_limits(limits=1):  # how a sum is split must not depend on the machine's cores
            curve.fit(np.concatenate([columns, columns]), np.repeat([1, 0], n), sample_weight=parts)
        found = np.zeros(len(used))
        found[used] = curve.coef_[0] / spread[used]
        if (found[used] > 0).all() and math.isfinite(float(curve.intercept_[0])):
            return found.tolist(), float(curve.intercept_[0])
        used &= found > 0
    raise DataError(_BACKWARDS)


def logit(p: float) -> float:
    """Return ln(p / (1 - p))."""
    return math.log(p) - math.log1p(-p)


def logistic(log_odds: float) -> float:
    """Return the probability of log odds, above 0 and below 1."""
    odds = math.exp(-abs(log_odds))
    p = odds / (1 + odds) if log_odds < 0 else 1 / (1 + odds)
    # A prior may be so extreme that floats end before the pairs' support does.
    return min(max(p, math.nextafter(0, 1)), math.nextafter(1, 0))
