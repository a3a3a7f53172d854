"""Estimators of libraries: pydegensac, and OpenCV's USAC framework.

DEGENSAC (Chum, Werner and Matas, CVPR 2005; Mishkin et al.) fits homographies and fundamental matrices; USAC
(Raguram et al., PAMI 2013) all models, by MAGSAC++, graph-cut RANSAC or PROSAC.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.verification.fits import EstimatorName, EstimatorOptions, MatchedPoints, ModelName

Float64 = npt.NDArray[np.float64]

_TIMES = 9  # that a fundamental matrix is sought, at most


def degensac_transform(model: ModelName, points: MatchedPoints, options: EstimatorOptions) -> Float64 | None:
    """Return a homography or None, or a fundamental matrix or zeros, (3, 3). It holds the interpreter lock."""
    import pydegensac

    find = pydegensac.findHomography if model == "homography" else pydegensac.findFundamentalMatrix
    arguments = options.threshold, options.confidence, options.max_iterations
    before = None
    for _ in range(_TIMES):
        try:
            found = np.asarray(find(points.a, points.b, *arguments, seed=options.seed)[0])
        except np.linalg.LinAlgError:  # it inverts a homography that it found, singular or not
            return None
        # Ray's threads draw from C's `rand`, too, now and then: what comes twice in a row is right.
        if model == "homography" or "ray" not in sys.modules or found.tobytes() == before:
            break
        before = found.tobytes()
    return found


def usac_transform(
    method: EstimatorName, model: ModelName, points: MatchedPoints, options: EstimatorOptions
) -> Float64 | None:
    """Return what USAC finds, (3, 3), or None.

    Its own threshold is one of the transfer error in one image; the inliers are counted again by the caller.
    """
    import cv2

    order = np.arange(len(points.a))
    if method == "prosac":  # which draws from the best first
        order = np.argsort(-points.similarities, kind="stable")
    a, b = points.a[order], points.b[order]
    params = _params(cv2, method, options)
    try:
        if model == "affine":
            found, _ = cv2.estimateAffine2D(a, b, params)
        elif model == "homography":
            found, _ = cv2.findHomography(a, b, params)
        else:
            found, _ = cv2.findFundamentalMat(a, b, params)
    except cv2.error:  # degenerate matches
        return None
    if found is None or np.shape(found) not in ((2, 3), (3, 3)):
        return None
    out = np.eye(3)
    out[: len(found)] = found
    return out


def _params(cv2: Any, method: EstimatorName, options: EstimatorOptions) -> Any:
    """Return what OpenCV's own presets of the same name set, with a seed and one thread."""
    params = cv2.UsacParams()
    params.threshold, params.confidence = options.threshold, options.confidence
    params.maxIterations, params.randomGeneratorState = options.max_iterations, options.seed
    params.isParallel = False
    params.sampler = cv2.SAMPLING_PROSAC if method == "prosac" else cv2.SAMPLING_UNIFORM
    params.score, params.loMethod = cv2.SCORE_METHOD_MSAC, cv2.LOCAL_OPTIM_INNER_AND_ITER_LO
    params.neighborsSearch = cv2.NEIGH_GRID
    params.final_polisher, params.final_polisher_iterations = cv2.LSQ_POLISHER, 3
    params.loIterations, params.loSampleSize = 10, 14
    if method == "magsac":
        params.score, params.loMethod = cv2.SCORE_METHOD_MAGSAC, cv2.LOCAL_OPTIM_SIGMA
        params.final_polisher = cv2.MAGSAC
    elif method == "accurate":
        params.loMethod, params.loSampleSize = cv2.LOCAL_OPTIM_GC, 15
    return params
