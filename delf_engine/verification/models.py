"""The geometric models, each a small adapter over its estimator: points in, a `Fit` or None out.

An estimator's own mask is never taken at its word. Its transform is checked and the inliers are counted again
with the residual this package states, so the count means the same for every model and library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.verification.affine import ransac_affine
from delf_engine.verification.geometry import fundamental_residuals, is_degenerate, planar_residuals, plausible

__all__ = ["MINIMUM_MATCHES", "Fit", "ModelName", "estimate"]

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ModelName: TypeAlias = Literal["affine", "homography", "fundamental"]

#: Fewer different matches are no evidence: one match more than fixes the model, which would fit any junk.
MINIMUM_MATCHES: dict[ModelName, int] = {"affine": 4, "homography": 5, "fundamental": 8}

_MAX_SEED = 2**31 - 1  # pydegensac's is a C int, and negative means "unseeded"


@dataclass(frozen=True)
class Fit:
    """A transform and the matches that agree with it.

    Attributes
    ----------
    transform : (3, 3) float64
        From points of A to points of B; for ``fundamental`` x_B^T F x_A = 0.
    inliers : (N,) bool
    """

    transform: Float64
    inliers: Mask


@dataclass(frozen=True)
class _Options:
    threshold: float
    max_iterations: int
    confidence: float
    seed: int


def estimate(
    model: ModelName,
    a: Float64,
    b: Float64,
    *,
    threshold: float,
    max_iterations: int,
    confidence: float,
    seed: int,
) -> Fit | None:
    """Fit a geometric model to tentative matches by RANSAC.

    The same input and seed give the same bits, in any thread or process of one machine. One exception is
    pydegensac's: the degeneracy check of ``fundamental`` draws from C's `rand`, so native code that calls it in
    another thread at the same moment (FLANN building its trees) can change which model is found.

    Parameters
    ----------
    model : "affine", "homography" or "fundamental"
    a, b : (N, 2) float64
        Matched points of image A and image B, x, y in pixels.
    threshold : float
        Largest residual of an inlier: Sampson distance in pixels.
    max_iterations : int
        RANSAC samples at most.
    confidence : float
        RANSAC stops once a better model is this unlikely to have been missed.
    seed : int
        0 to 2^31 - 1.

    Returns
    -------
    Fit or None
        None if there is no model: too few different matches (`MINIMUM_MATCHES`), all on a line, or nothing a
        camera could have done.

    Raises
    ------
    ConfigError
        If there is no such model, or the seed is out of range.
    """
    if model not in _ADAPTERS:
        raise ConfigError(f"there is no geometric model {model!r}; known: {', '.join(_ADAPTERS)}")
    if not 0 <= seed <= _MAX_SEED:
        raise ConfigError(f"seed must be from 0 to {_MAX_SEED}, got {seed}")
    minimum = MINIMUM_MATCHES[model]
    if is_degenerate(a, b, minimum=minimum):
        return None
    fit = _ADAPTERS[model](a, b, _Options(threshold, max_iterations, confidence, int(seed)))
    if fit is None or is_degenerate(a[fit.inliers], b[fit.inliers], minimum=minimum):
        return None
    return fit


def _affine(a: Float64, b: Float64, options: _Options) -> Fit | None:
    transform = ransac_affine(
        a,
        b,
        threshold=options.threshold,
        max_iterations=options.max_iterations,
        confidence=options.confidence,
        seed=options.seed,
    )
    return None if transform is None else Fit(transform, planar_residuals(transform, a, b) <= options.threshold)


def _homography(a: Float64, b: Float64, options: _Options) -> Fit | None:
    import pydegensac

    try:
        H, _ = pydegensac.findHomography(
            a, b, options.threshold, options.confidence, options.max_iterations, seed=options.seed
        )
    except np.linalg.LinAlgError:  # it inverts what it found, singular or not
        return None
    if not _is_model(H):
        return None
    close = planar_residuals(H, a, b) <= options.threshold
    # A homography has no sign: turn it so that most of its inliers lie on the near side of the horizon.
    depths = a[close] @ H[2, :2] + H[2, 2]
    H = H if (depths > 0).sum() >= (depths < 0).sum() else -H
    return Fit(H, close & plausible(H, a))


def _fundamental(a: Float64, b: Float64, options: _Options) -> Fit | None:
    import pydegensac

    F, _ = pydegensac.findFundamentalMatrix(
        a, b, options.threshold, options.confidence, options.max_iterations, seed=options.seed
    )
    if _is_model(F):
        return Fit(F, fundamental_residuals(F, a, b) <= options.threshold)
    # It finds nothing where matches lie on one plane or the camera only turned, as with identical photographs:
    # then every [e]x H fits. Return one of them, and count what fits the plane too.
    plane = _homography(a, b, options)
    if plane is None:
        return None
    F = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ plane.transform
    return Fit(F, plane.inliers & (fundamental_residuals(F, a, b) <= options.threshold))


def _is_model(matrix: Float64) -> bool:
    """Tell a found transform from the estimator's sign of failure, all zeros, and from NaN."""
    return bool(np.isfinite(matrix).all() and np.abs(matrix).max() > 0)


_ADAPTERS: dict[str, Callable[[Float64, Float64, _Options], Fit | None]] = {
    "affine": _affine,
    "homography": _homography,
    "fundamental": _fundamental,
}
