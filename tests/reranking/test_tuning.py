"""Tuning of cap and weight: against an oracle that ranks anew with every choice, and refusals of bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import RankingConfig, load_profile
from delf_engine.errors import ConfigError, DataError, MismatchError
from delf_engine.reranking import BlendingChoice, RankedCandidate, rank_verified, tuned_blending
from delf_engine.verification import Verification

RULE = RankingConfig(score="inliers", exponent=3.0, blend=0.0)


def verified(inliers: int) -> Verification:
    return Verification(
        model="affine",
        transform=np.eye(3),
        matches=np.zeros((inliers, 2), np.int32),
        similarities=np.ones(inliers, np.float32),
        putative=inliers,
        residual_px=24.0,
        reference_size=1024,
        min_inliers=30,
        similarity=float(inliers),
        exponent=3.0,
    )


def ranked(
    candidates: Sequence[tuple[str, float, int | None]], rule: RankingConfig = RULE
) -> list[RankedCandidate]:
    """Rank candidates of (id, first score, inliers or None if not verified)."""
    found = {name: verified(n) for name, _, n in candidates if n is not None}
    return rank_verified([(name, score) for name, score, _ in candidates], found, ranking=rule)


def again(ranking: Sequence[RankedCandidate], rule: RankingConfig) -> list[str]:
    """Rank finished candidates anew, through the public door."""
    first = sorted(ranking, key=lambda c: c.first_rank)
    found = {c.id: c.verification for c in first if c.verification is not None}
    return [c.id for c in rank_verified([(c.id, c.score or 0.0) for c in first], found, ranking=rule)]


def precision(order: Sequence[str], relevant: set[str]) -> float:
    """Average precision in per cent, counted rank by rank."""
    total = 0.0
    for rank in range(1, len(order) + 1):
        if order[rank - 1] in relevant:
            total += len(set(order[:rank]) & relevant) / rank
    return 100 * total / len(relevant)


def oracle(
    rankings: dict[str, list[RankedCandidate]],
    relevant: dict[str, set[str]],
    ignored: dict[str, set[str]],
    weights: list[float],
    caps: list[float],
) -> dict[tuple[float, float], dict[str, float]]:
    table: dict[tuple[float, float], dict[str, float]] = {}
    for weight in sorted(set(weights)):
        for cap in sorted(set(caps)):
            rule = RankingConfig(score="inliers", exponent=3.0, blend=0.0, cap=cap, first_weight=weight)
            table[weight, cap] = {}
            for query, ranking in rankings.items():
                if wanted := relevant[query] - ignored.get(query, set()):
                    order = [name for name in again(ranking, rule) if name not in ignored.get(query, ())]
                    table[weight, cap][query] = precision(order, wanted)
    return table


IDS = [f"i{k}" for k in range(8)]
SCORES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-2, 2), st.sampled_from([-1e300, 1e300]))
SUBSETS = st.sets(st.sampled_from([*IDS, "nowhere"]))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    rankings, relevant, ignored = {}, {}, {}
    for q in range(draw(st.integers(1, 4))):
        names = draw(st.lists(st.sampled_from(IDS), unique=True))
        inliers = [draw(st.sampled_from([None, 0, 5, 20, 21, 90])) for _ in names]
        if names and set(inliers) == {None}:
            inliers[0] = 5
        rankings[f"q{q}"] = ranked([(name, draw(SCORES), n) for name, n in zip(names, inliers, strict=True)])
        relevant[f"q{q}"] = draw(SUBSETS)
        ignored[f"q{q}"] = draw(st.sets(st.sampled_from(IDS), max_size=3))
    relevant["q0"].add("nowhere")  # something to find there is
    return rankings, relevant, ignored


@given(
    batch=batches(),
    weights=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=4),
    caps=st.lists(st.sampled_from([1.0, 20.0, 50.0]), min_size=1, max_size=4),
)
def test_every_choice_is_that_of_ranking_anew(batch: Any, weights: list[float], caps: list[float]) -> None:
    rankings, relevant, ignored = batch
    table = oracle(rankings, relevant, ignored, weights, caps)
    means = {choice: np.mean(list(row.values())) for choice, row in table.items()}
    choice = tuned_blending(rankings, relevant, weights=weights, caps=caps, ranking=RULE, ignored=ignored)
    assert choice.weights.tolist() == sorted(set(weights))
    assert choice.caps.tolist() == sorted(set(caps))
    np.testing.assert_allclose(choice.table.ravel(), list(means.values()), rtol=1e-12)
    best = max(means.values())
    first = next(key for key, mean in means.items() if mean >= best - 1e-9)
    assert means[choice.ranking.first_weight, choice.ranking.cap or 0] == pytest.approx(best)
    assert (choice.ranking.first_weight, choice.ranking.cap) == first
    assert choice.mean_ap == pytest.approx(best)
    assert choice.queries == len(next(iter(table.values())))
    if choice.queries == 1:
        assert choice.unseen_mean_ap is None
    else:
        assert choice.unseen_mean_ap == pytest.approx(left_out(table))
        assert choice.unseen_mean_ap <= max(max(row.values()) for row in table.values())
    turned = tuned_blending(
        dict(reversed(rankings.items())),
        relevant,
        weights=weights[::-1],
        caps=caps[::-1],
        ranking=RULE,
        ignored=ignored,
    )
    assert turned.to_dict() == choice.to_dict()


def left_out(table: dict[tuple[float, float], dict[str, float]]) -> float:
    queries = list(next(iter(table.values())))
    values = []
    for query in queries:
        means = {key: sum(value for q, value in row.items() if q != query) for key, row in table.items()}
        best = max(means.values())
        values.append(table[next(key for key, mean in means.items() if mean >= best - 1e-9)][query])
    return float(np.mean(values))


def test_what_is_sure_is_left_to_the_first_scores() -> None:
    """Both relevant images are sure; a wrong one has more inliers and a lower first score."""
    rankings = {
        f"q{k}": ranked([("a", 0.9, 30), ("b", 0.8, 40), ("x", 0.2, 90), ("y", 0.95, 2)]) for k in range(3)
    }
    relevant = {query: {"a", "b"} for query in rankings}
    choice = tuned_blending(rankings, relevant, ranking=RULE)
    assert (choice.ranking.first_weight, choice.ranking.cap) == (0.0, 20.0)
    assert choice.ranking == RULE.model_copy(update={"cap": 20.0, "first_weight": 0.0})
    assert choice.mean_ap == choice.unseen_mean_ap == 100.0
    assert choice.untuned_mean_ap == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert choice.table.shape == (11, 5)
    assert not choice.table.flags.writeable
    assert json.loads(json.dumps(choice.to_dict()))["ranking"]["cap"] == 20.0


def test_one_query_of_its_own_kind_does_not_help_itself() -> None:
    """Two queries want opposite weights: each is then ranked by what the other one wants."""
    rankings = {
        "first": ranked([("a", 0.9, 1), ("b", 0.1, 20)]),
        "inliers": ranked([("b", 0.9, 1), ("a", 0.1, 20)]),
    }
    choice = tuned_blending(rankings, {"first": ["a"], "inliers": ["a"]}, weights=[0, 1], caps=[20], ranking=RULE)
    assert choice.table.tolist() == [[75.0], [75.0]]
    assert choice.ranking.first_weight == 0
    assert (choice.mean_ap, choice.unseen_mean_ap) == (75.0, 50.0)


def test_the_default_rule_and_the_tail_of_the_unverified() -> None:
    rankings = {"q": ranked([("x", 0.9, 0), ("a", 0.5, None), ("b", 1e9, None)])}
    choice = tuned_blending(rankings, {"q": ["a"]}, weights=[1.0], caps=[35])
    assert choice.ranking.score == load_profile("default").ranking.score
    assert choice.mean_ap == 50.0  # behind the verified one, in the first order, whatever its first score


def test_an_empty_ranking_finds_nothing() -> None:
    choice: BlendingChoice = tuned_blending({"q": [], "r": ranked([("a", 1.0, 3)])}, {"q": {"a"}, "r": {"a"}})
    assert choice.mean_ap == 50.0


@pytest.mark.parametrize(
    ("rankings", "relevant", "match"),
    [
        ({}, {}, "none of the 0 queries has an image to find"),
        ({"q": ranked([("a", 1.0, 3)])}, {"q": []}, "none of the 1 queries"),
        ({"q": ranked([("a", 1.0, 3)])}, {}, "query 'q': relevant does not say"),
        ({"q": ranked([("a", 1.0, 3)])}, {"q": "a"}, "relevant of query 'q' must be a collection of ids, got 'a'"),
        ({"q": ranked([("a", 1.0, 3)])}, {"q": None}, "must be a collection"),
        ({"q": ranked([("a", 1.0, None)])}, {"q": ["a"]}, "query 'q': no candidate is verified"),
        ({"q": [RankedCandidate("a", 1, 1, None, verified(3), 3.0)]}, {"q": ["a"]}, "'a' has no first score"),
    ],
)
def test_data_that_cannot_be_tuned_by_is_refused(rankings: Any, relevant: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        tuned_blending(rankings, relevant, ranking=RULE)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": []},
        {"weights": [1.5]},
        {"weights": [-0.1]},
        {"weights": [float("nan")]},
        {"weights": 0.5},
        {"weights": "high"},
        {"caps": []},
        {"caps": [0]},
        {"caps": [float("inf")]},
        {"caps": [-35]},
        {"caps": None},
    ],
    ids=str,
)
def test_weights_and_caps_out_of_range_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        tuned_blending({"q": ranked([("a", 1.0, 3)])}, {"q": ["a"]}, ranking=RULE, **options)


def test_another_exponent_is_refused() -> None:
    rule = RankingConfig(score="weighted", exponent=2.0, blend=0.3)
    with pytest.raises(MismatchError, match="similarity"):
        tuned_blending({"q": ranked([("a", 1.0, 3)])}, {"q": ["a"]}, ranking=rule)
