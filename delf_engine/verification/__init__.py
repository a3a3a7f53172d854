"""Do two images show the same place: descriptor matching, robust geometric models, and the answer."""

from __future__ import annotations

from delf_engine.verification.matching import (
    MatchedPair,
    Matches,
    Prepared,
    match_descriptors,
    match_pair,
    match_prepared,
)
from delf_engine.verification.result import Verification
from delf_engine.verification.verify import verify_features

__all__ = ["MatchedPair", "Matches", "Verification", "match_descriptors", "match_pair", "verify_features"]
