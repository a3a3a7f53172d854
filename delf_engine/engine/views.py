"""One image of a pair or a search: its features, its fine features, and its features once it is turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.config import Profile
from delf_engine.features import LocalFeatures
from delf_engine.verification import (
    Calibration,
    Verification,
    exchanged,
    turned_back,
    turns_by_evidence,
    verify_features,
    with_evidence,
)
from delf_engine.verification.fine import fine_matches
from delf_engine.verification.order import goes_first


@dataclass(frozen=True)
class View:
    """An image as far as it is known."""

    features: LocalFeatures
    fine: LocalFeatures | None = None
    # Extracts the features of the image turned counterclockwise by degrees, in pixels of the turned one.
    turned: Callable[[int], LocalFeatures] | None = None  # None: there are no pixels


class PairAnswer(NamedTuple):
    """A verification, and the features that its matches are of, each in the pixels of its photograph as it is."""

    verification: Verification
    features_a: LocalFeatures
    features_b: LocalFeatures
    details: npt.NDArray[np.float64]  # (M, 4): fine matches that count, x, y in A, then in B, in the same pixels


def verify_views(
    a: View, b: View, profile: Profile, *, calibration: Calibration | None = None, seed: int = 0
) -> PairAnswer:
    """Verify a pair, with one image turned where details say so, or where there are none and it seems different.

    Which of them is turned does not depend on which is A. A turned answer counts if it is surer, and not
    "different".
    """
    options = profile.verification
    evidence, details = None, np.empty((0, 4))
    if a.fine is not None and b.fine is not None:
        evidence, details = fine_matches(a.fine, b.fine, config=profile.fine, seed=seed)

    def verified(a: LocalFeatures, b: LocalFeatures) -> Verification:
        return verify_features(a, b, config=options, exponent=profile.ranking.exponent, seed=seed)

    def judged(found: Verification) -> Verification:
        found = found if evidence is None else with_evidence(found, evidence)
        return found if calibration is None else calibration.judged(found)

    best = PairAnswer(judged(verified(a.features, b.features)), a.features, b.features, details)
    if best.verification.same and (evidence is None or not evidence.conclusive):
        return best
    exchange = b.turned is not None and (
        a.turned is None or (options.mutual and goes_first(b.features, a.features))
    )
    subject, other = (b, a) if exchange else (a, b)
    if subject.turned is None or not len(subject.features) or not len(other.features):
        return best
    # Details may have said "same" already; then the turn is for the coarse matches and for `rotation`.
    for rotation in turns_by_evidence(evidence, exchange=exchange):
        features = subject.turned(rotation)
        found = turned_back(verified(features, other.features), subject.features.image_size, rotation)
        found = judged(exchanged(found) if exchange else found)
        if surer(found, best.verification):
            own = features.turned(-rotation)
            best = PairAnswer(found, *((other.features, own) if exchange else (own, other.features)), details)
        if found.same:
            break
    return best


def surer(found: Verification, than: Verification) -> bool:
    """Tell whether a verification with an image turned counts more than another: not if it says "different"."""
    if found.verdict == "different":
        return False
    sure = [(v.same, v.inliers if v.probability is None else v.probability, v.inliers) for v in (found, than)]
    return sure[0] > sure[1]
