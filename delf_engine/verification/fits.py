"""What estimators take and give, and how a transform that one has found becomes a `Fit` with inliers of ours."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.verification.geometry import (
    MAX_STRETCH,
    MAX_ZOOM,
    fundamental_residuals,
    planar_residuals,
    plausible,
)

Float64 = npt.NDArray[np.float64]
ModelName: TypeAlias = Literal["affine", "homography", "fundamental"]
EstimatorName: TypeAlias = Literal["ransac", "exhaustive", "magsac", "accurate", "prosac"]


class Fit(NamedTuple):
    """A transform and the matches that agree with it."""

    transform: Float64  # (3, 3) float64: from points of A to points of B; for ``fundamental`` x_B^T F x_A = 0
    inliers: npt.NDArray[np.bool_]  # (N,) bool
    residuals: Float64  # (N,) float64: Sampson distances in pixels; infinite where they are not defined


class MatchedPoints(NamedTuple):
    """Tentative matches, (N, 2) float64 in pixels each, their features' scales, (N,), and similarities, (N,)."""

    a: Float64
    b: Float64
    scales: tuple[Float64, Float64]
    similarities: Float64


class EstimatorOptions(NamedTuple):
    """Those of `models.estimate`."""

    threshold: float
    max_iterations: int
    confidence: float
    seed: int


def fit_of(model: ModelName, transform: Float64 | None, a: Float64, b: Float64, threshold: float) -> Fit | None:
    """Return the fit of a transform, (3, 3), that an estimator has found for matches a, b, (N, 2) C-contiguous.

    None, zeros and NaN are an estimator's signs of failure. Planar transforms count only where a camera could have
    done what they do. `threshold` is the largest residual of an inlier, in pixels.
    """
    if transform is None or not np.isfinite(transform).all() or not transform.any():
        return None
    if model == "affine":
        from delf_engine.verification.kernels import plausible_affine, squared_residuals

        if not plausible_affine(transform[:2], MAX_ZOOM, MAX_STRETCH):
            return None
        squares = np.empty(len(a))
        squared_residuals(transform[:2], a, b, squares)
        residuals = np.where(np.isfinite(squares), np.sqrt(np.maximum(squares, 0)), np.inf)
        return Fit(transform, residuals <= threshold, residuals)
    if model == "fundamental":
        residuals = fundamental_residuals(transform, a, b)
        return Fit(transform, residuals <= threshold, residuals)
    residuals = planar_residuals(transform, a, b)
    close = residuals <= threshold
    # A homography has no sign: turn it so that most of its inliers lie on the near side of the horizon.
    depths = a[close] @ transform[2, :2] + transform[2, 2]
    H = transform if (depths > 0).sum() >= (depths < 0).sum() else -transform
    return Fit(H, close & plausible(H, a), residuals)


def fundamental_of_plane(plane: Fit | None, a: Float64, b: Float64, threshold: float) -> Fit | None:
    """Return one of the matrices [e]x H, which all fit the matches of a plane; only these count."""
    if plane is None:
        return None
    F = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ plane.transform
    fit = fit_of("fundamental", F, a, b, threshold)
    return None if fit is None else Fit(fit.transform, fit.inliers & plane.inliers, fit.residuals)
