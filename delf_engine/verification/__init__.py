"""Do two images show the same place: robust geometric models of their matches, and the answer."""

from __future__ import annotations

from delf_engine.verification.calibration import Calibration, load_calibration
from delf_engine.verification.fine import FineEvidence, fine_evidence
from delf_engine.verification.result import Verification
from delf_engine.verification.verify import PairVerifier, confirmed, verify_features

__all__ = [
    "Calibration",
    "FineEvidence",
    "PairVerifier",
    "Verification",
    "confirmed",
    "fine_evidence",
    "load_calibration",
    "verify_features",
]
