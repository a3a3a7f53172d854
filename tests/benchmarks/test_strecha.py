from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verification.strecha import (
    Pair,
    View,
    accepted_shares,
    bootstrap_shares,
    labelled_pairs,
    pair_scores,
    weighted_score,
    zero_false_accepts,
)
from delf_engine import load_profile
from helpers import random_features


def view(scene: str, name: str, degrees: float = 0.0) -> View:
    turn = np.radians(degrees)
    return View(scene, f"{scene}/{name}", np.array([np.sin(turn), 0.0, np.cos(turn)]))


# -------------------------------------------------------------------------------------------------------- pairs


def test_pairs_are_labelled_by_scene_and_angle() -> None:
    views = [
        view("castle", "0"),
        view("castle", "1", 20),
        view("castle", "2", 90),
        view("entry", "0"),
        view("fountain", "0"),
        view("herzjesu", "0"),
    ]
    kinds = {(p.first, p.second): p.kind for p in labelled_pairs(views)}
    assert kinds[0, 1] == "same"
    assert (0, 2) not in kinds  # 90 degrees
    assert (1, 2) not in kinds  # 70 degrees
    assert kinds[0, 3] == "castle / entry"
    assert kinds[0, 4] == kinds[3, 4] == "fountain / these"
    assert {kinds[i, 5] for i in range(5)} == {"different"}
    angles = {(p.first, p.second): p.angle for p in labelled_pairs(views)}
    assert angles[0, 1] == pytest.approx(20)
    assert np.isnan(angles[0, 5])  # the coordinates of two scenes have nothing in common


# ------------------------------------------------------------------------------------------------------- scores


def test_weighted_score_by_hand() -> None:
    assert weighted_score([1, 0.5], [1, 0.5, 0.1, -0.9]) == pytest.approx(1.125 + 0.3 * (1.125 + 0.001))
    assert weighted_score([], []) == 0


def test_a_photograph_agrees_with_itself_and_not_with_noise(rng: np.random.Generator) -> None:
    image, noise = random_features(rng, 60), random_features(rng, 60)
    views = [view("castle", "0"), view("castle", "1"), view("herzjesu", "0")]
    features = {views[0].name: image, views[1].name: image, views[2].name: noise}
    pairs = [Pair(0, 1, "same", 0.0), Pair(0, 2, "different", float("nan"))]
    rule = load_profile().verification
    scores = pair_scores(features, views, pairs, rule, seeds=2, title="test")
    assert scores["inliers"][:, 0].tolist() == [60, 60]
    assert scores["weighted"][:, 0] == pytest.approx(1.3 * 60, rel=1e-5)
    assert (scores["inliers"][:, 1] < 10).all()
    assert (scores["weighted"][:, 1] < scores["weighted"][:, 0]).all()
    strict = pair_scores(features, views, pairs, rule.model_copy(update={"ratio": 0.01}), seeds=1, title="test")
    assert strict["weighted"][0].tolist() == [pytest.approx(1.3 * 60, rel=1e-5), 0]
    for name, in_two in pair_scores(features, views, pairs, rule, seeds=2, title="test", workers=2).items():
        assert in_two.tolist() == scores[name].tolist()


# --------------------------------------------------------------------------- acceptance at zero false accepts


@given(
    st.lists(st.integers(0, 20), max_size=20).map(np.array),
    st.lists(st.integers(0, 20), min_size=1, max_size=20).map(np.array),
)
def test_no_lower_threshold_is_free_of_false_accepts(positives: np.ndarray, negatives: np.ndarray) -> None:
    found = zero_false_accepts(positives, negatives)
    thresholds = [t for t in range(23) if not (negatives >= t).any()]
    assert found.accepted.tolist() == (positives >= min(thresholds)).tolist()


def test_shares_by_bin_are_means_over_seeds() -> None:
    pairs = [
        Pair(0, 1, "same", 5.0),
        Pair(0, 2, "same", 5.0),
        Pair(1, 2, "same", 50.0),
        Pair(0, 3, "different", float("nan")),
        Pair(1, 3, "different", float("nan")),
        Pair(0, 4, "fountain / these", float("nan")),
    ]
    # First seed: above 10 are 30 and 12, not 10; second: above 20 is 30 only.
    scores = np.array([[30.0, 10, 12, 10, 4, 11], [30.0, 10, 12, 20, 4, 11]])
    shares, limits = accepted_shares(scores, pairs)
    assert limits == [10, 20]
    assert shares["0-15"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert shares["45-60"] == pytest.approx((1 + 0) / 2)
    assert shares["all"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert shares["fountain / these"] == pytest.approx(1 / 2)
    assert np.isnan(shares["15-30"])
    assert np.isnan(shares["castle / entry"])


# ---------------------------------------------------------------------------------------------------- bootstrap


def scenes(castle: int, church: int) -> tuple[list[View], list[Pair]]:
    views = [view("castle", str(i)) for i in range(castle)] + [view("herzjesu", str(i)) for i in range(church)]
    return views, labelled_pairs(views)


def test_a_resample_is_counted_as_if_its_photographs_were_the_data() -> None:
    """One sample against a plain count over the drawn photographs, copies and all."""
    views, pairs = scenes(4, 3)
    score = {
        (p.first, p.second): float(s)
        for p, s in zip(pairs, np.random.default_rng(1).normal(size=len(pairs)), strict=True)
    }
    table = np.array([list(score.values())])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = [*rng.integers(0, 4, 4), *(4 + rng.integers(0, 3, 3))]
        wrong, right = [], []
        for i, a in enumerate(drawn):
            for b in drawn[i + 1 :]:
                if a != b:
                    kind = views[a].scene == views[b].scene
                    (right if kind else wrong).append((score[min(a, b), max(a, b)], views[a].scene))
        if not right:
            continue
        limit = max(s for s, _ in wrong)
        expected = np.mean([s > limit for s, _ in right])
        (found,) = bootstrap_shares(table, pairs, views, samples=1, seed=seed)
        assert found == pytest.approx(expected)
