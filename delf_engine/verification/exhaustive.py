"""The exhaustive affine verifier: every match is a hypothesis, nothing is drawn at random.

A feature has a scale and photographs stand upright, so one match fixes a zoom and a shift (Philbin et al., Object
Retrieval with Large Vocabularies and Fast Spatial Matching, CVPR 2007). All matches are tried as such hypotheses
against all others, in time N^2; the best are refined to affine maps by least squares on their inliers, with a
limit that shrinks to the threshold (local optimisation: Chum, Matas and Kittler, 2003). Hypotheses whose match a
refined map already explains are left out.

The constants were written down before they were measured; on Sub-RParis others near them do as well.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.verification.geometry import MAX_STRETCH, MAX_ZOOM

__all__ = ["exhaustive_affine"]

Float64 = npt.NDArray[np.float64]

#: A hypothesis may be off by twice the threshold, and by a tenth of the distance from its match.
_SLACK, _GROWTH = 2.0, 0.1
#: Hypotheses that are refined, and by what the threshold is multiplied in each round.
_TRIES, _ROUNDS = 8, np.array([2.0, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0, 1.0])


def exhaustive_affine(
    a: Float64, b: Float64, scales_a: npt.ArrayLike, scales_b: npt.ArrayLike, *, threshold: float
) -> Float64 | None:
    """Return the affine map from A to B that matches agree with.

    Parameters
    ----------
    a, b : (N, 2) float64
        Matched points.
    scales_a, scales_b : (N,) float
        Scales of the matched features, in the same unit as the points: their ratio is the zoom of a hypothesis.
    threshold : float
        Largest residual of an inlier, in pixels (Sampson distance, which is exact here), 1e-9 to 1e9.

    Returns
    -------
    (3, 3) float64 or None
        None if no hypothesis leads to a plausible map. The same bits for the same matches in the same order, on
        one kind of processor.
    """
    from delf_engine.verification.exhaustive_kernels import search_affine

    zooms = np.asarray(scales_b, np.float64) / np.asarray(scales_a, np.float64)
    zooms = np.clip(zooms, 1 / MAX_ZOOM, MAX_ZOOM).astype(np.float32)
    out = np.zeros((3, 3))
    out[2, 2] = 1
    threshold = float(threshold)  # an integer would compile the kernels again
    reach, growth = np.float32((_SLACK * threshold) ** 2), np.float32(_GROWTH**2)
    bounds = (MAX_ZOOM, MAX_STRETCH)
    score = search_affine(a, b, zooms, threshold**2, reach, growth, _TRIES, _ROUNDS**2, bounds, out[:2])
    return out if score > 0 and np.isfinite(out).all() else None
