"""The benchmarks are scripts beside the package: this lets their tests import them by name."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: benchmarks/index.py must not hide tests/index.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
