"""The geometric models and what fits them: matched points in, a `Fit` or None out.

An estimator's own mask is never taken at its word. Its transform is checked and the inliers are counted again
with the residual this package states, so the count means the same for every model, estimator and library.

================  ==========  ===========  ===========  =====================================================
estimator         affine      homography   fundamental  what it is
================  ==========  ===========  ===========  =====================================================
``ransac``        own         pydegensac   pydegensac   LO-RANSAC (scikit-image's sampling), DEGENSAC
``exhaustive``    own                                   every match a hypothesis, nothing at random
``magsac``        OpenCV      OpenCV       OpenCV       USAC with MAGSAC++ (Barath et al., CVPR 2020)
``accurate``      OpenCV      OpenCV       OpenCV       USAC with graph-cut local optimisation
``prosac``        OpenCV      OpenCV       OpenCV       USAC that draws from the most similar matches first
================  ==========  ===========  ===========  =====================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.verification.affine import exhaustive_affine, ransac_affine
from delf_engine.verification.fits import (
    EstimatorName,
    EstimatorOptions,
    Fit,
    MatchedPoints,
    ModelName,
    fit_of,
    fundamental_of_plane,
)
from delf_engine.verification.geometry import is_degenerate
from delf_engine.verification.libraries import degensac_transform, usac_transform

Float64 = npt.NDArray[np.float64]
#: Returns the transform of a model, (3, 3); None, zeros or NaN if it finds none.
Solver: TypeAlias = Callable[[ModelName, MatchedPoints, EstimatorOptions], "Float64 | None"]

#: Fewer different matches are no evidence: one match more than fixes the model, which would fit any junk.
MINIMUM_MATCHES: dict[ModelName, int] = {"affine": 4, "homography": 5, "fundamental": 8}

_MAX_SEED = 2**31 - 1  # that of a C int; pydegensac takes negative ones for "unseeded"
_THRESHOLDS = 1e-9, 1e9  # estimators square them, some in single precision


def estimate(
    model: ModelName,
    a: Float64,
    b: Float64,
    *,
    threshold: float,
    max_iterations: int,
    confidence: float,
    seed: int,
    estimator: EstimatorName = "ransac",
    scales: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    similarities: npt.ArrayLike | None = None,
) -> Fit | None:
    """Fit a geometric model to tentative matches.

    The same input and seed give the same bits, in any thread or process of one machine. One exception is
    pydegensac's: the degeneracy check of ``fundamental`` draws from C's `rand`, so native code that calls it in
    another thread at the same moment (FLANN building its trees; Ray's is allowed for) can change which model is
    found. A `ConfigError`
    if there is no such model, or no such estimator of it, or the threshold or the seed is out of range.

    Parameters
    ----------
    model : "affine", "homography" or "fundamental"
    a, b : (N, 2) float64
        Matched points of image A and image B, x, y in pixels.
    threshold : float
        Largest residual of an inlier: Sampson distance in pixels, 1e-9 to 1e9.
    max_iterations : int
        Samples at most; ``exhaustive`` draws none.
    confidence : float
        Sampling stops once a better model is this unlikely to have been missed.
    seed : int
        0 to 2^31 - 1.
    estimator : str
        One of those in the table of this module.
    scales : (N,) float, (N,) float, or None
        Of the matched features of A and B, in the unit of the points; None: all alike. For ``exhaustive``.
    similarities : (N,) float or None
        Of the matches; None: all alike. For ``prosac``.

    Returns
    -------
    Fit or None
        None if there is no model: too few different matches (`MINIMUM_MATCHES`), all on a line, or nothing a
        camera could have done.
    """
    solve = ESTIMATORS.get((model, estimator))
    if solve is None:
        models = sorted({name for name, _ in ESTIMATORS})
        if model not in models:
            raise ConfigError(f"there is no geometric model {model!r}; known: {', '.join(models)}")
        raise ConfigError(f"there is no estimator {estimator!r} of {model!r}; known: {', '.join(known(model))}")
    if not 0 <= seed <= _MAX_SEED:
        raise ConfigError(f"seed must be from 0 to {_MAX_SEED}, got {seed}")
    if not _THRESHOLDS[0] <= threshold <= _THRESHOLDS[1]:  # true for NaN, too
        raise ConfigError(
            f"threshold must be from {_THRESHOLDS[0]:g} to {_THRESHOLDS[1]:g} pixels, got {threshold}"
        )
    minimum = MINIMUM_MATCHES[model]
    if is_degenerate(a, b, minimum=minimum):  # estimators must not see such matches
        return None
    a, b = np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)
    ones = np.ones(len(a))
    sizes = (ones, ones) if scales is None else (np.asarray(scales[0]), np.asarray(scales[1]))
    points = MatchedPoints(a, b, sizes, ones if similarities is None else np.asarray(similarities))
    options = EstimatorOptions(threshold, max_iterations, confidence, int(seed))
    fit = fit_of(model, solve(model, points, options), a, b, threshold)
    if fit is None and model == "fundamental":
        # Nothing is found where matches lie on one plane or the camera only turned, as with identical photographs.
        plane = fit_of("homography", solve("homography", points, options), a, b, threshold)
        fit = fundamental_of_plane(plane, a, b, threshold)
    if fit is None or is_degenerate(a[fit.inliers], b[fit.inliers], minimum=minimum):
        return None
    return fit


def known(model: str) -> list[str]:
    """Return the names of a model's estimators."""
    return [estimator for name, estimator in ESTIMATORS if name == model]


_USAC: tuple[EstimatorName, ...] = ("magsac", "accurate", "prosac")

#: What solves for the transform, by model and estimator.
ESTIMATORS: dict[tuple[str, str], Solver] = {
    ("affine", "ransac"): lambda _, points, options: ransac_affine(points.a, points.b, **options._asdict()),
    ("affine", "exhaustive"): lambda _, points, options: exhaustive_affine(
        points.a, points.b, *points.scales, threshold=options.threshold
    ),
    ("homography", "ransac"): degensac_transform,
    ("fundamental", "ransac"): degensac_transform,
    **{(model, method): partial(usac_transform, method) for model in MINIMUM_MATCHES for method in _USAC},
}
