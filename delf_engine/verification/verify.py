"""`verify_features`: from the features of two images to the answer."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.config import Profile, VerificationConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.matching import Matches, PreparedDescriptors, match_prepared
from delf_engine.verification.fits import Fit, ModelName
from delf_engine.verification.geometry import occupied_bins, pixel_frame
from delf_engine.verification.models import estimate
from delf_engine.verification.result import Verification, similarity_sum

if TYPE_CHECKING:
    from delf_engine.verification.calibration import Calibration

__all__ = ["PairVerifier", "verify_features"]

Float64 = npt.NDArray[np.float64]
Frame = tuple[float, float]


def verify_features(
    a: LocalFeatures,
    b: LocalFeatures,
    *,
    config: VerificationConfig | None = None,
    exponent: float | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> Verification:
    """Decide whether two images show the same place, from their local features.

    Descriptors are matched exactly, a geometric model is fitted to the matches, and the matches that agree with it
    are counted. With a `reference_size`, images larger than that are treated as if shrunk to it: the residual
    counts in those pixels, while the transform is one of the original pixels.

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
    calibration : Calibration or None
        Gives the answer its probability; one that was fitted for these options.

    Returns
    -------
    Verification
        0 inliers and no transform if there are no features, too few matches, or no model; the similarity counts
        all the same.

    Raises
    ------
    MismatchError
        If the descriptors have different dimensions, or the calibration was fitted for other options.
    ConfigError
        If the seed, the exponent or the config's residual is out of range, or there is no such estimator of the
        model.
    """
    found = PairVerifier(a, config=config, exponent=exponent, seed=seed)(b)
    return found if calibration is None else replace(found, probability=calibration.probability(found))


class PairVerifier:
    """One image, ready to be verified with many others.

    Parameters
    ----------
    a : LocalFeatures
        Of image A, of every pair the first.
    config, exponent, seed
        As in `verify_features`, which gives the same answers.
    """

    def __init__(
        self,
        a: LocalFeatures,
        *,
        config: VerificationConfig | None = None,
        exponent: float | None = None,
        seed: int = 0,
    ) -> None:
        self._config = _default_profile().verification if config is None else config
        self._exponent = float(_default_profile().ranking.exponent if exponent is None else exponent)
        if not 0 < self._exponent < math.inf:
            raise ConfigError(f"exponent must be positive and finite, got {exponent}")
        self._seed = seed
        self._features = a
        self._prepared = PreparedDescriptors(a.descriptors, "A", self._config.precision)

    def __call__(self, b: LocalFeatures) -> Verification:
        """Return the verification of A and an image B."""
        config = self._config
        matched = match_prepared(
            self._prepared,
            PreparedDescriptors(b.descriptors, "B", config.precision),
            mutual=config.mutual,
            ratio=config.ratio,
            max_distance=config.max_distance,
        )
        frames = _frame(self._features, config), _frame(b, config)
        rows_a, rows_b = matched.pairs.T
        points = (
            _framed(self._features.keypoints[rows_a], frames[0]),
            _framed(b.keypoints[rows_b], frames[1]),
        )
        fit = estimate(
            config.model,
            *points,
            threshold=config.residual_px,
            max_iterations=config.max_iterations,
            confidence=config.confidence,
            seed=self._seed,
            estimator=config.estimator,
            scales=(
                # In float64: the smallest of float32 must not become zero.
                self._features.scales[rows_a].astype(np.float64) * frames[0][0],
                b.scales[rows_b].astype(np.float64) * frames[1][0],
            ),
            similarities=matched.similarities,
        )
        return self._answer(matched, points, frames, fit)

    def _answer(
        self, matched: Matches, points: tuple[Float64, Float64], frames: tuple[Frame, Frame], fit: Fit | None
    ) -> Verification:
        config = self._config
        inliers = np.zeros(len(points[0]), bool) if fit is None else fit.inliers
        transform = None if fit is None else _in_pixels(config.model, fit.transform, *frames)
        return Verification(
            model=config.model,
            estimator=config.estimator,
            transform=transform,
            matches=matched.pairs[inliers],
            similarities=matched.similarities[inliers],
            effective_inliers=min(occupied_bins(side[inliers], config.residual_px) for side in points),
            error_px=None if fit is None else float(np.sqrt(np.mean(fit.residuals[inliers] ** 2))),
            putative=len(points[0]),
            residual_px=config.residual_px,
            reference_size=config.reference_size,
            min_inliers=config.min_inliers,
            similarity=similarity_sum(matched.mutual_similarities, self._exponent),
            exponent=self._exponent,
        )


@lru_cache(maxsize=1)
def _default_profile() -> Profile:
    return load_profile("default")


def _frame(features: LocalFeatures, config: VerificationConfig) -> Frame:
    """Return factor and shift from pixels of an image to those that the residual counts in."""
    frame = pixel_frame(features.image_size, config.reference_size)
    return float(frame[0, 0]), float(frame[0, 2])


def _matrix(frame: Frame) -> Float64:
    return np.array([[frame[0], 0, frame[1]], [0, frame[0], frame[1]], [0, 0, 1]])


def _framed(points: npt.NDArray[np.float32], frame: Frame) -> Float64:
    return points.astype(np.float64) * frame[0] + frame[1]


def _in_pixels(model: ModelName, transform: Float64, frame_a: Frame, frame_b: Frame) -> Float64:
    """Carry a transform between the shrunk images over to the original ones, at its customary scale."""
    if model == "fundamental":
        F = _matrix(frame_b).T @ transform @ _matrix(frame_a)
        F /= np.linalg.norm(F)
        return np.asarray(F if F.flat[np.abs(F).argmax()] > 0 else -F)
    inverse = (1 / frame_b[0], -frame_b[1] / frame_b[0])
    H = _matrix(inverse) @ transform @ _matrix(frame_a)
    size = np.abs(H).max()
    return np.asarray(H / (H[2, 2] if abs(H[2, 2]) > 1e-12 * size else size))
