"""Do two images show the same place: robust geometric models of their matches, and the answer."""

from __future__ import annotations

from delf_engine.verification.batched import BatchVerifier, evidence_of_pairs, verify_pairs
from delf_engine.verification.calibration import Calibration, load_calibration
from delf_engine.verification.fine import FineEvidence, fine_evidence
from delf_engine.verification.result import Verification
from delf_engine.verification.turns import exchanged, turned_back, turns_by_evidence
from delf_engine.verification.verify import PairVerifier, confirmed, verify_features, with_evidence

__all__ = [
    "BatchVerifier",
    "Calibration",
    "FineEvidence",
    "PairVerifier",
    "Verification",
    "confirmed",
    "evidence_of_pairs",
    "exchanged",
    "fine_evidence",
    "load_calibration",
    "turned_back",
    "turns_by_evidence",
    "verify_features",
    "verify_pairs",
    "with_evidence",
]
