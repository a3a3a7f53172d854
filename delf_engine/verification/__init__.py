"""Do two images show the same place: robust geometric models of their matches, and the answer."""

from __future__ import annotations

from delf_engine.verification.calibration import Calibration, load_calibration
from delf_engine.verification.result import Verification
from delf_engine.verification.verify import PairVerifier, verify_features

__all__ = ["Calibration", "PairVerifier", "Verification", "load_calibration", "verify_features"]
