"""Rules measured on one pass are what re-ranking gives one by one, ties, junk and cut included; ways to verify."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest

from benchmarks.revisited.ranking_rules import RULES, Pass, compare, ranked_by_rules, row_of, verify_all
from benchmarks.verification import quality
from benchmarks.verification.quality import GROUPS, Way, best_against_first, measured, ways
from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.evaluation import SETUPS, GroundTruth, Setup, evaluate
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RerankOptions, rerank_shortlist
from delf_engine.verification.models import ESTIMATORS
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


# ------------------------------------------------------------------------------------------ ways of verifying


def test_equal_ways_are_verified_once(world: World, truth: GroundTruth, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = quality.verify_all

    def counted(*args: Any, **options: Any) -> Pass:
        asked.append(options["seeds"])
        return original(*args, **options)

    monkeypatch.setattr(quality, "verify_all", counted)
    default = Way(load_profile().verification, load_profile().ranking)
    same = default.verification.model_copy(update={"min_inliers": 5, "confidence": 0.5})
    drawn = default.verification.model_copy(update={"estimator": "ransac"})
    rows = {"profile default": default, "same": Way(same, default.ranking), "drawn": Way(drawn, default.ranking)}
    found = measured(rows, *world, truth, seeds=2)
    assert asked == [1, 2]
    assert [found[name]["seeds"] for name in rows] == [1, 1, 2]
    assert all(row["seconds_a_pair"] > 0 for row in found.values())


def test_rows_cover_what_there_is() -> None:
    rows = ways(GROUPS)
    assert next(iter(rows)) == "profile default"
    assert {(w.verification.model, w.verification.estimator) for w in rows.values()} == set(ESTIMATORS)
    assert {w.verification.precision for w in rows.values()} == {"float32", "uint8"}
    assert {w.ranking.score for w in rows.values()} == {"inliers", "effective", "weighted", "similarity"}
    assert {w.verification.residual_px for w in rows.values()} >= {8.0, 12.0, 16.0, 24.0, 32.0, 40.0}
    assert list(ways([])) == ["profile default"]
    assert len(ways(["precision"])) == 3


def test_the_best_are_compared_with_the_default(world: World, truth: GroundTruth) -> None:
    rows = measured(ways(["precision", "scores"]), *world, truth, seeds=1)
    found = best_against_first(rows, 3)
    assert len(found) == 3
    sums = [sum(rows[d["row"]][s]["mean_ap"] for s in ("medium", "hard")) for d in found]
    assert sums == sorted(sums, reverse=True)
    # Rows that are the default under another name are not compared with it.
    assert not {d["row"] for d in best_against_first(rows, 99)} & {"default, float32", "default, by inliers"}
    assert best_against_first(rows, 0) == []
