"""A pair step by step, as `verify_features` does it inside: what parts of it are timed on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine import LocalFeatures
from delf_engine.config import VerificationConfig
from delf_engine.matching import Matches, PreparedDescriptors, match_prepared
from delf_engine.verification.geometry import pixel_frame

__all__ = ["Framed", "framed_matches", "match"]

Float64 = npt.NDArray[np.float64]


class Framed(NamedTuple):
    """Tentative matches in the pixels that the residual counts in: what an estimator takes.

    Attributes
    ----------
    points : (N, 2) float64, (N, 2) float64
        x, y in A and in B.
    scales : (N,) float64, (N,) float64
    """

    points: tuple[Float64, Float64]
    scales: tuple[Float64, Float64]


def match(a: PreparedDescriptors, b: PreparedDescriptors, config: VerificationConfig) -> Matches:
    """Match as a configuration says."""
    return match_prepared(a, b, mutual=config.mutual, ratio=config.ratio, max_distance=config.max_distance)


def framed_matches(a: LocalFeatures, b: LocalFeatures, matched: Matches, reference_size: int | None) -> Framed:
    """Return the tentative matches in pixels of images shrunk to `reference_size`."""
    sides = []
    for features, rows in zip((a, b), matched.pairs.T, strict=True):
        frame = pixel_frame(features.image_size, reference_size)
        points = features.keypoints[rows].astype(np.float64) * float(frame[0, 0]) + float(frame[0, 2])
        sides.append((points, features.scales[rows] * float(frame[0, 0])))
    return Framed((sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))
