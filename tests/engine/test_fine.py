"""Fine features of an engine's images: stored or extracted on demand, never those of another photograph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.engine.fine import FINE
from delf_engine.errors import ConfigError, DelfEngineWarning
from delf_engine.extraction.fine import fine_features
from delf_engine.reranking import RankedCandidate
from delf_engine.storage import FeatureStore
from delf_engine.verification import FineEvidence
from helpers import flip_stored, planes_decide, raises, random_photo, write_image


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(3)
    (tmp_path / "photos").mkdir()
    return [str(write_image(tmp_path / "photos" / f"{i}.png", random_photo(rng, 200, 150))) for i in range(4)]


def engine_of(tmp_path: Path, model: Path, files: list[str], *, fine: bool) -> de.Engine:
    engine = de.Engine.create(tmp_path / ("fine" if fine else "plain"), model=model, fine=fine)
    engine.add(files)
    return engine


def evidence(hits: de.SearchResult) -> list[object]:
    return [None if hit.verification is None else hit.verification.fine for hit in hits]


def test_stored_and_on_demand_are_the_same_bits(tmp_path: Path, tiny_model: Path, files: list[str]) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=True) as kept:
        assert kept.state.fine.store is not None
        assert kept.state.fine.store.ids() == files
        with engine_of(tmp_path, tiny_model, files, fine=False) as plain:
            assert plain.state.fine.store is None
            found = plain.search(files[0])
            assert found.hits == kept.search(files[0]).hits == plain.search(files[0]).hits
            assert all(one is not None for one in evidence(found))
            assert plain.verify(files[0], files[1]) == kept.verify(files[0], files[1])
        shutil.rmtree(Path(files[0]).parent)  # the store needs no photographs
        assert kept.search(files[0]).hits == found.hits
    with de.Engine.open(tmp_path / "fine", readonly=True) as reader:
        assert reader.search(files[0]).hits == found.hits


def test_without_photographs_and_records_the_evidence_is_coarse(
    tmp_path: Path, tiny_model: Path, files: list[str]
) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=False) as engine:
        coarse = engine.search(files[0], confirm=0)
        shutil.rmtree(Path(files[0]).parent)
        for found in (engine.search, lambda one: engine.search_many([one], confirm=5)[0]):
            with pytest.warns(DelfEngineWarning, match=str(tmp_path / "photos")):
                assert found(files[0]).hits == coarse.hits
        assert engine.search(engine.get(files[0])).hits == coarse.hits  # nothing was to be read
        assert evidence(coarse) == [None] * 4
        assert engine.verify(files[0], files[1]).fine is None


def test_ids_that_are_no_files_are_not_missed(tmp_path: Path, tiny_model: Path, files: list[str]) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=False) as engine:
        with de.Engine.create(tmp_path / "features", model=tiny_model) as other:
            other.add_features([(f"{i}.jpg", engine.get(file)) for i, file in enumerate(files)])
            assert other.search(files[0])[0].verification is not None
        Path(files[1]).rename(tmp_path / "1.png")  # one of them only
        assert evidence(engine.search(files[0], top_k=4)).count(None) == 1
    with de.Engine.create(tmp_path / "named", model=tiny_model) as named:
        named.add(files[2:], ids=["c", "d"])
        assert evidence(named.search(files[2])) == [None, None]


def test_records_follow_their_images(tmp_path: Path, tiny_model: Path, files: list[str]) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=True) as engine:
        store = engine.state.fine.store
        assert store is not None
        before = store.get(files[1])
        engine.remove(files[0])
        assert files[0] not in store
        write_image(Path(files[1]), random_photo(np.random.default_rng(9), 200, 150))
        engine.replace(files[1])
        assert store.get(files[1]) != before
        engine.add_features([(files[2], engine.get(files[3]))], replace=True)  # of which no photograph is known
        assert files[2] not in store
        assert engine.add_features([(files[3], engine.get(files[2]))]).skipped == [files[3]]
        assert files[3] in store


def test_a_missing_or_damaged_record_is_extracted(tmp_path: Path, tiny_model: Path, files: list[str]) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=True) as engine:
        found = engine.search(files[0])
    with FeatureStore.open(tmp_path / "fine" / FINE) as store:  # as after a kill between the two commits
        store.remove(files[1:2])
    flip_stored(tmp_path / "fine" / FINE, files[2])
    with de.Engine.open(tmp_path / "fine") as engine:
        assert engine.search(files[0]).hits == found.hits
        assert [image_id for image_id, _ in engine.check().damaged_images] == [files[2]]
        shutil.rmtree(Path(files[0]).parent)
        seen = {hit.id: hit.verification for hit in engine.search(files[0])}
        assert [seen[name].fine is not None for name in files] == [True, False, False, True]  # type: ignore[union-attr]


def test_confirmed_hits_are_ordered_by_evidence_and_fewer_are_the_first_of_more(
    tmp_path: Path, tiny_model: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=True) as engine:
        engine.state.calibration = planes_decide()
        coarse = [hit.id for hit in engine.search(files[0], confirm=0)]
        agreeing = {files[0]: 90, coarse[1]: 5, coarse[2]: 30, coarse[3]: 20}
        marked = {len(engine.state.fine_of(name) or ()): n for name, n in agreeing.items()}
        assert len(marked) == 4

        def evidence_of(pairs: Any, **_: object) -> list[FineEvidence]:
            return [FineEvidence(99, 0, marked[len(image)]) for _, image in pairs]

        monkeypatch.setattr("delf_engine.reranking.confirming.evidence_of_pairs", evidence_of)
        found = engine.search(files[0])
        assert [hit.id for hit in found] == [files[0], coarse[2], coarse[3], coarse[1]]
        assert [hit.rank for hit in found] == [1, 2, 3, 4]
        assert engine.search(files[0], top_k=2).hits == found.hits[:2]
        assert engine.search_many(files[:1], top_k=2, confirm=10)[0].hits == found.hits[:2]
        assert engine.rerank(files[0], coarse).hits[:2] == engine.rerank(files[0], coarse, top_k=2).hits
        assert [hit.id for hit in engine.rerank(files[0], coarse)] == [hit.id for hit in found]
        assert [hit.id for hit in engine.search(files[0], confirm=3)] == [coarse[i] for i in (0, 2, 1, 3)]
        (many,) = engine.rerank_many({files[0]: coarse}, confirm=3).rankings.values()
        assert [hit.id for hit in many] == [coarse[i] for i in (0, 2, 1, 3)]


def test_the_first_n_are_confirmed(tmp_path: Path, tiny_model: Path, files: list[str]) -> None:
    with engine_of(tmp_path, tiny_model, files, fine=True) as engine:

        def confirmed(hits: list[RankedCandidate]) -> list[bool]:
            return [hit.verification is not None and hit.verification.fine is not None for hit in hits]

        assert confirmed(list(engine.search(files[0], confirm=2))) == [True, True, False, False]
        lists = dict.fromkeys(files[:2], files)
        plain = engine.rerank_many(lists).rankings
        some = engine.rerank_many(lists, confirm=3).rankings
        for query, hits in some.items():
            assert [hit.id for hit in hits[:1] + hits[3:]] == [query, plain[query][3].id]
            assert [hit.rank for hit in hits] == [1, 2, 3, 4]
            assert confirmed(hits) == [True, True, True, False]
            assert confirmed(plain[query]) == [False] * 4
        assert [r.hits for r in engine.search_many(files[:2], confirm=3)] == [
            engine.search(query, confirm=3).hits for query in files[:2]
        ]
        fine = engine.state.fine_of
        given = {"confirm": 3, "profile": "default", "calibration": engine.calibration}
        assert de.rerank_many(engine.store, lists, engine.store, fine=(fine, fine), **given) == some
        one = {files[1]: fine(files[1])}
        only_one = de.rerank_many(engine.store, lists, engine.store, fine=(fine, one), **given)
        assert sum(confirmed(only_one[files[0]])) <= 1
        with raises(ConfigError, "fine"):
            de.rerank_many(engine.store, lists, engine.store, **given)
        with raises(ConfigError, "confirm"):
            engine.rerank_many(lists, confirm=-1)
        with raises(ConfigError, "confirm"):
            engine.search(files[0], confirm=-1)


def test_a_reader_that_goes_on_keeps_what_it_has_extracted(
    tmp_path: Path, tiny_model: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(image: str, **options: Any) -> de.LocalFeatures:
        read.append(image)
        return fine_features(image, **options)

    with de.Engine.create(tmp_path / "e", model=tiny_model) as engine:
        engine.add(files[:-1])
        monkeypatch.setattr("delf_engine.engine.fine.fine_features", counted)
        with de.Engine.open(tmp_path / "e", readonly=True, auto_refresh=True) as reader:
            first = [reader.verify(files[0], each).probability for each in files[1:-1]]
            assert len(read) == len(files) - 1
            engine.add([files[-1]])
            assert len(reader) == len(files)
            assert [reader.verify(files[0], each).probability for each in files[1:-1]] == first
            assert len(read) == len(files) - 1
