"""Rules measured on one pass are what re-ranking gives one by one, ties, junk and cut included; ways to verify."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest

from benchmarks.revisited.ranking_rules import RULES, Pass, ranked_by_rules, verify_all
from benchmarks.verification.quality import best_against_first, measured, ways
from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.evaluation import SETUPS, GroundTruth, Setup, evaluate
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RerankOptions, rerank_shortlist
from helpers import random_features, seen_again

VERIFICATION = load_profile("default").verification
RANKING = RankingConfig(score="inliers", exponent=2.0, blend=0.5)
World: TypeAlias = tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]
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
def world() -> World:
    rng = np.random.default_rng(11)
    queries = {f"q{k}": random_features(rng, 60) for k in range(2)}
    images = {}
    for k in range(9):
        images[f"i{k}"] = seen_again(rng, queries[f"q{k % 2}"], int(rng.integers(0, 50)))
    return queries, images


@pytest.fixture(scope="module")
def done(world: World) -> Pass:
    return verify_all(*world, verification=VERIFICATION, ranking=RANKING, seeds=2, title="test")


@pytest.mark.parametrize("top_n", [None, 4])
def test_rules_of_one_pass_equal_reranking_by_each_rule(
    world: World,
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


# ------------------------------------------------------------------------------------------ ways of verifying


def test_the_best_are_compared_with_the_default(world: World, truth: GroundTruth) -> None:
    rows = measured(ways(["precision", "scores"]), *world, truth, seeds=1)
    found = best_against_first(rows, 3)
    assert len(found) == 3
    sums = [sum(rows[d["row"]][s]["mean_ap"] for s in ("medium", "hard")) for d in found]
    assert sums == sorted(sums, reverse=True)
    # Rows that are the default under another name are not compared with it.
    assert not {d["row"] for d in best_against_first(rows, 99)} & {"default, float32", "default, by inliers"}
    assert best_against_first(rows, 0) == []
