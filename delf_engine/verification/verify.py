"""`verify_features`: from the features of two images to the answer."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delf_engine.config import FineConfig, Profile, VerificationConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.matching import PreparedDescriptors, match_prepared
from delf_engine.verification.fine import fine_evidence
from delf_engine.verification.fits import Fit, ModelName
from delf_engine.verification.geometry import occupied_bins, pixel_frame
from delf_engine.verification.models import estimate
from delf_engine.verification.overlays import overlay_matches
from delf_engine.verification.result import Verification, similarity_sum

if TYPE_CHECKING:
    from delf_engine.verification.calibration import Calibration

__all__ = ["PairVerifier", "confirmed", "verify_features"]

Float64 = npt.NDArray[np.float64]


def verify_features(
    a: LocalFeatures,
    b: LocalFeatures,
    *,
    config: VerificationConfig | None = None,
    exponent: float | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
    fine: tuple[LocalFeatures, LocalFeatures] | None = None,
    fine_config: FineConfig | None = None,
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
    fine : (LocalFeatures, LocalFeatures) or None
        Fine features of A and of B, for the fine evidence (`confirmed`).
    fine_config : FineConfig or None
        None takes that of the default profile.

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
        If the seed, the exponent or the config's residual is out of range, or there is no such estimator.
    """
    found = PairVerifier(a, config=config, exponent=exponent, seed=seed)(b)
    if fine is not None:
        found = confirmed(found, *fine, config=fine_config, seed=seed)
    return found if calibration is None else calibration.judged(found)


def confirmed(
    found: Verification,
    a: LocalFeatures,
    b: LocalFeatures,
    *,
    config: FineConfig | None = None,
    seed: int = 0,
) -> Verification:
    """Return a verification with the evidence of fine features, and with their transform where they have one.

    Its probability, which held without them, is taken away. Parameters as for `fine_evidence`.
    """
    evidence = fine_evidence(a, b, config=config, seed=seed)
    transform = found.transform if evidence.transform is None or found.model == "fundamental" else evidence.transform
    return replace(found, fine=evidence, transform=transform, probability=None, accept=None)


class PairVerifier:
    """One image, of every pair the first, ready to be verified with many others.

    Takes what `verify_features` takes, which gives the same answers.
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
        frames = [pixel_frame(image.image_size, config.reference_size) for image in (self._features, b)]
        sides = list(zip((self._features, b), matched.pairs.T, frames, strict=True))
        # In float64: the smallest scale of float32 must not become zero.
        first, second = (
            f.keypoints[rows].astype(np.float64) * frame[0, 0] + frame[0, 2] for f, rows, frame in sides
        )
        scales, other_scales = (f.scales[rows].astype(np.float64) * frame[0, 0] for f, rows, frame in sides)
        kept = np.ones(len(first), bool)

        def fitted() -> Fit | None:
            return estimate(
                config.model,
                first[kept],
                second[kept],
                threshold=config.residual_px,
                max_iterations=config.max_iterations,
                confidence=config.confidence,
                seed=self._seed,
                estimator=config.estimator,
                scales=(scales[kept], other_scales[kept]),
                similarities=matched.similarities[kept],
            )

        fit = fitted()
        overlay = None if fit is None else overlay_matches(self._features, b, matched.pairs, fit.inliers)
        if overlay is not None:
            kept = ~overlay
            fit = fitted()
        inliers = np.zeros(len(first), bool)
        if fit is not None:
            inliers[kept] = fit.inliers
        return Verification(
            model=config.model,
            estimator=config.estimator,
            transform=None if fit is None else _in_pixels(config.model, fit.transform, *frames),
            matches=matched.pairs[inliers],
            similarities=matched.similarities[inliers],
            effective_inliers=min(occupied_bins(side[inliers], config.residual_px) for side in (first, second)),
            error_px=None if fit is None else float(np.sqrt(np.mean(fit.residuals[fit.inliers] ** 2))),
            putative=int(kept.sum()),
            overlay=int((~kept).sum()),
            residual_px=config.residual_px,
            reference_size=config.reference_size,
            min_inliers=config.min_inliers,
            similarity=similarity_sum(matched.mutual_similarities, self._exponent),
            exponent=self._exponent,
        )


@lru_cache(maxsize=1)
def _default_profile() -> Profile:
    return load_profile("default")


def _in_pixels(model: ModelName, transform: Float64, frame_a: Float64, frame_b: Float64) -> Float64:
    """Carry a transform between the shrunk images over to the original ones, at its customary scale."""
    if model == "fundamental":
        F = frame_b.T @ transform @ frame_a
        F /= np.linalg.norm(F)
        return np.asarray(F if F.flat[np.abs(F).argmax()] > 0 else -F)
    s, shift = 1 / frame_b[0, 0], -frame_b[0, 2] / frame_b[0, 0]
    H = np.array([[s, 0, shift], [0, s, shift], [0, 0, 1]]) @ transform @ frame_a
    size = np.abs(H).max()
    return np.asarray(H / (H[2, 2] if abs(H[2, 2]) > 1e-12 * size else size))
