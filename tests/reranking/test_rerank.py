"""Re-ranking: order, ties, tails, missing features, and every rule of the ranking score by its definition."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import (
    RankedCandidate,
    RerankOptions,
    rank_verified,
    ranking_score,
    rerank,
    rerank_batch,
    rerank_shortlist,
)
from delf_engine.storage import FeatureStore
from delf_engine.verification import Verification, verify_features
from helpers import raises, random_features, seen_again
from verification.answers import answer

VERIFICATION = load_profile("default").verification
TOP = RerankingConfig(top_n=100)
INLIERS = RankingConfig(score="inliers", exponent=3.0, blend=0.0)
OPTIONS = RerankOptions(TOP, VERIFICATION)


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]:
    """Queries q0, q1 and ten images; image i shares 8 i features with q0, 8 (9 - i) with q1."""
    rng = np.random.default_rng(7)
    queries = {f"q{k}": random_features(rng, 120) for k in range(2)}
    images = {}
    for i in range(10):
        image = seen_again(rng, queries["q0"], 8 * i)
        other = seen_again(rng, queries["q1"], 8 * (9 - i))
        merged = [np.concatenate([getattr(v, n) for v in (image, other)]) for n in ("keypoints", "descriptors")]
        images[f"i{i}"] = LocalFeatures(merged[0], np.ones(240), np.ones(240), merged[1], image.image_size)
    return queries, images


def run(query: LocalFeatures, shortlist: Any, features: Any, **options: Any) -> list[RankedCandidate]:
    given = {"reranking": TOP, "verification": VERIFICATION, "ranking": INLIERS, **options}
    return rerank_shortlist(query, shortlist, features, RerankOptions(**given))


def test_candidates_are_sorted_by_inliers(world: Any) -> None:
    queries, images = world
    shortlist = [(f"i{i}", 1 - i / 10) for i in range(10)]
    ranking = run(queries["q0"], shortlist, images)
    assert [c.id for c in ranking[:8]] == [f"i{i}" for i in range(9, 1, -1)]
    assert [c.rank for c in ranking] == list(range(1, 11))
    assert [c.first_rank for c in ranking[:3]] == [10, 9, 8]
    assert ranking[0].score == pytest.approx(0.1)
    assert ranking[0].inliers is not None
    assert ranking[0].inliers >= 72
    for c in ranking:
        assert c.verification == verify_features(
            queries["q0"], images[c.id], config=VERIFICATION, exponent=INLIERS.exponent
        )
        assert c.ranking_score == c.inliers


def test_the_tail_keeps_its_order_behind(world: Any) -> None:
    queries, images = world
    shortlist = [f"i{i}" for i in range(10)]
    ranking = run(queries["q0"], shortlist, images, reranking=RerankingConfig(top_n=4))
    assert {c.id for c in ranking[:4]} == {"i0", "i1", "i2", "i3"}
    assert ranking[0].id == "i3"
    assert [c.id for c in ranking[4:]] == shortlist[4:]
    assert [(c.inliers, c.verification, c.score) for c in ranking[4:]] == [(None, None, None)] * 6


@pytest.mark.parametrize("distances", [False, True])
def test_equal_inliers_keep_the_order_of_the_list(rng: np.random.Generator, distances: bool) -> None:
    query, image = random_features(rng, 50), random_features(rng, 0)
    shortlist = [("a", 0.2), ("b", 0.5), ("c", 0.5), ("d", 0.9)]
    ranking = run(query, shortlist, lambda _: image, distances=distances)
    assert [(c.id, c.score) for c in ranking] == [(name, -s if distances else s) for name, s in shortlist]
    assert [c.inliers for c in ranking] == [0] * 4
    with raises(DataError, "'query'", "at place 2", "distances"):
        run(query, shortlist[::-1], lambda _: image, distances=True)
    assert [c.id for c in run(query, ["x", "a", "m", "a"], lambda _: image)] == ["x", "a", "m"]
    assert run(query, [], {}) == []
    assert rerank_batch({}, {}, {}, OPTIONS) == {}


@pytest.mark.parametrize("kind", range(4))
def test_missing_images_are_reported_and_the_rest_goes_on(kind: int, world: Any, tmp_path: Path) -> None:
    queries, images = world
    store = FeatureStore.create(tmp_path / "store", dim=40, codec="float32")
    store.put_many(images.items())
    source = [store, images, images.get, images.__getitem__][kind]
    shortlist = ["gone", "i0", "lost", "i9", "i5"]
    with pytest.warns(DelfEngineWarning, match=r"2 \('gone', 'lost'\)"):
        ranking = run(queries["q0"], shortlist, source)
    assert [c.id for c in ranking] == ["i9", "i5", "i0", "gone", "lost"]
    assert [c.inliers is None for c in ranking] == [False, False, False, True, True]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(queries["q0"], shortlist, source, on_missing="ignore") == ranking
    with raises(UnknownIdError, "'gone'"):
        run(queries["q0"], shortlist, source, on_missing="raise")


@pytest.mark.parametrize(("room", "reads"), [(10, [1] * 10), (3, [1] * 3 + [2] * 7)])
def test_images_are_read_once_as_far_as_there_is_room(
    room: int, reads: list[int], world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, images = world
    monkeypatch.setattr(rerank, "_CACHE_BYTES", room * 4 * 240 * 44)
    seen: Counter[str] = Counter()

    def get(image_id: str) -> LocalFeatures:
        seen[image_id] += 1
        return images[image_id]  # type: ignore[no-any-return]

    rerank_batch(queries, {q: [f"i{i}" for i in range(10)] for q in queries}, get, OPTIONS)
    assert sorted(seen.values()) == reads


def test_progress_counts_pairs_to_the_end(world: Any) -> None:
    queries, images = world
    seen: list[tuple[int, int]] = []
    shortlists: dict[str, Any] = {"q0": [f"i{i % 10}-{i}" for i in range(60)], "lost": ["i1", "i2"], "q1": []}
    rerank_batch(
        queries,
        shortlists,
        lambda image_id: images[image_id.partition("-")[0]],
        replace(OPTIONS, on_missing="ignore", workers=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == [2, 12, 22, 32, 42, 52, 62]
    assert {total for _, total in seen} == {62}


_BAD = ["i0", b"i0", {"i0": 1.0}, 7, [("i0", 1.0, 2.0)], [("i0", float("nan"))], [("i0", float("inf"))]]
_BAD += [[("i0", None)], [("i0", "1.0")], [("i0", True)], [3], [("i0", 1.0), "i1"], np.array([[1.0, 2.0]])]


@pytest.mark.parametrize("shortlist", _BAD)
def test_shortlists_of_the_wrong_shape_are_refused(shortlist: Any, world: Any) -> None:
    queries, images = world
    with raises(DataError, "'query'"):
        run(queries["q0"], shortlist, images)


def test_numpy_ids_and_scores_are_taken(world: Any) -> None:
    queries, images = world
    ids, scores = np.array(["i1", "i9"]), np.array([0.5, 0.25], np.float32)
    ranking = run(queries["q0"], list(zip(ids, scores, strict=True)), images)
    assert [(c.id, c.score) for c in ranking] == [("i9", 0.25), ("i1", 0.5)]
    json.dumps([c.to_dict() for c in ranking])


def test_bad_options(world: Any, rng: np.random.Generator) -> None:
    queries, images = world
    with raises(MismatchError, "'odd'", "7-D"):
        run(queries["q0"], ["odd"], {"odd": random_features(rng, 3, dim=7)})
    for option, value in (("workers", 0), ("on_missing", "stop"), ("seed", -1)):
        with raises(ConfigError, option):
            run(queries["q0"], ["i9"], images, **{option: value})
    with raises(ConfigError):
        run(queries["q0"], ["i0"], ["i0"])
    with raises(ConfigError):
        run(queries["q0"], ["i0"], {"i0": np.zeros(3)})


def test_candidates_print_and_go_to_json(world: Any) -> None:
    queries, images = world
    first, last = run(queries["q0"], [("i9", 0.5), ("i1", 0.25)], images, reranking=RerankingConfig(top_n=1))
    assert str(first) == f"1. i9: {first.inliers} inliers (was 1, score 0.5)"
    assert str(last) == "2. i1: not verified (was 2, score 0.25)"
    assert last.to_dict() == {
        "id": "i1", "rank": 2, "first_rank": 2, "score": 0.25, "inliers": None, "ranking_score": None,
        "verification": None
    }  # fmt: skip
    assert first.verification is not None
    assert json.loads(json.dumps(first.to_dict()))["verification"] == first.verification.to_dict()
    assert "verification" not in first.to_dict(with_verification=False)


Rule = Literal["inliers", "effective", "weighted", "similarity"]
RULES: tuple[Rule, ...] = ("inliers", "effective", "weighted", "similarity")


def verified(similarities: list[float], more: float = 0.0, exponent: float = 3.0) -> Verification:
    """A verification with these similarities of the inliers, and `more` over the other mutual matches."""
    inliers = float((np.float32(similarities).astype(np.float64) ** exponent).sum())
    return replace(
        answer(len(similarities)),
        similarities=np.array(similarities, np.float32),
        similarity=inliers + more,
        exponent=exponent,
        effective_inliers=len(similarities) // 2,
    )


def rule(score: Rule, exponent: float = 3.0, blend: float = 0.3) -> RankingConfig:
    return RankingConfig(score=score, exponent=exponent, blend=blend)


SIMILARITIES = st.lists(st.floats(0, 1, width=32), max_size=12)
EVIDENCE = st.builds(verified, SIMILARITIES, st.floats(0, 500))


@given(
    similarities=SIMILARITIES,
    more=st.floats(0, 1e3),
    exponent=st.one_of(st.sampled_from([1e-300, 1e300]), st.floats(0.1, 50)),
    blend=st.one_of(st.sampled_from([0.0, 1e6]), st.floats(0, 10)),
)
def test_scores_equal_their_definitions(
    similarities: list[float], more: float, exponent: float, blend: float
) -> None:
    found = verified(similarities, more, exponent)
    powers = np.clip(np.float32(similarities).astype(np.float64), 0, 1) ** exponent
    expected = {
        "inliers": len(similarities) + blend * (powers.sum() + more),
        "effective": len(similarities) // 2 + blend * (powers.sum() + more),
        "similarity": powers.sum() + more,
        "weighted": powers.sum() + blend * (powers.sum() + more),
    }
    for score in RULES:
        assert ranking_score(found, rule(score, exponent, blend)) == pytest.approx(expected[score], rel=1e-9)


def test_another_exponent_is_refused_where_it_matters() -> None:
    found = verified([0.9] * 5, exponent=2.0)
    assert ranking_score(found, rule("inliers", exponent=3.0, blend=0.0)) == 5
    assert ranking_score(found, rule("effective", exponent=3.0, blend=0.0)) == 2
    for score in RULES:
        with raises(MismatchError, "^2", "^3"):
            ranking_score(found, rule(score, exponent=3.0))


@given(data=st.data(), score=st.sampled_from(RULES), scored=st.booleans(), n=st.integers(0, 12))
def test_ties_alone_depend_on_the_order_of_candidates(
    data: st.DataObject, score: Rule, scored: bool, n: int
) -> None:
    # Few different verifications, so that ties abound.
    kinds = data.draw(st.lists(EVIDENCE, min_size=1, max_size=3))
    found = {f"i{k}": data.draw(st.sampled_from(kinds)) for k in range(n)}
    first = {name: data.draw(st.sampled_from([0.5, 1.0, 2.0])) for name in found}
    shuffled = data.draw(st.permutations(list(found)))
    ranked, again = (
        rank_verified([(name, first[name]) if scored else name for name in order], found, ranking=rule(score))
        for order in (list(found), shuffled)
    )
    assert [c.ranking_score for c in ranked] == [c.ranking_score for c in again]
    assert [c.rank for c in ranked] == list(range(1, n + 1))
    for order, ranking in ((list(found), ranked), (shuffled, again)):
        assert sorted(c.id for c in ranking) == sorted(found)
        keys = [(-(c.ranking_score or 0.0), order.index(c.id)) for c in ranking]
        assert keys == sorted(keys)
        for c in ranking:
            assert (c.inliers, c.verification) == (found[c.id].inliers, found[c.id])


def test_what_is_not_verified_keeps_its_order_behind() -> None:
    found = {"c": verified([], more=0.0), "e": verified([0.9] * 9)}
    ranking = rank_verified(["a", "c", "b", "e", "a"], found, ranking=rule("weighted"))
    assert [(c.id, c.first_rank) for c in ranking] == [("e", 4), ("c", 2), ("a", 1), ("b", 3)]
    assert [c.ranking_score is None for c in ranking] == [False, False, True, True]
    assert rank_verified([], {}, ranking=rule("weighted")) == []
    with raises(DataError, "'mine'"):
        rank_verified([3], found, ranking=rule("weighted"), query="mine")  # type: ignore[list-item]


@pytest.mark.parametrize("score", RULES)
def test_reranking_ranks_by_the_rule_with_any_number_of_workers(score: Rule) -> None:
    rng = np.random.default_rng(3)
    query = random_features(rng, 60)
    images = {f"i{k}": seen_again(rng, query, 6 * k) for k in range(8)}
    shortlist = list(images)
    by = rule(score, exponent=2.0, blend=0.5)
    options = RerankOptions(RerankingConfig(top_n=6), load_profile("default").verification, by)
    ranking = rerank_shortlist(query, shortlist, images, options)
    found = {c.id: c.verification for c in ranking if c.verification is not None}
    assert set(found) == set(shortlist[:6])
    assert ranking == rank_verified(shortlist, found, ranking=by)
    assert [c.id for c in ranking[6:]] == shortlist[6:]
    assert {v.exponent for v in found.values()} == {2.0}
    two = rerank_batch({"q": query}, {"q": shortlist}, images, replace(options, workers=2))
    assert two["q"] == ranking


@pytest.mark.parametrize("option", ["score", "exponent", "blend", "cap"])
def test_rules_out_of_range(option: str) -> None:
    with pytest.raises(ValidationError):
        RankingConfig(**{"score": "weighted", "exponent": 3.0, "blend": 0.3, option: float("inf")})


CAPS = st.one_of(st.sampled_from([5e-324, 1e-300, 1.0, 35.0, 1e300]), st.floats(0.01, 200))


@given(found=EVIDENCE, cap=CAPS, score=st.sampled_from(RULES))
def test_capped_scores_equal_their_definition(found: Verification, cap: float, score: Rule) -> None:
    capped = RankingConfig(score=score, exponent=3.0, blend=0.3, cap=cap)
    assert ranking_score(found, capped) == min(ranking_score(found, rule(score)), cap)
