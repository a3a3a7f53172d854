"""`verify_features`: from the features of two images to the answer."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.config import FineConfig, Profile, VerificationConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.matching import PreparedDescriptors, match_prepared
from delf_engine.verification.fine import FineEvidence, fine_evidence
from delf_engine.verification.fits import Fit, ModelName
from delf_engine.verification.geometry import at_customary_scale, occupied_bins, pixel_frame, turned_round
from delf_engine.verification.models import estimate
from delf_engine.verification.order import goes_first
from delf_engine.verification.overlays import overlay_matches
from delf_engine.verification.result import Verification, similarity_sum

if TYPE_CHECKING:
    from delf_engine.verification.calibration import Calibration

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
        Of the two images. The transform leads from A to B; all else is the same for B and A, to the bit, but for
        ``mutual=False``, where each feature of A has a match in B.
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

    Its probability, which held without them, is taken away: let a `Calibration` judge it again.

    Parameters
    ----------
    found : Verification
        Of A and B.
    a, b : LocalFeatures
        Fine features of A and of B.
    config : FineConfig or None
        None takes that of the default profile.
    seed : int
        Seed of RANSAC.
    """
    return with_evidence(found, fine_evidence(a, b, config=config, seed=seed))


def with_evidence(found: Verification, evidence: FineEvidence | None) -> Verification:
    """Return a verification with fine evidence that was gathered before, if there is any; see `confirmed`."""
    if evidence is None:
        return found
    transform = (
        found.transform if evidence.transform is None or found.model == "fundamental" else evidence.transform
    )
    return replace(found, fine=evidence, transform=transform, probability=None, accept=None)


class PairVerifier:
    """One image, of every pair the first, ready to be verified with many others.

    Calling it with the features of another image gives what `verify_features` gives.

    Parameters
    ----------
    a : LocalFeatures
    config : VerificationConfig or None
        None takes that of the default profile.
    exponent : float or None
        Of the similarities that the answer sums up; None takes that of the default profile.
    seed : int
        Seed of the sampling, 0 to 2^31 - 1.

    Attributes
    ----------
    config, exponent
        As given, or those of the default profile.
    """

    def __init__(
        self,
        a: LocalFeatures,
        *,
        config: VerificationConfig | None = None,
        exponent: float | None = None,
        seed: int = 0,
    ) -> None:
        self.config = _default_profile().verification if config is None else config
        self.exponent = float(_default_profile().ranking.exponent if exponent is None else exponent)
        if not 0 < self.exponent < math.inf:
            raise ConfigError(f"exponent must be positive and finite, got {exponent}")
        self._seed = seed
        self._features = a
        self._prepared = PreparedDescriptors(a.descriptors, "A", self.config.precision)

    def __call__(self, b: LocalFeatures) -> Verification:
        """Return the verification of A and an image B."""
        own = _Side(self._features, self._prepared)
        other = _Side(b, PreparedDescriptors(b.descriptors, "B", self.config.precision))
        # Estimators and ratio tests know a first image: the same one, whichever was given as A. Matches in one
        # direction keep theirs, of the query: counts of one query are compared with each other.
        if self.config.mutual and goes_first(b, self._features):
            return self._verified(other, own, turned=True)
        return self._verified(own, other, turned=False)

    def _verified(self, a: _Side, b: _Side, *, turned: bool) -> Verification:
        """Verify a pair in this order; the answer, if `turned`, is that of the images exchanged."""
        config = self.config
        matched = match_prepared(
            a.prepared, b.prepared, mutual=config.mutual, ratio=config.ratio, max_distance=config.max_distance
        )
        frames = [pixel_frame(side.features.image_size, config.reference_size) for side in (a, b)]
        sides = list(zip((a.features, b.features), matched.pairs.T, frames, strict=True))
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
        overlay = None if fit is None else overlay_matches(a.features, b.features, matched.pairs, fit.inliers)
        if overlay is not None:
            kept = ~overlay
            fit = fitted()
        inliers = np.zeros(len(first), bool)
        if fit is not None:
            inliers[kept] = fit.inliers
        return answered(
            config,
            None if fit is None else _in_pixels(config.model, fit.transform, *frames),
            matched.pairs[inliers],
            matched.similarities[inliers],
            turned=turned,
            effective_inliers=min(occupied_bins(side[inliers], config.residual_px) for side in (first, second)),
            error_px=None if fit is None else float(np.sqrt(np.mean(fit.residuals[fit.inliers] ** 2))),
            putative=int(kept.sum()),
            overlay=int((~kept).sum()),
            similarity=similarity_sum(matched.mutual_similarities, self.exponent),
            exponent=self.exponent,
        )


def answered(
    config: VerificationConfig,
    transform: Float64 | None,
    matches: npt.NDArray[np.int32],
    similarities: npt.NDArray[np.float32],
    *,
    turned: bool,
    **more: Any,
) -> Verification:
    """Return the verification of two images, or if `turned` that of them exchanged, with `more` of its fields.

    The transform is (3, 3), or None if there is no model; matches are the inliers.
    """
    if turned:
        order = np.argsort(matches[:, 1], kind="stable")
        matches, similarities = matches[order, ::-1], similarities[order]
        transform = None if transform is None else turned_round(config.model, transform)
    return Verification(
        model=config.model,
        estimator=config.estimator,
        transform=transform,
        matches=matches,
        similarities=similarities,
        residual_px=config.residual_px,
        reference_size=config.reference_size,
        min_inliers=config.min_inliers,
        **more,
    )


class _Side(NamedTuple):
    """One of the two images of a pair."""

    features: LocalFeatures
    prepared: PreparedDescriptors


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
    return at_customary_scale(np.array([[s, 0, shift], [0, s, shift], [0, 0, 1]]) @ transform @ frame_a)
