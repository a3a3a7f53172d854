"""The benchmark of calibration: boxes inside their photographs, choices and figures from the pairs they claim."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verification.calibration import (
    LabelledPairs,
    choose,
    fit,
    own_landmarks,
    paris_row,
)
from delf_engine.evaluation.calibration_figures import expected_calibration_error, roc_auc
from delf_engine.verification import Verification
from delf_engine.verification.calibration import Calibration
from verification.answers import labelled


def world(places: int) -> tuple[list[Verification], LabelledPairs]:
    """Queries of some landmarks, pairs of either label for each."""
    found, labels = labelled(0, 250, 400)
    rng = np.random.default_rng(0)
    ends = []
    for same in labels:
        a, b = rng.choice(places, 2, replace=False)
        ends.append((f"p{a}", f"p{a}" if same else f"p{b}"))
    return found, LabelledPairs([], labels, ends, np.zeros(len(labels), bool))


def test_each_landmark_is_judged_by_the_others() -> None:
    found, pairs = world(5)
    row = own_landmarks(found, pairs, "inliers")
    p = np.empty(len(found))
    for place in {query for query, _ in pairs.places}:
        learnt = [j for j, ends in enumerate(pairs.places) if place not in ends]
        others = Calibration.fit(
            [found[j] for j in learnt], pairs.labels[learnt], evidence="inliers", trained_on="others"
        )
        judged = [j for j, (query, _) in enumerate(pairs.places) if query == place]
        p[judged] = others.probabilities([found[j] for j in judged])
    assert row["auc"] == roc_auc(p, pairs.labels)
    assert row["ece"] == expected_calibration_error(p, pairs.labels, prior=0.5)
    assert row["ece_unweighted"] == expected_calibration_error(p, pairs.labels)


def test_the_lowest_log_loss_is_chosen_and_figures_are_of_all_pairs() -> None:
    found, pairs = world(8)
    best, rows = choose(found, pairs)
    lowest = min(row["log_loss"] for row in rows.values())
    assert rows[best]["log_loss"] == pytest.approx(lowest, abs=1e-4)
    calibration = fit(found, pairs, best, {"trained_on": "made up"})
    row = paris_row(calibration, found, pairs)
    p = calibration.probabilities(found)
    assert row["same_accepted"] == pytest.approx((p[pairs.labels == 1] >= 0.5).mean())
    assert row["different_accepted"] == pytest.approx((p[pairs.labels == 0] >= 0.5).mean())
    assert 0.5 < row["auc"] <= 1
