"""Re-ranking and searching by parts: what one machine finds, to the bit, wherever the parts lie."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import delf_engine as de
from delf_engine.cli import app
from delf_engine.config import Profile, load_profile, parse_config
from delf_engine.errors import ConfigError, DataError, FormatError, MismatchError
from delf_engine.reranking import write_rankings
from delf_engine.shards import extract_part, index_part, plan_shards
from delf_engine.shards import ray as on_ray
from delf_engine.shards.parts import find_parts
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from delf_engine.shards.ray import Searcher, make_parts, rerank_parts
from helpers import raises, random_features


class OneProcess:
    """Ray as the package uses it, in this process; tasks run when they are asked for, actors live on."""

    class exceptions:  # noqa: N801 - as there
        class RayTaskError(Exception):
            pass

    def remote(self, **options: Any) -> Any:
        assert set(options) <= {"num_cpus", "num_gpus", "max_retries", "max_restarts", "max_task_retries"}
        return _Handle

    def put(self, value: Any) -> Any:
        return value

    def get(self, value: Any) -> Any:
        return value

    def wait(self, waiting: Any, num_returns: int) -> None:
        assert len(waiting) == num_returns

    def kill(self, actor: Any) -> None:
        pass


class _Handle:
    def __init__(self, made: Any) -> None:
        self._made = made

    def remote(self, *arguments: Any) -> Any:
        made = self._made(*arguments)
        return _Handle(made) if isinstance(self._made, type) else made

    def __getattr__(self, name: str) -> Any:
        return _Handle(getattr(self._made, name))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> OneProcess:
    ray = OneProcess()
    monkeypatch.setattr(on_ray, "_ray", lambda: ray)
    return ray


@pytest.fixture
def done(address: str, made: Path) -> str:
    """A place with all parts: a folder, or a store."""
    place = Place(address)
    for path in made.rglob("*"):
        if path.is_file() and place.local is None:
            place.upload(path, path.relative_to(made).as_posix())
    return address if place.local is None else str(shutil.copytree(made, address))


@pytest.fixture(scope="session")
def shortlists(single: de.Engine) -> dict[str, Any]:
    """All images but itself as candidates of each, one that could not be read, and one that nobody knows."""
    ids = single.ids()
    others = {query: [name for name in ids if name != query] for query in ids}
    return {query: [*names[:2], "z/broken.jpg", "unknown", *names[2:]] for query, names in others.items()}


def one_machine(single: de.Engine, lists: dict[str, Any], out: Path, **options: Any) -> bytes:
    with pytest.warns(de.errors.DelfEngineWarning):  # two have no features
        write_rankings(out, single.rerank_many(lists, **options).rankings)
    return out.read_bytes()


@pytest.mark.parametrize(("name", "options"), [("r.jsonl", {}), ("r.csv", {"top_n": 4, "seed": 3}), ("r.npz", {})])
def test_a_ranking_by_parts_is_that_of_one_machine(
    name: str,
    options: dict[str, Any],
    done: str,
    single: de.Engine,
    shortlists: dict[str, Any],
    ray: OneProcess,
    tmp_path: Path,
) -> None:
    plan = read_plan(Place(done))
    told = rerank_parts(done, single.store, shortlists, tmp_path / name, **options)
    pairs = len(shortlists) * options.get("top_n", 8)
    assert {"queries": 7, "pairs": pairs, "parts": plan.parts, "done": plan.parts}.items() <= told.items()
    assert 0 < told["verified"] < pairs
    assert (tmp_path / name).read_bytes() == one_machine(single, shortlists, tmp_path / f"one-{name}", **options)
    again = rerank_parts(done, single.get, shortlists, tmp_path / f"again-{name}", **options)
    assert {**again, "out": told["out"]} == {**told, "done": 0}
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_what_is_there_is_not_verified_again(
    copied: Path, single: de.Engine, shortlists: dict[str, Any], ray: OneProcess, tmp_path: Path
) -> None:
    """As after a driver that died; and another question, or other features, are another re-ranking."""
    first = rerank_parts(copied, single.store, shortlists, tmp_path / "r.jsonl")
    (stage,) = (copied / "reranked").iterdir()
    (stage / "00001.json").unlink()
    assert rerank_parts(copied, single.store, shortlists, tmp_path / "r.jsonl") == {**first, "done": 1}
    few = dict(list(shortlists.items())[:1])
    for lists, options in [(few, {}), (shortlists, {"seed": 1}), (shortlists, {"top_n": 3})]:
        other = rerank_parts(copied, single.store, lists, tmp_path / "r.jsonl", **options)
        assert other["done"] == other["parts"] > 0
    assert len(list((copied / "reranked").iterdir())) == 4
    (copied / "features" / "00001.json").unlink()
    assert extract_part(copied, 1).state == "done"
    with raises(MismatchError, "part 1", "features", "00001.json"):
        rerank_parts(copied, single.store, shortlists, tmp_path / "r.jsonl")


def test_what_parts_cannot_rank(
    copied: Path, folder: Path, tiny_model: Path, single: de.Engine, ray: OneProcess, tmp_path: Path
) -> None:
    out, ids = tmp_path / "r.jsonl", single.ids()
    lists = {ids[0]: ids, "nobody": ids[:2]}
    (copied / "features" / "00002.json").unlink()
    with raises(FormatError, "(2)"):
        rerank_parts(copied, single.store, lists, out)
    for bad in ({ids[0]: "text"}, {ids[0]: [("a", 2.0), ("b", 1.0)]}):
        with raises(DataError, ids[0]):
            rerank_parts(copied, single.store, bad, out, distances=True)
    with raises(MismatchError, "8-D"):
        rerank_parts(copied, lambda _: random_features(np.random.default_rng(0), 9, 8), {"q": ids[:1]}, out)
    assert rerank_parts(copied, {}.get, lists, out)["pairs"] == 0  # queries without features stay as they were
    assert [c["id"] for c in json.loads(out.read_text().splitlines()[0])["candidates"]] == ids
    values = load_profile("default").model_dump()
    hasty = parse_config(Profile, {**values, "reranking": {**values["reranking"], "seconds": 1}}, where="hasty")
    plan_shards(folder, tmp_path / "hasty", model=tiny_model, profile=hasty)
    with raises(ConfigError, "seconds"):
        rerank_parts(tmp_path / "hasty", single.store, lists, out)


def test_rankings_of_parts_are_evaluated(copied: Path, single: de.Engine, ray: OneProcess, tmp_path: Path) -> None:
    ids = single.ids()
    gnd = [{"bbx": [0, 0, 9, 9], "easy": [(i + 1) % len(ids)], "hard": [], "junk": [i]} for i in range(len(ids))]
    truth = {"imlist": ids, "qimlist": [f"query {name}" for name in ids], "gnd": gnd}
    (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(truth))
    queries = {f"query {name}": single.get(name) for name in ids}
    rerank_parts(copied, queries, dict.fromkeys(queries, ids), tmp_path / "r.jsonl")
    command = ["evaluate", str(tmp_path / "r.jsonl"), "--ground-truth", str(tmp_path / "gnd.pkl"), "--json"]
    result = CliRunner().invoke(app, command)
    figures = json.loads(result.stdout)["results"]["Easy"]
    assert figures["queries"] == len(ids)
    assert 0 < figures["mAP"] <= 100


@pytest.mark.parametrize("actors", [1, 2])
def test_a_searcher_finds_and_verifies_what_one_engine_does(
    actors: int,
    done: str,
    single: de.Engine,
    ray: OneProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    searcher = Searcher(done, actors=actors)
    queries = [*(single.get(name) for name in single.ids()), random_features(np.random.default_rng(0), 9)]
    wanted = single.index.search_many(queries, 5)
    for (ids, scores), (names, values) in zip(searcher.search_many(queries, 5), wanted, strict=True):
        assert ids == names
        assert scores.tobytes() == values.tobytes()
    for query in queries:
        for options in ({}, {"top_k": 2}, {"top_n": 3, "seed": 5}, {"top_n": 0}):
            assert searcher.search(query, **options).to_dict() == single.search(query, **options).to_dict()
    assert not list(tmp_path.glob("delf-*"))  # nothing that an actor which is killed would leave
    for bad in ({"top_k": 0}, {"top_n": -1}):
        with raises(ConfigError, "top_"):
            searcher.search(queries[0], **bad)
    with raises(MismatchError, "8"):
        searcher.search(random_features(np.random.default_rng(0), 9, 8))


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
            searcher.search_many(queries, 5), engine.index.search_many(queries, 5), strict=True
        ):
            assert (ids, scores.tobytes()) == (names, wanted.tobytes())
    part = find_parts(Place(tmp_path / "p"), "index", [0])[0]
    assert index_part(tmp_path / "p", 0) == part
