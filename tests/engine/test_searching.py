"""Searching an engine with limits and many queries, re-ranking many shortlists, second rounds, probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.config import load_profile
from delf_engine.engine import searching
from delf_engine.engine.pairs import calibration_of
from delf_engine.errors import (
    ConfigError,
    DelfEngineWarning,
    FormatError,
    LockedError,
    MismatchError,
    UnknownIdError,
)
from delf_engine.model import read_checkpoint_info
from delf_engine.reranking import RerankOptions, expand_query, rerank_graph
from delf_engine.verification import Calibration
from helpers import raises, random_features, write_tiny_model
from verification.answers import answer

SHARED = [random_features(np.random.default_rng(seed), 40) for seed in range(3)]


def _view(of: int, seed: int = 99) -> de.LocalFeatures:
    """Features of image `of` and others."""
    mixed = [SHARED[of], random_features(np.random.default_rng(seed), 20)]
    order = np.argsort(-np.concatenate([f.scores for f in mixed]), kind="stable")
    names = ("keypoints", "scales", "scores", "descriptors")
    return de.LocalFeatures(*(np.concatenate([getattr(f, n) for f in mixed])[order] for n in names), (640, 480))


@pytest.fixture(scope="module", params=["asmk", "kdtree"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Any]:
    directory = tmp_path_factory.mktemp("searching") / "e"
    with de.Engine.create(directory, model=tiny_model, index=request.param) as engine:
        engine.add_features([(f"{i}", _view(i % 3, seed=10 + i)) for i in range(12)])
        yield engine


@pytest.mark.parametrize("top_n", [0, 3, None])
def test_limits(engine: de.Engine, top_n: int | None) -> None:
    query = _view(0)
    full = {hit.id: hit.score for hit in engine.search(query, top_k=99, top_n=top_n)}
    hits = engine.search(query, top_k=99, top_n=top_n, among=["3", "5", "0"], exclude=["5", "nobody"])
    assert sorted(hit.id for hit in hits) == sorted(name for name in ("0", "3") if name in full)
    assert all(hit.score == full[hit.id] for hit in hits)
    limit = sorted(full.values())[len(full) // 2]
    hits = engine.search(query, top_k=99, top_n=top_n, min_score=limit)
    assert {hit.id for hit in hits} == {name for name, score in full.items() if score >= limit}
    assert "6" not in [hit.id for hit in engine.search("6", top_n=top_n, exclude="6")]
    assert [hit.id for hit in engine.search("6", top_n=top_n, among="6")] == ["6"]
    with raises(UnknownIdError, "among"):
        engine.search(query, among=["0", "nobody"], top_n=top_n)
    with raises(ConfigError, "min_score"):
        engine.search(query, min_score=float("nan"), top_n=top_n)


@pytest.mark.parametrize("top_n", [0, 3, None])
@pytest.mark.parametrize("block", [1, 4, 256])
def test_many_queries_give_what_single_ones_do(
    engine: de.Engine, top_n: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_BLOCK", block)
    queries = ["3", _view(1), de.LocalFeatures.empty((9, 9)), "3"]
    options: dict[str, Any] = {"top_k": 4, "top_n": top_n, "seed": 7, "exclude": ["0"], "min_score": 0.001}
    wanted = [engine.search(query, **options).to_dict() for query in queries]
    seen: list[tuple[int, int]] = []
    found = engine.search_many(
        iter(queries), **options, threads=2, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    assert [result.to_dict() for result in found] == wanted
    assert seen[-1] == (4, 4)
    assert engine.search_many([], top_n=top_n) == []


def test_many_queries_that_do_not_fit(engine: de.Engine) -> None:
    for one in ("3", Path("3"), b"3", SHARED[0], np.zeros((50, 50, 3), np.uint8)):
        with raises(ConfigError):
            engine.search_many(one)
    for bad in ({"top_k": 0}, {"top_n": -1}, {"threads": 0}, {"workers": 0}):
        with pytest.raises(ConfigError):
            engine.search_many(["3"], **bad)


@pytest.mark.parametrize("block", [1, 256])
def test_a_query_that_cannot_be_read_is_reported_and_the_rest_goes_on(
    engine: de.Engine, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_BLOCK", block)
    queries = ["3", "no such file.jpg", _view(1), b"no image"]
    wanted = [engine.search(query).to_dict() for query in (queries[0], queries[2])]
    failed: list[tuple[Any, str]] = []
    seen: list[tuple[int, int]] = []
    found = engine.search_many(
        queries,
        on_error=lambda query, error: failed.append((query, error.reason)),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [result.to_dict() for result in found] == wanted
    assert failed[0] == ("no such file.jpg", "no such file")
    assert [query for query, _ in failed] == [queries[1], queries[3]]
    assert seen[-1] == (4, 4)
    with pytest.warns(DelfEngineWarning, match="no such file.jpg"):
        assert engine.search_many(["no such file.jpg"]) == []


def _calibration(model: Path) -> Calibration:
    """Fitted to made-up answers under the default profile, for this model."""
    profile = load_profile("default")
    config = profile.verification
    made = {
        name: getattr(config, name)
        for name in ("model", "estimator", "residual_px", "reference_size", "min_inliers")
    }
    found = [answer(n, exponent=profile.ranking.exponent, **made) for n in [*range(30), *range(20, 80)]]
    identity = read_checkpoint_info(model).identity
    return Calibration.fit(found, [0] * 30 + [1] * 60, trained_on="made up", checkpoint=identity, profile=profile)


def test_many_shortlists_are_those_of_one_by_one(
    engine_of_photos: de.Engine, photos: list[str], tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone.jpg")
    lists = {query: [(p, 1.0 - i / 10) for i, p in enumerate(photos)] for query in [*photos[:3], gone]}
    seen = []
    done = engine_of_photos.rerank_many(lists, progress=lambda *state: seen.append(state))
    assert list(done.failed) == [gone]
    assert list(done.rankings) == list(done.features) == photos[:3]
    for query, ranking in done.rankings.items():
        assert ranking == list(engine_of_photos.rerank(query, lists[query], confirm=0).hits)
        assert done.features[query] == engine_of_photos.get(query)
    assert seen[-1] == ("verifying", 18, 18)
    first = engine_of_photos.rerank_many({photos[0]: lists[photos[0]]}, top_n=2).rankings[photos[0]]
    assert [hit.verification is None for hit in first] == [False, False, True, True, True, True]


def test_a_journal_is_gone_on_from(engine_of_photos: de.Engine, photos: list[str], tmp_path: Path) -> None:
    lists = dict.fromkeys(photos, photos)
    expected = engine_of_photos.rerank_many(lists).rankings
    part = dict.fromkeys(photos[:2], photos)
    engine_of_photos.rerank_many(part, checkpoint=tmp_path / "journal")
    size = (tmp_path / "journal").stat().st_size
    assert engine_of_photos.rerank_many(lists, checkpoint=tmp_path / "journal").rankings == expected
    assert (tmp_path / "journal").stat().st_size > size
    assert engine_of_photos.rerank_many(lists, checkpoint=tmp_path / "journal", workers=2).rankings == expected


def test_second_rounds_are_those_of_reranking(engine_of_photos: de.Engine, photos: list[str]) -> None:
    options = RerankOptions.of(engine_of_photos.manifest.profile)
    plain = engine_of_photos.search(photos[0], top_k=6, confirm=0)
    assert plain.features == engine_of_photos.get(photos[0])
    graph = engine_of_photos.search(photos[0], top_k=6, confirm=0, graph=True)
    expected = rerank_graph({"q": list(plain.hits)}, engine_of_photos.store, options)["q"]
    assert list(graph.hits) == expected
    again = engine_of_photos.search(photos[0], top_k=6, confirm=0, expand=True)
    sure = engine_of_photos.search(photos[0], top_k=6, confirm=6)  # what joins has been confirmed
    wider = expand_query(engine_of_photos.get(photos[0]), sure.hits, engine_of_photos.store)
    assert again.features == wider
    assert [hit.id for hit in again] == [hit.id for hit in engine_of_photos.search(wider, top_k=6, confirm=0)]
    listed = engine_of_photos.rerank_many({photos[0]: photos}, expand=True, graph=True)
    assert listed.features[photos[0]] == wider
    assert {hit.id for hit in listed.rankings[photos[0]]} == set(photos)


def test_options_out_of_range(engine_of_photos: de.Engine, photos: list[str]) -> None:
    for option in ("top_n", "top_k", "seconds", "workers"):
        with raises(ConfigError, option):
            engine_of_photos.rerank_many({photos[0]: photos}, **{option: 0})  # type: ignore[arg-type]


def test_answers_carry_the_probability_of_the_models_calibration(tmp_path: Path, photos: list[str]) -> None:
    model = write_tiny_model(tmp_path)
    calibration = _calibration(model)
    calibration.save(model.with_suffix(".calibration.json"))
    with de.Engine.create(tmp_path / "e", model=model) as engine:
        engine.add(photos)
        assert engine.calibration == calibration
        hits = [
            engine.search(photos[0])[0],
            engine.search_many([photos[0]])[0][0],
            engine.rerank(photos[0], photos)[0],
            engine.rerank_many({photos[0]: photos}).rankings[photos[0]][0],
        ]
        answers = [hit.verification for hit in hits] + [engine.verify(photos[0], photos[0])]
    answers.append(de.verify(photos[0], photos[0], model=model))
    for each in answers:
        assert each is not None
        assert each.probability == calibration.probability(each) > 0.9
    assert "probability" in str(answers[0])
    other = de.verify(photos[0], photos[0], model=model, profile="delf")  # it was fitted for other options
    details = calibration_of(model, load_profile("delf"), read_checkpoint_info(model).identity)
    assert details is not None
    assert details.coarse is None
    assert other.probability == details.probability(other)
    extract = de.Extractor.from_pretrained(model)
    given = de.verify(extract(photos[0]), extract(photos[1]), calibration=calibration)
    assert given.probability == calibration.probability(given)
    calibration.save(named := tmp_path / "no_json.txt")
    with raises(FormatError, str(named)):  # it was asked for: never passed over
        de.verify(photos[0], photos[0], model=model, calibration=named)


def test_without_a_calibration_details_alone_judge(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    profile = load_profile("default")
    for model in (tiny_model, tmp_path / "gone.safetensors"):
        found = calibration_of(model, profile, "x")
        assert found is not None
        assert found.coarse is None
    others = profile.model_copy(update={"fine": profile.fine.model_copy(update={"ratio": 0.8})})
    assert calibration_of(tiny_model, others, "x") is None
    same = de.verify(photos[0], photos[0], model=tiny_model)
    assert same.probability is not None
    assert same.same
    assert de.verify(photos[0], photos[0], model=tiny_model, fine=False).probability is None


def test_an_engine_keeps_a_calibration_of_its_own(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    own = _calibration(tiny_model)
    with (
        de.Engine.create(tmp_path / "e", model=tiny_model) as engine,
        de.Engine.open(tmp_path / "e", readonly=True, auto_refresh=True) as reader,
    ):
        engine.add(photos[:2])
        before, models = reader.verify(*photos[:2]), reader.calibration
        assert models != own
        engine.use_calibration(own)
        assert engine.calibration == reader.calibration == own
        after = reader.verify(*photos[:2])
        assert after.probability == own.probability(after) != before.probability
        with raises(MismatchError, "other"):
            engine.use_calibration(own.model_copy(update={"checkpoint": "other"}))
        with raises(LockedError):
            reader.use_calibration(None)
        engine.use_calibration(None)
        assert reader.calibration == models
        assert reader.verify(*photos[:2]) == before
