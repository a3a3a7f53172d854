"""`verify_features`: from the features of two images to the answer."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from delf_engine.config import Profile, VerificationConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.verification.geometry import pixel_frame
from delf_engine.verification.matching import match_pair
from delf_engine.verification.models import ModelName, estimate
from delf_engine.verification.result import Verification, similarity_sum

__all__ = ["verify_features"]

Float64 = npt.NDArray[np.float64]


def verify_features(
    a: LocalFeatures,
    b: LocalFeatures,
    *,
    config: VerificationConfig | None = None,
    exponent: float | None = None,
    seed: int = 0,
) -> Verification:
    """Decide whether two images show the same place, from their local features.

    Descriptors are matched exactly, a geometric model is fitted to the matches by RANSAC, and the matches that
    agree with it are counted. With a `reference_size`, images larger than that are treated as if shrunk to it:
    the residual counts in those pixels, while the transform is one of the original pixels.

    Parameters
    ----------
    a, b : LocalFeatures
        Of the two images. Their order matters little to the count and fixes the transform's direction.
    config : VerificationConfig or None
        None takes that of the default profile.
    exponent : float or None
        Of the similarities that the answer sums up, above 0; None takes that of the default profile.
    seed : int
        Of the sampling, 0 to 2^31 - 1. The same features, config and seed give the same bits, in any thread.

    Returns
    -------
    Verification
        0 inliers and no transform if there are no features, too few matches, or no model; the similarity counts
        all the same.

    Raises
    ------
    MismatchError
        If the descriptors have different dimensions.
    ConfigError
        If the seed or the exponent is out of range.
    """
    config = _default_profile().verification if config is None else config
    exponent = _default_profile().ranking.exponent if exponent is None else exponent
    if not 0 < exponent < math.inf:
        raise ConfigError(f"exponent must be positive and finite, got {exponent}")
    matches, mutual_similarities = match_pair(
        a.descriptors, b.descriptors, mutual=config.mutual, ratio=config.ratio, max_distance=config.max_distance
    )
    rows_a, rows_b = matches.pairs.T
    frame_a = pixel_frame(a.image_size, config.reference_size)
    frame_b = pixel_frame(b.image_size, config.reference_size)
    fit = estimate(
        config.model,
        _framed(a.keypoints[rows_a], frame_a),
        _framed(b.keypoints[rows_b], frame_b),
        threshold=config.residual_px,
        max_iterations=config.max_iterations,
        confidence=config.confidence,
        seed=seed,
    )
    inliers = np.zeros(len(matches.pairs), bool) if fit is None else fit.inliers
    return Verification(
        model=config.model,
        transform=None if fit is None else _in_pixels(config.model, fit.transform, frame_a, frame_b),
        matches=matches.pairs[inliers],
        similarities=matches.similarities[inliers],
        putative=len(matches.pairs),
        residual_px=config.residual_px,
        reference_size=config.reference_size,
        min_inliers=config.min_inliers,
        similarity=similarity_sum(mutual_similarities, exponent),
        exponent=float(exponent),
    )


@lru_cache(maxsize=1)
def _default_profile() -> Profile:
    return load_profile("default")


def _framed(points: npt.NDArray[np.float32], frame: Float64) -> Float64:
    return points.astype(np.float64) * frame[0, 0] + frame[:2, 2]


def _in_pixels(model: ModelName, transform: Float64, frame_a: Float64, frame_b: Float64) -> Float64:
    """Carry a transform between the shrunk images over to the original ones, at its customary scale."""
    if model == "fundamental":
        F = frame_b.T @ transform @ frame_a
        F /= np.linalg.norm(F)
        return np.asarray(F if F.flat[np.abs(F).argmax()] > 0 else -F)
    H = np.linalg.inv(frame_b) @ transform @ frame_a
    size = np.linalg.norm(H)
    return np.asarray(H / (H[2, 2] if abs(H[2, 2]) > 1e-12 * size else size))
