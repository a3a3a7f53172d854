"""Global descriptors of an engine: made with the features, stored, searched by, never those of another head."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.errors import ConfigError, DelfEngineWarning, FeatureError, MismatchError
from delf_engine.model import GlobalHead
from helpers import raises, random_features


def head(seed: int = 0) -> GlobalHead:
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(256, 16)))[0].astype(np.float32)
    return GlobalHead("gem", np.zeros(256, np.float32), matrix, {"p": np.array(3.0, np.float32)})


@pytest.fixture
def model(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model with a global head beside it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model.parent, folder)
    head().save(folder / "tiny.global.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture
def engine(tmp_path: Path, model: Path, photos: list[str]) -> de.Engine:
    with de.Engine.create(tmp_path / "engine", model=model) as made:
        made.add(photos[:5])
    return de.Engine.open(tmp_path / "engine")


def test_vectors_are_stored_and_searched_by(engine: de.Engine, photos: list[str]) -> None:
    own = engine.extractor(photos[2])
    assert own.global_descriptor is not None
    assert own.global_descriptor.shape == (16,)
    image = engine.ids()[2]
    np.testing.assert_array_equal(engine.get(image).global_descriptor, own.global_descriptor)
    cosines = {i: float(engine.get(i).global_descriptor @ own.global_descriptor) for i in engine.ids()}  # type: ignore[operator]
    found = engine.search(photos[2], candidates="global", top_n=0)
    assert [hit.id for hit in found] == sorted(cosines, key=lambda i: -cosines[i])
    np.testing.assert_allclose([hit.score for hit in found], sorted(cosines.values())[::-1], rtol=1e-5)
    assert engine.search(photos[2], candidates="fused")[0].id == image
    many = engine.search_many(photos[:2], candidates="fused")
    assert [result[0].id for result in many] == engine.ids()[:2]
    engine.close()


def test_all_that_engines_do_keeps_vectors(engine: de.Engine, photos: list[str]) -> None:
    engine.add(photos[5:])
    engine.remove(engine.ids()[:1])
    engine.compact()
    engine.reindex("kdtree")
    query = engine.get(engine.ids()[-1])
    before = engine.search(query, candidates="global", top_n=0).hits
    assert [hit.id for hit in before][:1] == engine.ids()[-1:]
    engine.close()
    shutil.rmtree(engine.directory / engine.manifest.index_folder)  # made again from the store
    with pytest.warns(DelfEngineWarning):
        again = de.Engine.open(engine.directory)
    with again:
        assert again.search(query, candidates="global", top_n=0).hits == before
        assert again.index.info().vectors == 16


def test_what_cannot_be_asked_for_is_said(tmp_path: Path, engine: de.Engine, tiny_model: Path) -> None:
    query = engine.get(engine.ids()[0])
    with raises(ConfigError, "'kdtree'", "'asmk'"):
        engine.search(query, candidates="kdtree")
    with raises(FeatureError):
        engine.search(replace(query, global_descriptor=None), candidates="global")
    with raises(MismatchError, "16", "17"):
        engine.add_features([("x", replace(query, global_descriptor=np.eye(1, 17)[0]))])
    assert "x" not in engine  # the store is written first: what the index would refuse must not get there
    assert engine.add_features([("y", replace(query, global_descriptor=None))]).added == ["y"]
    engine.remove(["y"])
    assert engine.search(query, candidates="asmk").hits == engine.search(query).hits
    engine.close()
    with de.Engine.create(tmp_path / "plain", model=tiny_model) as plain:
        plain.add_features([("x", random_features(np.random.default_rng(0), 9))])
        with raises(MismatchError):
            plain.search("x", candidates="global")


def test_another_head_is_refused_and_an_engine_without_stays_without(
    tmp_path: Path, engine: de.Engine, model: Path, photos: list[str], tiny_model: Path
) -> None:
    engine.close()
    beside = model.with_name("tiny.global.safetensors")
    head(seed=1).save(beside)
    with de.Engine.open(engine.directory) as again, raises(MismatchError, head().identity, head(seed=1).identity):
        again.add(photos[5:])
    beside.unlink()
    with de.Engine.open(engine.directory) as again, raises(MismatchError, head().identity):
        again.search(photos[5])
    with de.Engine.create(tmp_path / "before", model=model) as plain:
        head().save(beside)
        plain.add(photos[:1])
        assert plain.get(plain.ids()[0]).global_descriptor is None
