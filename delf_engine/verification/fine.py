"""Fine evidence: what keypoints of pixel accuracy say of a pair, beside the coarse features of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.config import FineConfig
from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.matching import PreparedDescriptors, match_prepared
from delf_engine.verification.fits import Fit, ModelName
from delf_engine.verification.models import estimate
from delf_engine.verification.order import goes_first
from delf_engine.verification.overlays import frame_matches, overlay_matches

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

#: Matches that agree by chance on some fundamental matrix, and on some homography.
EPIPOLAR_BY_CHANCE, PLANAR_BY_CHANCE = 16, 6
#: So many matches on one plane are no accident: their homography is the pair's transform.
PLANE = 12
_VISIBLE = 0.5  # pixels of a small photograph that a keypoint of a larger one must have there


@dataclass(frozen=True)
class FineEvidence:
    """How many fine matches of two images agree.

    Attributes
    ----------
    putative : int
        Tentative matches, without those of an overlay.
    epipolar : int
        Matches that agree on one fundamental matrix.
    planar : int
        Matches that agree on one homography.
    homography : (3, 3) tuple of float or None
        From pixels of image A to pixels of image B; None if none was found.
    overlay : int
        Matches left out because both images wear the same frame, caption or screenshot chrome. Others are then no
        more than chance, and counted as such, unless `PLANE` of them agree on one homography.
    small : bool
        Whether an image has so few pixels (`FineConfig.sees`) that it says nothing if none agree.
    """

    putative: int
    epipolar: int
    planar: int
    homography: tuple[tuple[float, ...], ...] | None = None
    overlay: int = 0
    small: bool = False

    @property
    def conclusive(self) -> bool:
        """Whether it says something: details agree, or there are pixels enough for them."""
        return self.details > 0 or not self.small

    @property
    def details(self) -> int:
        """Matches that agree on one geometry, more than chance has it; 0 if there are none."""
        epipolar = self.epipolar if self.epipolar > EPIPOLAR_BY_CHANCE else 0
        return max(epipolar, self.planar if self.planar > PLANAR_BY_CHANCE else 0)

    @property
    def transform(self) -> Float64 | None:
        """The homography where enough agree on it, (3, 3) float64, else None."""
        if self.homography is None or self.planar < PLANE:
            return None
        return np.array(self.homography)

    def inverted(self) -> FineEvidence:
        """Return the evidence of the same pair, B first."""
        if self.homography is None:
            return self
        H = np.linalg.inv(np.array(self.homography))
        return replace(self, homography=_rows(H / H[2, 2]))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FineEvidence:
        """Return the evidence that `dataclasses.asdict` has written; `FormatError` if it is no such."""
        try:
            H = values["homography"]
            putative, epipolar, planar, overlay = (
                int(values[name]) for name in ("putative", "epipolar", "planar", "overlay")
            )
            found = None if H is None else _rows(np.array(H, np.float64).reshape(3, 3))
            return cls(putative, epipolar, planar, found, overlay, bool(values["small"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not fine evidence: {type(error).__name__}: {error}") from error


def fine_evidence(
    a: LocalFeatures, b: LocalFeatures, *, config: FineConfig | None = None, seed: int = 0
) -> FineEvidence:
    """Match the fine features of two images, and count what agrees; A and B are counted as B and A are.

    Parameters
    ----------
    a, b : LocalFeatures
        Of `delf_engine.extraction.fine_features`, or of another detector of pixel accuracy.
    config : FineConfig or None
        None: those of the default profile.
    seed : int
        Seed of RANSAC (pydegensac; Chum, Werner and Matas, CVPR 2005).

    Returns
    -------
    FineEvidence

    Raises
    ------
    MismatchError
        If the descriptors have different dimensions.
    """
    return fine_matches(a, b, config=config, seed=seed)[0]


def fine_matches(
    a: LocalFeatures, b: LocalFeatures, *, config: FineConfig | None = None, seed: int = 0
) -> tuple[FineEvidence, Float64]:
    """Return `fine_evidence`, and the matches that are its `details`: (M, 4), x, y in A, then in B, in pixels."""
    pair = FinePair.of(a, b, config or FineConfig())
    return pair.counted(pair.matches(), seed)


class FinePair(NamedTuple):
    """Fine features of two images in the order in which they are matched, exchanged if `turned`."""

    a: LocalFeatures
    b: LocalFeatures
    config: FineConfig
    small: bool
    turned: bool

    @classmethod
    def of(cls, a: LocalFeatures, b: LocalFeatures, config: FineConfig) -> FinePair:
        """Return the pair, without what a small image could not show of the other."""
        turned = goes_first(b, a)
        a, b = (b, a) if turned else (a, b)
        small = not (config.sees(a.image_size) and config.sees(b.image_size))
        return cls(*((_visible(a, b), _visible(b, a)) if small else (a, b)), config, small, turned)

    def prepared(self) -> tuple[PreparedDescriptors, PreparedDescriptors]:
        """Return the descriptors as they are compared."""
        a, b = self.a.descriptors, self.b.descriptors
        return PreparedDescriptors(a, "A", "uint8"), PreparedDescriptors(b, "B", "uint8")

    def matches(self) -> Int32:
        """Return the rows of tentative matches, (M, 2)."""
        return match_prepared(*self.prepared(), mutual=True, ratio=self.config.ratio, max_distance=None).pairs

    def counted(self, matches: Int32, seed: int) -> tuple[FineEvidence, Float64]:
        """Return what agrees of tentative matches, for the images as they were given, as `fine_matches` does."""
        a, b, config, small, turned = self
        sides = [f.keypoints[rows].astype(np.float64) for f, rows in zip((a, b), matches.T, strict=True)]
        scales = [config.scale(f.image_size) for f in (a, b)]
        kept = np.ones(len(matches), bool)

        def fitted(model: ModelName) -> Fit | None:
            first, second = ((side[kept] + 0.5) * scale - 0.5 for side, scale in zip(sides, scales, strict=True))
            return estimate(
                model,
                first,
                second,
                threshold=config.residual_px,
                max_iterations=config.max_iterations,
                confidence=config.confidence,
                seed=seed,
            )

        plane = fitted("homography")
        if plane is not None:
            overlay = overlay_matches(a, b, matches, plane.inliers, exact=True)
            if overlay is not None:
                kept = ~overlay
                plane = fitted("homography")
        epipolar = fitted("fundamental")
        inliers = [fit.inliers for fit in (plane, epipolar) if fit is not None]
        frame = frame_matches(a, b, matches[kept], np.logical_or.reduce(inliers)) if inliers else None
        if frame is not None:
            kept[kept] = ~frame
            plane, epipolar = fitted("homography"), fitted("fundamental")
        planar, agreeing = (0 if fit is None else int(fit.inliers.sum()) for fit in (plane, epipolar))
        if not kept.all() and planar < PLANE:  # what an overlay leaves over agrees on some geometry
            planar, agreeing = min(planar, PLANAR_BY_CHANCE), min(agreeing, EPIPOLAR_BY_CHANCE)
        H = None if plane is None else _in_pixels(plane.transform, scales[0], scales[1])
        found = FineEvidence(int(kept.sum()), agreeing, planar, H, int((~kept).sum()), small)
        fit = plane if found.details == planar else epipolar
        counts = fit.inliers if fit is not None and found.details else slice(0)
        points = np.hstack([side[kept][counts] for side in (sides[::-1] if turned else sides)])
        return found.inverted() if turned else found, points


def _visible(features: LocalFeatures, other: LocalFeatures) -> LocalFeatures:
    """Return what is large enough to be seen if the photograph is shrunk to the size of another, smaller one."""
    shrunk = max(other.image_size) / max(features.image_size)
    kept = features.scales * shrunk >= _VISIBLE
    if shrunk >= 1 or kept.all():
        return features
    columns = ("keypoints", "scales", "scores", "descriptors")
    return replace(features, **{name: getattr(features, name)[kept] for name in columns})


def _in_pixels(H: Float64, scale_a: float, scale_b: float) -> tuple[tuple[float, ...], ...] | None:
    """Carry a homography between the prepared images over to the pixels of the originals."""
    frames = [np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1]]) for s in (scale_a, scale_b)]
    H = np.linalg.solve(frames[1], H @ frames[0])
    return _rows(H / H[2, 2]) if abs(H[2, 2]) > 1e-12 * np.abs(H).max() else None


def _rows(H: Float64) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in H.tolist())
