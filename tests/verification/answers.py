"""Verifications made up for tests of calibration: so many inliers, as similar as wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.verification import Verification


def answer(inliers: int, similarity: float = 0.8, **changes: Any) -> Verification:
    values: dict[str, Any] = {
        "model": "affine",
        "estimator": "exhaustive",
        "transform": np.eye(3) if inliers else None,
        "matches": np.repeat(np.arange(inliers)[:, None], 2, axis=1),
        "similarities": np.full(inliers, similarity),
        "putative": inliers + 3,
        "residual_px": 24.0,
        "reference_size": 1024,
        "min_inliers": 35,
        "similarity": 1.0 + inliers,
        "exponent": 3.0,
    }
    return Verification(**{**values, **changes})


def labelled(
    seed: int, positives: int = 60, negatives: int = 90
) -> tuple[list[Verification], npt.NDArray[np.int64]]:
    """Pairs of one place (about 40 inliers) and of different places (about 8), overlapping, in mixed order."""
    rng = np.random.default_rng(seed)
    counts = np.concatenate([rng.gamma(2, 20, positives), rng.gamma(1, 8, negatives)]).astype(int)
    labels = np.repeat([1, 0], [positives, negatives])
    order = rng.permutation(len(counts))
    found = [answer(int(counts[i]), float(rng.uniform(0.65, 0.95))) for i in order]
    return found, labels[order]
