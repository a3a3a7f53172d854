"""A searcher answers what one engine of all parts does, to the bit, wherever the parts lie; and a server on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import delf_engine as de
from delf_engine.config import Profile, load_profile, parse_config
from delf_engine.errors import ConfigError, FormatError, MismatchError, UnknownIdError
from delf_engine.serve import Settings, create_app
from delf_engine.serve.service import Service
from delf_engine.shards import index_part, plan_shards
from delf_engine.shards.parts import find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.ray import Searcher, _Actors, make_parts
from delf_engine.shards.searching import HeldParts
from helpers import raises, random_features
from one_process import OneProcess


@pytest.mark.parametrize("actors", [1, 2])
def test_a_searcher_answers_what_one_engine_does(
    actors: int,
    done: str,
    single: de.Engine,
    ray: OneProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    searcher, ids = Searcher(done, actors=actors), single.ids()
    assert searcher.ids() == ids
    assert len(searcher) == len(single)
    assert ids[0] in searcher
    assert "nobody" not in searcher
    queries = [*(single.get(name) for name in ids), random_features(np.random.default_rng(0), 9)]
    rounds = {"expand": True}, {"graph": True}
    among, few = ids[1:5], {"min_score": 0.2, "exclude": [*ids[:2], "nobody"]}
    for limits in ({}, {"among": among}, few, {"among": [ids[3]], "exclude": [ids[3]]}):
        wanted = single.index.search_many(queries, 5, **limits)
        for (names, scores), (others, values) in zip(
            searcher.index.search_many(queries, 5, **limits), wanted, strict=True
        ):
            assert names == others
            assert scores.tobytes() == values.tobytes()
    for query in (*queries[:2], queries[-1]):
        for options in ({}, {"top_k": 2}, {"top_n": 3, "seed": 5}, {"top_n": 0}, *rounds):
            assert searcher.search(query, **options).to_dict() == single.search(query, **options).to_dict()
    for limits in ({"among": ids[2]}, few):
        assert searcher.search(ids[0], **limits).to_dict() == single.search(ids[0], **limits).to_dict()
    results = zip(searcher.search_many(queries, confirm=2), single.search_many(queries, confirm=2), strict=True)
    assert all(one.to_dict() == other.to_dict() for one, other in results)
    assert not list(tmp_path.glob("delf-*"))  # nothing that an actor which is killed would leave


def test_a_searcher_takes_photographs(
    copied: Path, folder: Path, single: de.Engine, ray: OneProcess, tmp_path: Path
) -> None:
    searcher, path = Searcher(copied, actors=2), folder / single.ids()[0]
    box = (0, 0, 60, 60)
    for options in ({}, {"box": box}, {"confirm": 0}):
        assert searcher.search(path, **options).to_dict() == single.search(path, **options).to_dict()
    assert searcher.verify(path, single.ids()[1]) == single.verify(path, single.ids()[1])
    assert searcher.info().images == single.info().images
    ids = single.ids()
    lists = {ids[0]: [*ids[1:4], "nobody"], ids[1]: ids}
    with pytest.warns(de.errors.DelfEngineWarning):
        both = [engine.rerank_many(lists).rankings for engine in (searcher, single)]
    assert both[0] == both[1]
    for _ in range(2):  # the second goes on from what the first has kept
        with pytest.warns(de.errors.DelfEngineWarning):
            again = searcher.rerank_many(lists, checkpoint=tmp_path / "journal").rankings
        assert again == both[1]


def test_what_a_searcher_refuses(done: str, single: de.Engine, ray: OneProcess) -> None:
    searcher, query = Searcher(done, actors=2), single.get(single.ids()[0])
    for bad in ({"top_k": 0}, {"top_n": -1}, {"min_score": float("nan")}, {"candidates": "fused"}):
        with raises(ConfigError, next(iter(bad))):
            searcher.search(query, **bad)
    with raises(MismatchError, "8"):
        searcher.search(random_features(np.random.default_rng(0), 9, 8))
    with raises(ConfigError, "0"):
        searcher.search_many([query], threads=0)
    with raises(ConfigError, "'cuda'"):
        searcher.rerank_many({single.ids()[0]: single.ids()}, device="cuda")
    with pytest.warns(de.errors.DelfEngineWarning) as told:  # Ray would say nothing
        Searcher(done, actors=2, cpus=5)
    assert {"10", "8"} <= set(str(told[0].message).replace(",", "").split())
    for call in (lambda: searcher.get("nobody"), lambda: searcher.search(query, among=["nobody"])):
        with raises(UnknownIdError, "nobody"):
            call()


def test_parts_are_asked_for_much_at_once(
    copied: Path, single: de.Engine, ray: OneProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = _Actors.ask

    def counted(self: _Actors, method: str, *arguments: Any, **options: Any) -> Any:
        asked.append(method)
        return ask(self, method, *arguments, **options)

    monkeypatch.setattr(_Actors, "ask", counted)
    searcher, ids = Searcher(copied, actors=2), single.ids()
    asked.clear()
    searcher.search_many(ids, exclude=[f"nobody {i}" for i in range(9)], top_n=3, confirm=3)
    assert asked == ["known", "known", "known", "features", "search", "verify"]  # by id, as files; queries
    with raises(UnknownIdError, "x" * 600):
        searcher.get("x" * 600)
    assert all(len(name) < 600 for name in searcher.store._known)  # type: ignore[attr-defined]
    searcher.close()
    searcher.close()
    with raises(de.errors.DelfEngineError, "closed"):
        searcher.get(ids[0])


def test_a_part_that_is_gone_is_named_by_what_holds_it(copied: Path) -> None:
    """When it is asked, not when it starts: of that error Ray would make one of its own."""
    held, part = HeldParts(str(copied), [1], None, 1), find_parts(Place(copied), "index", [1])[0]
    shutil.rmtree(copied / part.folder)
    with raises(FormatError, part.folder, "index/00001.json"):
        held.counts()


@pytest.mark.parametrize("kind", ["asmk", "bow"])
def test_words_are_as_rare_as_they_are_in_all_parts(
    kind: Any,
    folder: Path,
    tiny_model: Path,
    made: Path,
    single: de.Engine,
    ray: OneProcess,
    tmp_path: Path,
) -> None:
    values = load_profile("default").model_dump()
    profile = parse_config(Profile, {**values, kind: {**values[kind], "idf": True}}, where="idf")
    plan_shards(folder, tmp_path / "p", model=tiny_model, profile=profile, index=kind, part_bytes=20_000)
    shutil.copytree(made / "features", tmp_path / "p" / "features")  # which do not depend on the index
    make_parts(tmp_path / "p", "index")
    searcher = Searcher(tmp_path / "p", actors=2)
    with de.Engine.create(tmp_path / "e", model=tiny_model, profile=profile, index=kind) as engine:
        engine.add_features((name, single.get(name)) for name in single.ids())
        queries = [single.get(name) for name in single.ids()]
        for (ids, scores), (names, wanted) in zip(
            searcher.index.search_many(queries, 5), engine.index.search_many(queries, 5), strict=True
        ):
            assert (ids, scores.tobytes()) == (names, wanted.tobytes())
    part = find_parts(Place(tmp_path / "p"), "index", [0])[0]
    assert index_part(tmp_path / "p", 0) == part


@pytest.fixture
def servers(
    copied: Path, single: de.Engine, ray: OneProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[TestClient]]:
    """One over the parts in two actors, one over the engine."""
    monkeypatch.setattr(Service, "_warm", lambda self: setattr(self, "ready", True))
    options: Any = {"readonly": True, "threads": 2, "decoders": 1}
    settings = [Settings(directory=copied, actors=2, **options), Settings(directory=single.directory, **options)]
    clients = [TestClient(create_app(each), "http://localhost") for each in settings]
    with clients[0], clients[1]:
        yield clients


def test_a_server_over_parts_answers_what_one_over_an_engine_does(
    servers: list[TestClient], single: de.Engine, folder: Path
) -> None:
    a, b = single.ids()[:2]

    def both(method: str, path: str, **options: Any) -> Any:
        answers = [client.request(method, path, **options) for client in servers]
        assert [each.status_code for each in answers] == [200, 200], answers[0].text
        one, other = (each.json() for each in answers)
        for each in (one, other):
            each.get("query", {}).pop("ref", None)  # an upload has a random name
        assert one == other
        return one

    found = both("GET", "/v1/images", params={"offset": 2, "limit": 3})
    assert (found["total"], [each["ref"] for each in found["images"]]) == (len(single), single.ids()[2:5])
    assert a not in [hit["photo"]["ref"] for hit in both("GET", "/v1/search", params={"id": a})["hits"]]
    files = {"file": (folder / b).read_bytes()}
    assert both("POST", "/v1/search", files=files, data={"box": "0,0,60,60", "expand": "true"})["hits"]
    both("GET", "/v1/verify", params={"a": a, "b": b})
    shortlist = {"id": a, "shortlist": [b, "nobody", single.ids()[3]]}
    assert both("POST", "/v1/rerank", data=shortlist)["unknown"] == ["nobody"]
    pictures = [client.get("/v1/photograph", params={"id": a}).content for client in servers]
    assert pictures[0] == pictures[1]
    assert servers[0].delete("/v1/images", params={"id": a}).status_code == 403


def test_parts_are_served_read_only(copied: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Settings(directory=copied, actors=2)
    with raises(ConfigError, "--actors"):
        create_app(Settings(directory=copied))
    with raises(ConfigError, "s3://bucket/place", "--actors"):
        create_app(Settings(directory="s3://bucket/place"))
