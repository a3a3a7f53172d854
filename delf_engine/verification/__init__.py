"""Do two images show the same place: descriptor matching, robust geometric models, and the answer."""

from __future__ import annotations

from delf_engine.verification.calibration import Calibration
from delf_engine.verification.calibration_files import load_calibration
from delf_engine.verification.matching import (
    MatchedPair,
    Matches,
    Prepared,
    match_descriptors,
    match_pair,
    match_prepared,
)
from delf_engine.verification.result import Verification
from delf_engine.verification.verify import PairVerifier, verify_features
from delf_engine.verification.word_matching import match_by_words

__all__ = [
    "Calibration",
    "MatchedPair",
    "Matches",
    "PairVerifier",
    "Prepared",
    "Verification",
    "load_calibration",
    "match_by_words",
    "match_descriptors",
    "match_pair",
    "match_prepared",
    "verify_features",
]
