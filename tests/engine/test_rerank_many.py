"""Re-ranking many shortlists with an engine, second rounds, and the probability that a calibration gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.config import load_profile
from delf_engine.engine.pairs import calibration_of
from delf_engine.errors import ConfigError
from delf_engine.model import read_checkpoint_info
from delf_engine.reranking import RankedCandidate, RerankOptions, expand_query, rerank_graph
from delf_engine.verification import Calibration
from delf_engine.verification.calibration import calibration_beside
from helpers import random_photo, write_image


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: list[str]) -> Iterator[de.Engine]:
    with de.Engine.create(tmp_path_factory.mktemp("many") / "e", model=tiny_model) as made:
        made.add(photos)
        yield made


def _calibration(model: Path) -> Calibration:
    """Fitted to made-up answers under the default profile, for this model."""
    profile = load_profile("default")
    config = profile.verification
    found = [
        de.Verification(
            model=config.model,
            estimator=config.estimator,
            transform=np.eye(3) if n else None,
            matches=np.repeat(np.arange(n)[:, None], 2, axis=1),
            similarities=np.full(n, 0.8),
            putative=n + 3,
            residual_px=config.residual_px,
            reference_size=config.reference_size,
            min_inliers=config.min_inliers,
            similarity=float(n),
            exponent=profile.ranking.exponent,
        )
        for n in [*range(30), *range(20, 80)]
    ]
    identity = read_checkpoint_info(model).identity
    return Calibration.fit(found, [0] * 30 + [1] * 60, trained_on="made up", checkpoint=identity, profile=profile)


def test_many_shortlists_are_those_of_one_by_one(engine: de.Engine, photos: list[str], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.jpg")
    lists = {query: [(p, 1.0 - i / 10) for i, p in enumerate(photos)] for query in [*photos[:3], gone]}
    seen = []
    done = engine.rerank_many(lists, progress=lambda *state: seen.append(state))
    assert list(done.failed) == [gone]
    assert list(done.rankings) == list(done.features) == photos[:3]
    for query, ranking in done.rankings.items():
        assert ranking == list(engine.rerank(query, lists[query]).hits)
        assert done.features[query] == engine.get(query)
    assert seen[-1] == ("verifying", 18, 18)
    first = engine.rerank_many({photos[0]: lists[photos[0]]}, top_n=2).rankings[photos[0]]
    assert [hit.verification is None for hit in first] == [False, False, True, True, True, True]


def test_a_journal_is_gone_on_from(engine: de.Engine, photos: list[str], tmp_path: Path) -> None:
    lists = dict.fromkeys(photos, photos)
    expected = engine.rerank_many(lists).rankings
    part = dict.fromkeys(photos[:2], photos)
    engine.rerank_many(part, checkpoint=tmp_path / "journal")
    size = (tmp_path / "journal").stat().st_size
    assert engine.rerank_many(lists, checkpoint=tmp_path / "journal").rankings == expected
    assert (tmp_path / "journal").stat().st_size > size
    assert engine.rerank_many(lists, checkpoint=tmp_path / "journal", workers=2).rankings == expected


def test_second_rounds_are_those_of_reranking(engine: de.Engine, photos: list[str]) -> None:
    options = RerankOptions.of(engine.manifest.profile)
    plain = engine.search(photos[0], top_k=6)
    assert plain.features == engine.get(photos[0])
    graph = engine.search(photos[0], top_k=6, graph=True)
    expected = rerank_graph({"q": list(plain.hits)}, engine.store, options)["q"]
    assert list(graph.hits) == expected
    assert all(isinstance(hit, RankedCandidate) for hit in graph)
    again = engine.search(photos[0], top_k=6, expand=True)
    wider = expand_query(engine.get(photos[0]), plain.hits, engine.store)
    assert again.features == wider
    assert again.hits == engine.search(wider, top_k=6).hits
    listed = engine.rerank_many({photos[0]: photos}, expand=True, graph=True)
    assert listed.features[photos[0]] == wider
    assert {hit.id for hit in listed.rankings[photos[0]]} == set(photos)


def test_options_out_of_range(engine: de.Engine, photos: list[str]) -> None:
    for options in ({"top_n": 0}, {"top_k": 0}, {"seconds": 0.0}, {"workers": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            engine.rerank_many({photos[0]: photos}, **options)  # type: ignore[arg-type]


def test_answers_carry_the_probability_of_the_models_calibration(
    tmp_path: Path, tiny_model: Path, photos: list[str]
) -> None:
    model = tmp_path / "own.safetensors"
    model.write_bytes(tiny_model.read_bytes())
    beside = tiny_model.with_name(f"{tiny_model.stem}.codebook.safetensors")
    model.with_name("own.codebook.safetensors").write_bytes(beside.read_bytes())
    calibration = _calibration(model)
    calibration.save(calibration_beside(model))
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
    for answer in answers:
        assert answer is not None
        assert answer.probability == calibration.probability(answer) > 0.9
    assert "probability" in str(answers[0])
    other = de.verify(photos[0], photos[0], model=model, profile="delf")  # fitted for other options
    assert other.probability is None
    given = de.verify(
        de.Extractor.from_pretrained(model)(photos[0]),
        de.Extractor.from_pretrained(model)(photos[1]),
        calibration=calibration,
    )
    assert given.probability == calibration.probability(given)


def test_no_calibration_no_probability(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    assert calibration_of(tiny_model, load_profile("default"), "x") is None
    assert calibration_of(tmp_path / "gone.safetensors", load_profile("default"), "x") is None
    path = write_image(tmp_path / "a.png", random_photo(np.random.default_rng(0), 100, 100))
    assert de.verify(str(path), photos[0], model=tiny_model).probability is None
