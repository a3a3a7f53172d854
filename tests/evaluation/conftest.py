"""A ground truth small enough to be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from delf_engine.evaluation import GroundTruth


@pytest.fixture
def truth() -> GroundTruth:
    names = tuple("abcdefgh")
    empty = np.array([], np.int64)
    return GroundTruth(
        names,
        ("q0", "q1"),
        np.array([[0, 0, 5, 5], [1, 1, 2, 2.5]]),
        (np.array([0, 1]), empty),
        (np.array([2]), np.array([7])),
        (np.array([3, 4]), empty),
    )
