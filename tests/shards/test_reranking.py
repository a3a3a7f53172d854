"""Re-ranking and searching by parts: what one machine finds, to the bit, wherever the parts lie."""

from __future__ import annotations

import json
import pickle
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
from delf_engine.shards import extract_part, plan_shards, rerank_shards
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from delf_engine.shards.ray import rerank_parts
from helpers import raises, random_features
from one_process import OneProcess


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


def test_the_command_for_a_part_and_for_the_file(
    copied: Path, single: de.Engine, shortlists: dict[str, Any], ray: OneProcess, tmp_path: Path
) -> None:
    """Workers of any scheduler verify parts by their number; one more call writes the file."""
    lists, out = tmp_path / "lists.jsonl", tmp_path / "command.jsonl"
    with lists.open("w") as file:
        for query, ids in shortlists.items():
            file.write(json.dumps({"query": query, "candidates": ids}) + "\n")
    command = ["shard", "rerank", str(copied), str(lists), str(out), "--queries", str(single.directory)]

    def called(*more: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output
        told: dict[str, Any] = json.loads(result.stdout)
        return told

    assert [called("--part", "1")["state"] for _ in range(2)] == ["done", "there"]
    assert not out.exists()
    told = called()
    assert (told["queries"], told["done"]) == (7, told["parts"] - 1)
    rerank_parts(copied, single.store, shortlists, tmp_path / "parts.jsonl")
    assert out.read_bytes() == (tmp_path / "parts.jsonl").read_bytes()
    some = {single.ids()[0]: [single.ids()[0]]}
    assert rerank_shards(copied, single.store, some, out, part=2)["state"] == "none"
    with raises(ConfigError, "99"):
        rerank_shards(copied, single.store, some, out, part=99)
