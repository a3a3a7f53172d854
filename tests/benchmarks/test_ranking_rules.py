"""The rules measured on one pass are those that re-ranking gives one by one, ties, junk and cut included."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.revisited.ranking_rules import RULES, Pass, compare, ranked_by_rules, row_of, verify_all
from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.evaluation import SETUPS, GroundTruth, Setup, evaluate
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RerankOptions, rerank_shortlist
from helpers import random_features

VERIFICATION = load_profile("default").verification
RANKING = RankingConfig(score="inliers", exponent=2.0, blend=0.5)
FIRST = {q: [(f"i{k}", float(9 - k // 2)) for k in range(9)] for q in ("q0", "q1")}


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    lists = [np.array(v, np.int64) for v in ([5, 8], [1], [3], [2, 7], [0], [6])]
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]])
    return GroundTruth(
        tuple(f"i{k}" for k in range(9)),
        ("q0", "q1"),
        boxes,
        (lists[0], lists[1]),
        (lists[2], lists[3]),
        (lists[4], lists[5]),
    )


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]:
    rng = np.random.default_rng(11)
    queries = {f"q{k}": random_features(rng, 60) for k in range(2)}
    images = {}
    for k in range(9):
        image = random_features(rng, 60)
        keypoints, descriptors = image.keypoints.copy(), image.descriptors.copy()
        of, shared = queries[f"q{k % 2}"], int(rng.integers(0, 50))
        keypoints[:shared] = of.keypoints[:shared] + np.float32(3)
        descriptors[:shared] = of.descriptors[:shared] + rng.normal(0, rng.uniform(0, 0.12), (shared, 40))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        images[f"i{k}"] = LocalFeatures(keypoints, image.scales, image.scores, descriptors, image.image_size)
    return queries, images


@pytest.fixture(scope="module")
def done(world: tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]) -> Pass:
    return verify_all(*world, verification=VERIFICATION, ranking=RANKING, seeds=2, title="test")


@pytest.mark.parametrize("top_n", [None, 4])
def test_rules_of_one_pass_equal_reranking_by_each_rule(
    world: tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]],
    truth: GroundTruth,
    done: Pass,
    top_n: int | None,
) -> None:
    queries, images = world
    rows = ranked_by_rules(FIRST, done, truth, top_n=top_n)
    assert list(rows) == list(RULES)

    def figure(score: str, setup: Setup, seed: int) -> float:
        rankings = []
        for query, out in zip(truth.query_names, truth.junk_of(setup), strict=True):
            shortlist = [entry for entry in FIRST[query] if entry[0] not in {truth.names[i] for i in out}]
            rule = RANKING.model_copy(update={"score": score, "blend": 0.3 if score == "weighted" else 0.0})
            options = RerankOptions(RerankingConfig(top_n=top_n or len(images)), VERIFICATION, rule, seed)
            hits = rerank_shortlist(queries[query], shortlist, images, options)
            rankings.append([hit.id for hit in hits])
        return evaluate(rankings, truth, setup=setup).mean_ap

    for score, row in rows.items():
        assert row["seeds"] == 2
        for setup in SETUPS:
            runs = [figure(score, setup, seed) for seed in range(2)]
            assert row[setup]["mean_ap"] == pytest.approx(np.mean(runs))
            assert row[setup]["spread"] == pytest.approx(np.std(runs))
            low, high = row[setup]["interval_95"]
            assert low <= row[setup]["mean_ap"] <= high


def test_a_query_without_a_positive_is_left_out(truth: GroundTruth) -> None:
    row = row_of(truth, [lambda query, junk: [name for name, _ in FIRST[query] if name not in junk]], 0.0)
    alone = GroundTruth(
        truth.names,
        truth.query_names,
        truth.boxes,
        truth.easy,
        (np.array([], np.int64), truth.hard[1]),
        truth.junk,
    )
    less = row_of(alone, [lambda query, junk: [name for name, _ in FIRST[query] if name not in junk]], 0.0)
    assert less["hard"]["average_precision"] == {"q0": None, "q1": row["hard"]["average_precision"]["q1"]}
    assert less["hard"]["mean_ap"] == pytest.approx(row["hard"]["average_precision"]["q1"])
    assert compare(less, less)["hard"].queries == 1


def test_comparison_is_paired(truth: GroundTruth, done: Pass) -> None:
    rows = ranked_by_rules(FIRST, done, truth)
    gaps = compare(rows["weighted"], rows["inliers"])
    for setup in SETUPS:
        expected = rows["weighted"][setup]["mean_ap"] - rows["inliers"][setup]["mean_ap"]
        assert gaps[setup].difference == pytest.approx(expected)


def test_without_an_index_the_first_score_is_the_number_of_matches(done: Pass) -> None:
    first = done.first_scores()
    assert {query: [name for name, _ in found] for query, found in first.items()} == {
        query: [f"i{k}" for k in range(9)] for query in ("q0", "q1")
    }
    assert all(score == done.seeds[0][query][name].putative for query in first for name, score in first[query])
