"""Graph re-ranking: a plain oracle, order, tails, empty graphs, and the same bits in any order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import RankingConfig, RerankingConfig, load_profile, parse_config
from delf_engine.errors import ConfigError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import (
    GraphCandidate,
    GraphConfig,
    RankedCandidate,
    RerankOptions,
    graph,
    rerank_batch,
    rerank_graph,
    write_rankings,
)
from delf_engine.verification import FineEvidence, verify_features
from helpers import raises, random_features
from verification.answers import answer

VERIFICATION = load_profile("accurate").verification.model_copy(update={"min_inliers": 20})
INLIERS = RankingConfig(score="inliers", exponent=3.0, blend=0.0)
OPTIONS = RerankOptions(RerankingConfig(top_n=100), VERIFICATION, INLIERS)


def ranking_of(inliers: Sequence[int | None], enough: int = 30) -> list[RankedCandidate]:
    """Candidates i0, i1, ... in this order."""
    found = [None if n is None else answer(n, min_inliers=enough) for n in inliers]
    return [
        RankedCandidate(f"i{k}", k, k, None, v, None if v is None else float(v.inliers))
        for k, v in enumerate(found, start=1)
    ]


def by_hand(
    ranking: Sequence[RankedCandidate], widths: Mapping[tuple[str, str], int], config: GraphConfig, enough: int
) -> list[tuple[str, float, int]]:
    """What `rerank_graph` says it does, each image asking every hub: id, score and width of the path."""
    head = [c for c in ranking if c.inliers is not None][: config.top]
    hubs = [c for c in head if (c.inliers or 0) >= enough]
    hubs = sorted(hubs, key=lambda c: (-(c.inliers or 0), c.rank))[: config.neighbours]
    out = []
    for c in head:
        own = c.inliers or 0
        paths = [own]
        for hub in hubs:
            width = widths.get((min(hub.id, c.id), max(hub.id, c.id)), 0)
            if hub.id != c.id and width >= enough:
                paths.append(min(hub.inliers or 0, width))
        out.append((c.id, own + config.blend * (max(paths) - own), max(paths), c.rank))
    return [entry[:3] for entry in sorted(out, key=lambda entry: (-entry[1], entry[3]))]


COUNTS = st.one_of(st.none(), st.integers(0, 60), st.sampled_from([0, 20, 30]))


@given(data=st.data())
def test_scores_are_those_of_the_oracle(data: st.DataObject) -> None:
    enough = data.draw(st.sampled_from([1, 20, 30]))
    ranking = ranking_of(data.draw(st.lists(COUNTS, max_size=9)), enough)
    config = GraphConfig(
        top=data.draw(st.integers(1, 9)),
        neighbours=data.draw(st.integers(1, 4)),
        blend=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
    )
    pairs = [(a.id, b.id) for a in ranking for b in ranking if a.id < b.id]
    some = st.one_of(st.integers(0, 60), st.sampled_from([20, 30]))  # those at the thresholds, too
    widths = {pair: data.draw(some) for pair in pairs}
    asked: list[tuple[str, str]] = []

    def known(wanted: Sequence[tuple[str, str]], *_: Any) -> dict[tuple[str, str], int]:
        asked.extend(wanted)
        return {pair: widths[pair] for pair in wanted if widths[pair] >= enough}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_verified", known)
        again = rerank_graph({"q": ranking}, {}, OPTIONS, config=config)["q"]
    expected = by_hand(ranking, widths, config, enough)
    assert [(c.id, c.ranking_score, c.path_inliers) for c in again[: len(expected)]] == expected
    assert len(set(asked)) == len(asked) <= config.top * config.neighbours
    assert sorted(asked) == asked
    ids = {c.id for c in again[: len(expected)]}
    assert [c.id for c in again[len(expected) :]] == [c.id for c in ranking if c.id not in ids]
    assert [c.rank for c in again] == list(range(1, len(ranking) + 1))
    plain = {c.id: c for c in ranking}
    for c in again:
        same = plain[c.id]
        assert (c.inliers, c.verification, c.first_rank) == (same.inliers, same.verification, same.first_rank)
        if c.id in ids:
            assert (c.via is None) == (c.path_inliers == c.inliers)
        else:
            assert (c.via, c.path_inliers, c.ranking_score) == (None, None, plain[c.id].ranking_score)


def test_a_path_adds_to_any_ranking_score(monkeypatch: pytest.MonkeyPatch) -> None:
    ranking = ranking_of([80, 10, 12, 11])
    weighted = [replace(c, ranking_score=s) for c, s in zip(ranking, (40.0, 9.0, 8.0, 7.0), strict=True)]
    monkeypatch.setattr(graph, "_verified", lambda *_: {})
    assert [c.id for c in rerank_graph({"q": weighted}, {}, OPTIONS)["q"]] == ["i1", "i2", "i3", "i4"]
    monkeypatch.setattr(graph, "_verified", lambda *_: {("i1", "i4"): 51})
    found = rerank_graph({"q": weighted}, {}, OPTIONS, config=GraphConfig(blend=0.5))["q"]
    assert [(c.id, c.ranking_score, c.via) for c in found] == [
        ("i1", 40.0, None),
        ("i4", 7.0 + 0.5 * (51 - 11) * 40 / 80, "i1"),
        ("i2", 9.0, None),
        ("i3", 8.0, None),
    ]


def test_what_details_confirm_is_ordered_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = FineEvidence(90, 60, 60)
    sure = [
        replace(c, verification=replace(c.verification, fine=fine, probability=p, accept=0.9))
        for c, p in zip(ranking_of([80, 50, 40]), (0.2, 0.95, 0.99), strict=True)
        if c.verification is not None
    ]
    rest = [replace(c, id=f"j{k}", rank=3 + k) for k, c in enumerate(ranking_of([60, 20]), 1)]
    monkeypatch.setattr(graph, "_verified", lambda *_: {})
    found = rerank_graph({"q": [*sure, *rest]}, {}, OPTIONS)["q"]
    assert [c.id for c in found] == ["i3", "j1", "i2", "i1", "j2"]
    assert [c.rank for c in found] == [1, 2, 3, 4, 5]


def window(rng: np.random.Generator, scene: LocalFeatures, first: int, last: int) -> LocalFeatures:
    """Features of a photograph that shows part of a scene, shifted, and clutter."""
    clutter = random_features(rng, 40)
    part = slice(first, last)
    return LocalFeatures(
        np.concatenate([scene.keypoints[part] + np.float32(rng.uniform(-9, 9, 2)), clutter.keypoints]),
        np.ones(last - first + 40),
        np.ones(last - first + 40),
        np.concatenate([scene.descriptors[part], clutter.descriptors]),
        scene.image_size,
    )


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]:
    """A scene of 300 features: the query shows the first hundred, images a window ever further on."""
    rng = np.random.default_rng(5)
    scene = random_features(rng, 300)
    queries = {"q": window(rng, scene, 0, 100), "r": window(rng, scene, 200, 300)}
    images = {f"i{k}": window(rng, scene, 25 * k, 25 * k + 100) for k in range(8)}
    images |= {f"x{k}": random_features(rng, 140) for k in range(4)}
    return queries, images


def first_round(world: Any, queries: Sequence[str] = ("q", "r")) -> dict[str, list[RankedCandidate]]:
    given_queries, images = world
    return rerank_batch(
        given_queries,
        {query: [(f"x{k}", 1.0) for k in range(4)] + [(f"i{k}", 0.5) for k in range(8)] for query in queries},
        images,
        OPTIONS,
    )


def test_images_beyond_the_query_are_found_through_others(world: Any) -> None:
    _, images = world
    rankings = first_round(world)
    config = GraphConfig()
    again = rerank_graph(rankings, images, OPTIONS, config=config)
    widths = {
        (a, b): verify_features(images[a], images[b], config=VERIFICATION).inliers
        for a in images
        for b in images
        if a < b
    }
    for query, ranking in again.items():
        expected = by_hand(rankings[query], widths, config, VERIFICATION.min_inliers)
        assert [(c.id, c.ranking_score, c.path_inliers) for c in ranking] == expected
    # i4 and i5 share nothing with the query; i3, i2 and i1 share it with them.
    assert {c.id for c in again["q"][:6]} == {f"i{k}" for k in range(6)}
    (found,) = [c for c in again["q"] if c.id == "i4"]
    assert (found.inliers or 0) < 10
    assert found.via in ("i1", "i2", "i3")
    assert {c.id for c in rankings["q"][:6]} != {f"i{k}" for k in range(6)}


def test_the_same_bits_in_any_order_with_any_workers_and_parts(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, images = world
    rankings = first_round(world)
    options = replace(OPTIONS, seed=3)
    alone = rerank_graph(rankings, images, options)
    assert rerank_graph(rankings, images.get, replace(options, workers=2)) == alone
    turned = dict(reversed(rankings.items()))
    again = rerank_graph(turned, images, options)
    assert again == alone
    assert list(again) == ["r", "q"]
    for query, ranking in rankings.items():
        assert rerank_graph({query: ranking}, images, options)[query] == alone[query]
    monkeypatch.setattr(graph, "_PAIRS_AT_ONCE", 3)
    assert rerank_graph(rankings, images, options) == alone


@pytest.mark.parametrize("inliers", [[], [None, None], [5, 3, 0], [25], [None, 19, None, 3], [30, 30, 30]])
def test_graphs_without_an_edge_keep_the_ranking(inliers: list[int | None]) -> None:
    ranking = sorted(ranking_of(inliers), key=lambda c: c.inliers is None)
    again = rerank_graph({"q": ranking}, {}, OPTIONS)["q"]
    assert [(c.id, c.inliers, c.ranking_score) for c in again] == [
        (c.id, c.inliers, c.ranking_score) for c in ranking
    ]
    assert [c.path_inliers for c in again] == [c.inliers for c in ranking]
    assert rerank_graph({}, {}, OPTIONS) == {}


def test_what_is_refused() -> None:
    for key, value in (("top", 0), ("neighbours", 0), ("blend", 1.5)):
        with raises(ConfigError, key):
            parse_config(GraphConfig, {key: value}, where="here")
    with raises(UnknownIdError, "'i"):
        rerank_graph({"q": ranking_of([40, 30])}, {}, OPTIONS)


def test_candidates_go_to_json_and_to_files(tmp_path: Path) -> None:
    c = GraphCandidate("a", 1, 4, 0.5, answer(30, min_inliers=30), 40.0, via="b", path_inliers=50)
    values = json.loads(json.dumps(c.to_dict(with_verification=False)))
    assert values == {
        "id": "a", "rank": 1, "first_rank": 4, "score": 0.5, "inliers": 30, "verdict": "same",
        "ranking_score": 40.0, "via": "b", "path_inliers": 50
    }  # fmt: skip
    assert str(c) == "1. a: 30 inliers, same, ranking score 40 (was 4, score 0.5)"
    for ending in (".jsonl", ".csv", ".run", ".npz"):
        write_rankings(tmp_path / f"out{ending}", {"q": [c]})
