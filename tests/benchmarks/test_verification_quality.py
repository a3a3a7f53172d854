"""Rows of one matching are what `verify_features` and re-ranking give, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.verification.pairs import framed_matches, is_random, match, verified, verify_all_ways
from benchmarks.verification.quality import GROUPS, best_against_first, measured, ways
from delf_engine import load_profile, verify_features
from delf_engine.config import RerankingConfig, VerificationConfig
from delf_engine.evaluation import SETUPS, GroundTruth, evaluate
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RerankOptions, rerank_shortlist
from delf_engine.verification import Prepared
from delf_engine.verification.models import ESTIMATORS
from delf_engine.verification.result import similarity_sum
from helpers import random_features

DEFAULT = load_profile().verification
RANKING = load_profile().ranking
Images = dict[str, LocalFeatures]


def overlapping(of: LocalFeatures, shared: int, rng: np.random.Generator, size: tuple[int, int]) -> LocalFeatures:
    """An image whose first features are those of another, moved and shaken."""
    image = random_features(rng, len(of), image_size=size)
    keypoints, descriptors = image.keypoints.copy(), image.descriptors.copy()
    keypoints[:shared] = of.keypoints[:shared] * np.float32(0.9) + np.float32(3)
    descriptors[:shared] = of.descriptors[:shared] + rng.normal(0, 0.06, (shared, 40))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return LocalFeatures(keypoints, image.scales, image.scores, descriptors, image.image_size)


@pytest.fixture(scope="module")
def world() -> tuple[Images, Images]:
    rng = np.random.default_rng(5)
    queries = {f"q{k}": random_features(rng, 50, image_size=(1600, 1200)) for k in range(2)}
    gallery = {f"i{k}": overlapping(queries[f"q{k % 2}"], 6 * k, rng, (1600, 1200)) for k in range(7)}
    return queries, gallery | {"none": LocalFeatures.empty((640, 480), 40)}


@pytest.fixture(scope="module")
def truth() -> GroundTruth:
    lists = [np.array(v, np.int64) for v in ([6], [5], [2], [3], [0], [1])]
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]])
    names = (*(f"i{k}" for k in range(7)), "none")
    return GroundTruth(names, ("q0", "q1"), boxes, tuple(lists[:2]), tuple(lists[2:4]), tuple(lists[4:]))


def changed(**changes: Any) -> VerificationConfig:
    return VerificationConfig(**{**DEFAULT.model_dump(), **changes})


SETTINGS = [
    *(changed(model=model, estimator=estimator) for model, estimator in ESTIMATORS),
    changed(precision="uint8", ratio=0.9, reference_size=None),
    changed(mutual=False, max_distance=None),
]


@pytest.mark.parametrize("config", SETTINGS)
def test_a_pair_matched_before_is_verified_as_ever(
    world: tuple[Images, Images], config: VerificationConfig
) -> None:
    queries, gallery = world
    left_out = {"transform", "error_px"}
    for image in gallery.values():
        a = queries["q0"]
        matched = match(
            Prepared(a.descriptors, "A", config.precision),
            Prepared(image.descriptors, "B", config.precision),
            config,
        )
        framed = framed_matches(a, image, matched, config.reference_size)
        total = similarity_sum(matched.mutual_similarities, 2.0)
        found = verified(framed, matched, config, similarity=total, exponent=2.0, seed=3).to_dict()
        expected = verify_features(a, image, config=config, exponent=2.0, seed=3).to_dict()
        assert {k: v for k, v in found.items() if k not in left_out} == {
            k: v for k, v in expected.items() if k not in left_out
        }


def test_equal_ways_are_measured_once_and_workers_change_nothing(world: tuple[Images, Images]) -> None:
    configs = {
        "one": DEFAULT,
        "same": DEFAULT.model_copy(update={"min_inliers": 5, "confidence": 0.5}),
        "drawn": changed(estimator="ransac"),
    }
    passes, in_two = (
        verify_all_ways(*world, configs, ranking=RANKING, seeds=2, workers=workers, title="test")
        for workers in (1, 2)
    )
    assert passes["one"] is passes["same"]
    assert [len(passes[name].seeds) for name in ("one", "drawn")] == [1, 2]
    for name, done in passes.items():
        assert done.seconds_a_pair > 0
        assert [dict(run) for run in done.seeds] == [dict(run) for run in in_two[name].seeds]
    assert is_random(configs["drawn"]) and not is_random(DEFAULT)  # noqa: PT018


def test_rows_are_those_of_reranking_one_by_one(world: tuple[Images, Images], truth: GroundTruth) -> None:
    rows = ways(["scores"])
    rows = {name: rows[name] for name in rows if name.startswith(("profile default", "default"))}
    found = measured(rows, *world, truth, seeds=1, workers=1)
    queries, gallery = world
    for name, way in rows.items():
        rankings = {setup: [] for setup in SETUPS}
        for query, features in queries.items():
            first = [
                (image_id, float(verify_features(features, image, config=way.verification).putative))
                for image_id, image in gallery.items()
            ]
            hits = rerank_shortlist(
                features,
                first,
                gallery,
                RerankOptions(RerankingConfig(top_n=len(gallery)), way.verification, way.ranking),
            )
            for setup in SETUPS:
                junk = truth.junk_of(setup)[truth.query_names.index(query)]
                out = {truth.names[i] for i in junk}
                rankings[setup].append([hit.id for hit in hits if hit.id not in out])
        for setup in SETUPS:
            assert found[name][setup]["mean_ap"] == pytest.approx(
                evaluate(rankings[setup], truth, setup=setup).mean_ap
            )
        assert found[name]["ranking"]["score"] == way.ranking.score


def test_rows_cover_what_there_is() -> None:
    rows = ways(GROUPS)
    assert next(iter(rows)) == "profile default"
    assert {(w.verification.model, w.verification.estimator) for w in rows.values()} == set(ESTIMATORS)
    assert {w.verification.precision for w in rows.values()} == {"float32", "uint8"}
    assert {w.ranking.score for w in rows.values()} == {"inliers", "effective", "weighted", "similarity"}
    assert {w.verification.residual_px for w in rows.values()} >= {8.0, 12.0, 16.0, 24.0, 32.0, 40.0}
    assert list(ways([])) == ["profile default"]
    assert len(ways(["precision"])) == 3


def test_the_best_are_compared_with_the_default(world: tuple[Images, Images], truth: GroundTruth) -> None:
    rows = measured(ways(["precision", "scores"]), *world, truth, seeds=1, workers=1)
    found = best_against_first(rows, 3)
    assert len(found) == 3
    sums = [sum(rows[d["row"]][s]["mean_ap"] for s in ("medium", "hard")) for d in found]
    assert sums == sorted(sums, reverse=True)
    # Rows that are the default under another name are not compared with it.
    assert not {d["row"] for d in best_against_first(rows, 99)} & {"default, float32", "default, by inliers"}
    assert best_against_first(rows, 0) == []
