"""Searching an engine among some of its images, and with many queries at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.config import load_profile
from delf_engine.engine import searching
from delf_engine.errors import ConfigError, DelfEngineWarning, UnknownIdError
from delf_engine.index import AsmkIndex
from helpers import random_features

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
    with pytest.raises(UnknownIdError, match="among"):
        engine.search(query, among=["0", "nobody"], top_n=top_n)
    with pytest.raises(ConfigError, match="min_score"):
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
        with pytest.raises(ConfigError, match="list"):
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


def test_regions_of_the_profile(tmp_path: Path, tiny_model: Path) -> None:
    """They follow from the stored features, so an index that is lost is built again as it was."""
    profile = tmp_path / "regional.toml"
    profile.write_text('extends = "default"\n[asmk]\nregions = "grid"\n')
    images = [(f"{i}", random_features(np.random.default_rng(i), 150)) for i in range(5)]
    query = images[2][1]
    found = []
    for name in ("default", profile):
        with de.Engine.create(tmp_path / f"{Path(name).stem}", model=tiny_model, profile=name) as engine:
            engine.add_features(images)
            found.append([(hit.id, hit.score) for hit in engine.search(query, top_n=0)])
    assert found[1][0][0] == "2"
    assert found[0] != found[1]
    with de.Engine.open(tmp_path / "regional") as engine:
        assert isinstance(engine.index, AsmkIndex)
        again = AsmkIndex(engine.index.codebook, engine.index.config)
        again.save(tmp_path / "regional" / "index", overwrite=True)
    with de.Engine.open(tmp_path / "regional") as engine:
        assert [(hit.id, hit.score) for hit in engine.search(query, top_n=0)] == found[1]
    profile.write_text('extends = "default"\n[asmk]\nregions = "none"\n')
    assert load_profile(profile).asmk == load_profile().asmk
    profile.write_text('extends = "default"\n[asmk]\nregions = "attention"\n')
    with pytest.raises(ConfigError, match="'grid'"):
        load_profile(profile)
