"""Homographies and fundamental matrices by pydegensac (Chum, Werner and Matas, CVPR 2005; Mishkin et al.)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.verification.fits import EstimatorOptions, MatchedPoints

__all__ = ["degensac_fundamental", "degensac_homography"]

Float64 = npt.NDArray[np.float64]


def degensac_homography(points: MatchedPoints, options: EstimatorOptions) -> Float64 | None:
    """Return a homography, (3, 3), or None. It holds Python's interpreter lock."""
    import pydegensac

    try:
        H, _ = pydegensac.findHomography(
            points.a, points.b, options.threshold, options.confidence, options.max_iterations, seed=options.seed
        )
    except np.linalg.LinAlgError:  # it inverts what it found, singular or not
        return None
    return np.asarray(H)


def degensac_fundamental(points: MatchedPoints, options: EstimatorOptions) -> Float64 | None:
    """Return a fundamental matrix, (3, 3), or zeros. It holds Python's interpreter lock."""
    import pydegensac

    F, _ = pydegensac.findFundamentalMatrix(
        points.a, points.b, options.threshold, options.confidence, options.max_iterations, seed=options.seed
    )
    return np.asarray(F)
