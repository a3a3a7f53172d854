"""What estimators take and give, and how a transform that one has found becomes a `Fit` with inliers of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.verification.geometry import (
    MAX_STRETCH,
    MAX_ZOOM,
    fundamental_residuals,
    planar_residuals,
    plausible,
)

__all__ = [
    "EstimatorName",
    "EstimatorOptions",
    "Fit",
    "MatchedPoints",
    "ModelName",
    "fit_of",
    "fundamental_of_plane",
]

Float64 = npt.NDArray[np.float64]
ModelName: TypeAlias = Literal["affine", "homography", "fundamental"]
EstimatorName: TypeAlias = Literal["ransac", "exhaustive", "magsac", "accurate", "prosac"]


@dataclass(frozen=True)
class Fit:
    """A transform and the matches that agree with it.

    Attributes
    ----------
    transform : (3, 3) float64
        From points of A to points of B; for ``fundamental`` x_B^T F x_A = 0.
    inliers : (N,) bool
    residuals : (N,) float64
        Sampson distances in pixels; infinite where they are not defined.
    """

    transform: Float64
    inliers: npt.NDArray[np.bool_]
    residuals: Float64


@dataclass(frozen=True)
class MatchedPoints:
    """Tentative matches.

    Attributes
    ----------
    a, b : (N, 2) float64
        x, y in pixels.
    scales : (N,) float64, (N,) float64
        Of the features of A and B.
    similarities : (N,) float64
    """

    a: Float64
    b: Float64
    scales: tuple[Float64, Float64]
    similarities: Float64

    @classmethod
    def of(
        cls,
        a: npt.ArrayLike,
        b: npt.ArrayLike,
        scales: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        similarities: npt.ArrayLike | None = None,
    ) -> MatchedPoints:
        """Return matches with contiguous arrays; what is not given is the same for all."""
        points = np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)
        ones = np.ones(len(points[0]))
        given = (ones, ones) if scales is None else tuple(np.asarray(s, np.float64) for s in scales)
        alike = ones if similarities is None else np.asarray(similarities, np.float64)
        return cls(*points, (given[0], given[1]), alike)


@dataclass(frozen=True)
class EstimatorOptions:
    """Those of `models.estimate`."""

    threshold: float
    max_iterations: int
    confidence: float
    seed: int


def fit_of(model: ModelName, transform: Float64 | None, points: MatchedPoints, threshold: float) -> Fit | None:
    """Return the fit of a transform that an estimator has found.

    Planar transforms count only where a camera could have done what they do.

    Parameters
    ----------
    model : "affine", "homography" or "fundamental"
    transform : (3, 3) float64 or None
        None, zeros and NaN are an estimator's signs of failure.
    points : MatchedPoints
    threshold : float
        Largest residual of an inlier, in pixels.
    """
    if transform is None or not np.isfinite(transform).all() or not transform.any():
        return None
    if model == "affine":
        return _affine_fit(transform, points, threshold)
    if model == "fundamental":
        residuals = fundamental_residuals(transform, points.a, points.b)
        return Fit(transform, residuals <= threshold, residuals)
    residuals = planar_residuals(transform, points.a, points.b)
    close = residuals <= threshold
    # A homography has no sign: turn it so that most of its inliers lie on the near side of the horizon.
    depths = points.a[close] @ transform[2, :2] + transform[2, 2]
    H = transform if (depths > 0).sum() >= (depths < 0).sum() else -transform
    return Fit(H, close & plausible(H, points.a), residuals)


def fundamental_of_plane(plane: Fit | None, points: MatchedPoints, threshold: float) -> Fit | None:
    """Return one of the matrices [e]x H, which all fit the matches of a plane; only these count."""
    if plane is None:
        return None
    F = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ plane.transform
    fit = fit_of("fundamental", F, points, threshold)
    return None if fit is None else Fit(fit.transform, fit.inliers & plane.inliers, fit.residuals)


def _affine_fit(A: Float64, points: MatchedPoints, threshold: float) -> Fit | None:
    from delf_engine.verification.kernels import plausible_affine, squared_residuals

    if not plausible_affine(A[:2], MAX_ZOOM, MAX_STRETCH):
        return None
    residuals = np.empty(len(points.a))
    squared_residuals(A[:2], points.a, points.b, residuals)
    residuals = np.where(np.isfinite(residuals), np.sqrt(np.maximum(residuals, 0)), np.inf)
    return Fit(A, residuals <= threshold, residuals)
