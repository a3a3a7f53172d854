"""Shards on Ray: a cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.errors import ConfigError, FormatError
from delf_engine.reranking import write_rankings
from delf_engine.shards import merge_shards, plan_shards
from delf_engine.shards.ray import Searcher, make_parts, rerank_parts
from helpers import raises, random_features


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="of the extra `ray`")
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}.items():
            patch.setenv(name, value)
        made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        made.options, made.ray = options, ray
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.mark.timeout(600)
def test_a_node_dies_and_nothing_changes(
    cluster: Any, folder: Path, tiny_model: Path, single: de.Engine, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    plan = plan_shards(folder, place, model=tiny_model, part_bytes=6_000)
    assert plan.parts >= 6
    node = cluster.add_node(**cluster.options)
    began = time.monotonic()

    def kill_when_it_works() -> None:
        if list(place.glob("features/*/data.mdb")) or time.monotonic() > began + 200:
            cluster.remove_node(node, allow_graceful=False)
        else:
            Timer(0.05, kill_when_it_works).start()

    kill_when_it_works()
    parts = make_parts(place, "features")
    assert [part.part for part in parts] == list(range(plan.parts))
    assert len(cluster.worker_nodes) == 0
    assert {part.state for part in make_parts(os.path.relpath(place), "index")} == {"done"}
    assert {part.state for part in make_parts(place, "features")} == {"there"}
    merge_shards(place, tmp_path / "e")
    queries = [single.get(name) for name in single.ids()] + [random_features(np.random.default_rng(0), 9)]
    wanted = single.index.search_many(queries, 5)
    with de.Engine.open(tmp_path / "e", readonly=True) as merged:
        check_found(merged.index.search_many(queries, 5), wanted)
    lists = {query: [name for name in single.ids() if name != query] for query in single.ids()}
    told = rerank_parts(place, single.store, lists, tmp_path / "parts.jsonl")
    assert (told["verified"], told["done"]) == (42, told["parts"])
    write_rankings(tmp_path / "one.jsonl", single.rerank_many(lists).rankings)
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    searcher = Searcher(place, actors=2, cpus=0)
    assert len(searcher) == len(single)
    check_found(searcher.index.search_many(queries, 5), wanted)
    cluster.ray.kill(searcher.state._holders._actors[1], no_restart=False)
    check_found(searcher.index.search_many(queries, 5), wanted)
    assert searcher.search(queries[0]).to_dict() == single.search(queries[0]).to_dict()
    with raises(ConfigError, "top_k"):
        searcher.search_many(queries, top_k=0)
    searcher.close()
    with raises(ConfigError, "actors"):
        Searcher(place, actors=plan.parts + 1)
    (place / "index" / "00002.json").unlink()
    with raises(FormatError, "(2)"):
        Searcher(place, actors=1)
    (place / "features" / "00002.json").write_text("{")
    with raises(FormatError, "00002.json"):
        make_parts(place, "index")


def check_found(found: Any, wanted: Any) -> None:
    assert [ids for ids, _ in found] == [ids for ids, _ in wanted]
    assert [scores.tobytes() for _, scores in found] == [scores.tobytes() for _, scores in wanted]


def test_what_ray_cannot_do(
    made: Path, folder: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_shards(folder, tmp_path / "p", model=tiny_model, index="kdtree")
    with raises(ConfigError, "kdtree"):
        Searcher(tmp_path / "p", actors=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    calls = (
        lambda: Searcher(made, actors=1),
        lambda: make_parts(made, "features"),
        lambda: rerank_parts(made, {}, {}, "r.jsonl"),
    )
    for call in calls:
        with raises(ConfigError, "delf-engine[ray]"):
            call()
