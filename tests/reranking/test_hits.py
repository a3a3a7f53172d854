"""Hits of other systems: what each returns, from its real client where that needs no server, else by hand."""

from __future__ import annotations

import math
import sqlite3
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.reranking import read_hits
from helpers import raises
from reranking.clients import (
    ASKED,
    BEST,
    NAMES,
    VECTORS,
    faiss_index,
    hnswlib_index,
    lancedb_table,
    milvus,
    qdrant,
    usearch_index,
)


def images(hits: Any) -> list[Any]:
    return [hit[0] if isinstance(hit, tuple) else hit for hit in hits]


def check(hits: Any, **options: Any) -> list[Any]:
    """Expect the three best, with falling scores; return what was read."""
    found = read_hits(hits, **options)
    assert images(found) == BEST
    scores = [hit[1] for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    assert all(type(score) is float for score in scores)
    return found


# ------------------------------------------------------------------------------------------------- real clients


@pytest.mark.parametrize("metric", ["IndexFlatL2", "IndexFlatIP"])
def test_faiss(metric: str) -> None:
    index = faiss_index(metric)
    D, I = index.search(ASKED[None], 3)  # noqa: E741 - as FAISS's own pages call them
    found = check((D, I), names=NAMES)
    assert found == check((D[0], I[0]), names=NAMES) == check([D, I], names=NAMES)
    D, I = index.search(ASKED[None], 9)  # noqa: E741 - more than there are: -1
    assert len(read_hits((D, I), names=NAMES)) == 6
    with raises(DataError, "2 queries"):
        read_hits(index.search(VECTORS[:2], 3), names=NAMES)


def test_faiss_binary() -> None:
    import faiss

    codes = np.packbits(VECTORS > 0.5, axis=1)
    index = faiss.IndexBinaryFlat(8)
    index.add(codes)
    found = read_hits(index.search(codes[2:3], 6), names=NAMES)  # distances are whole numbers, too
    assert found == [(NAMES[2], 0.0), *((name, -2.0) for name in NAMES if name != NAMES[2])]


def test_usearch() -> None:
    index = usearch_index()
    found = check(index.search(ASKED, 3), names=NAMES)
    assert found == check(index.search(ASKED, 3).to_list(), names=NAMES)
    with raises(DataError, "2 queries"):
        read_hits(index.search(VECTORS[:2], 3), names=NAMES)


def test_hnswlib() -> None:
    check(hnswlib_index().knn_query(ASKED, k=3), names=dict(enumerate(NAMES)))


@pytest.mark.parametrize("metric", ["EUCLID", "DOT"])
def test_qdrant(metric: str) -> None:
    client = qdrant(metric)
    answer = client.query_points("photos", query=ASKED.tolist(), limit=3)
    found = check(answer)
    assert found == check(answer.points) == check({"result": answer.model_dump(), "status": "ok", "time": 0.1})
    bare = client.query_points("photos", query=ASKED.tolist(), limit=3, with_payload=False)
    assert found == check(bare, names=NAMES) == check(answer, names=dict(enumerate(NAMES)))


def test_lancedb(tmp_path: Path) -> None:
    query = lancedb_table(tmp_path).search(ASKED).limit(3)
    found = check(query.to_list())
    assert found == check(query.to_pandas()) == check(query.to_arrow()) == check(query)
    assert images(read_hits(query.to_list()[::-1])) == BEST  # in no order: that these are distances is sure
    assert images(read_hits(query.to_list(), field="jpeg")) == [name.encode() for name in BEST]
    assert images(read_hits(query.to_pandas(), field="jpeg")) == [name.encode() for name in BEST]


@pytest.mark.parametrize("metric", ["COSINE", "L2"])
def test_milvus(metric: str, tmp_path: Path) -> None:
    client = milvus(tmp_path, metric)
    answer = client.search("photos", data=[ASKED.tolist()], limit=3, output_fields=["path"])
    found = check(answer)
    assert found == check(answer[0])
    assert found == check(client.search("photos", data=[ASKED.tolist()], limit=3), names=NAMES)
    with raises(DataError, "2 queries"):
        read_hits(client.search("photos", data=VECTORS[:2].tolist(), limit=3))
    with raises(DataError, "distances=True"):  # Milvus calls similarities distances, too
        read_hits([answer[0][k] for k in (1, 0, 2)])
    client.close()


def test_rows_of_a_database() -> None:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table photos (id integer, path text, d real)")
        connection.executemany("insert into photos values (?, ?, ?)", [(k, BEST[k], k / 4) for k in range(3)])
        found = check(connection.execute("select path, d from photos order by d"))
        assert found == check(connection.execute("select path, d from photos order by d").fetchall())
        with raises(DataError, "hit 1", "3 columns"):
            read_hits(connection.execute("select id, path, d from photos order by d").fetchall())
        connection.row_factory = sqlite3.Row
        named = connection.execute("select id, path, d as distance from photos order by path").fetchall()
        assert found == check(named, distances=True)
        with raises(DataError, "distances=True"):  # some mean similarities by it
            read_hits(named)


# ---------------------------------------------------------------------------------------- answers written by hand

Row = namedtuple("Row", "id path distance")
ELASTIC = {
    "took": 3,
    "_shards": {"total": 1, "failed": 0},
    "hits": {
        "total": {"value": 3},
        "max_score": 0.9,
        "hits": [{"_id": str(k), "_score": 1 - k / 9, "_source": {"path": BEST[k], "score": 7}} for k in range(3)],
    },
}
WEAVIATE = [
    SimpleNamespace(
        uuid=UUID(int=k),
        properties={"path": BEST[k]},
        metadata=SimpleNamespace(distance=k / 9, certainty=None, score=None),
        vector={},
    )
    for k in range(3)
]
ANSWERS: dict[str, Any] = {
    "Elasticsearch": ELASTIC,
    "its client": SimpleNamespace(body=ELASTIC, meta=SimpleNamespace(status=200)),
    "fields": {"hits": {"hits": [{"_id": "x", "_score": -k, "fields": {"path": [BEST[k]]}} for k in range(3)]}},
    "Weaviate": SimpleNamespace(objects=WEAVIATE),
    "GraphQL": {"data": {"Get": {"Photo": [{"path": BEST[k], "_additional": {"distance": k}} for k in range(3)]}}},
    "Milvus, HTTP": {"code": 0, "data": [{"id": k, "distance": 0.9 - k / 9, "path": BEST[k]} for k in range(3)]},
    "Qdrant, HTTP": {"result": [{"id": k, "score": k, "payload": {"file": BEST[k]}} for k in range(3)]},
    "clip-retrieval": [
        {"id": k, "similarity": 0.3 - k / 99, "image_path": BEST[k], "image": "/9j/4AAQ", "url": "https://x.org/a"}
        for k in range(3)
    ],
    "named tuples": [Row(k, BEST[k], np.float32(k / 3)) for k in range(3)],
    "SQLAlchemy": [SimpleNamespace(_mapping={"path": BEST[k], "distance": k}) for k in range(3)],
    "pairs": [(Path(BEST[k]), 2.5 - k) for k in range(3)],
    "pairs of distances": ([BEST[k], k] for k in range(3)),
    "ids with scores": {BEST[1]: 0.5, BEST[0]: 0.7, BEST[2]: 0.1},
}  # fmt: skip


@pytest.mark.parametrize("system", ANSWERS)
def test_answers(system: str) -> None:
    check(ANSWERS[system])


def test_lists_without_scores() -> None:
    assert read_hits(BEST) == read_hits(np.array(BEST)) == read_hits(tuple(map(Path, BEST))) == BEST
    assert read_hits([3, np.int64(1)], names=NAMES) == read_hits(np.array([3, 1]), names=NAMES) == BEST[:2]
    assert read_hits([b"one", bytearray(b"two")]) == [b"one", b"two"]
    assert read_hits([UUID(int=1)]) == [str(UUID(int=1))]
    assert read_hits([7, 8], names="photos/{}.jpg".format) == ["photos/7.jpg", "photos/8.jpg"]
    assert read_hits([{"_id": "a", "_score": None}, {"_id": "b", "_score": None}]) == [
        "a",
        "b",
    ]
    for none in (
        [],
        [[]],
        {},
        (),
        {"hits": {"hits": []}},
        {"result": {"points": []}},
        SimpleNamespace(objects=[]),
    ):
        assert read_hits(none) == []


def test_the_order_of_the_system_is_kept() -> None:
    rising = [("a", 0.1), ("b", 0.1), ("c", 0.5)]
    assert read_hits(rising) == [("a", -0.1), ("b", -0.1), ("c", -0.5)]
    assert read_hits(rising, distances=False) == [("c", 0.5), ("a", 0.1), ("b", 0.1)]
    assert read_hits(rising[::-1], distances=True) == [("b", -0.1), ("a", -0.1), ("c", -0.5)]
    assert read_hits([("a", 0), ("b", 0)]) == [("a", 0.0), ("b", 0.0)]
    assert math.copysign(1, read_hits([("a", 0), ("b", 1)])[0][1]) == 1
    assert read_hits({"a": 0.1, "b": 0.9}) == [("b", 0.9), ("a", 0.1)]
    assert read_hits({"a": 0.1, "b": 0.9}, distances=True) == [("a", -0.1), ("b", -0.9)]
    unsorted = [{"path": name, "similarity": value} for name, value in (("a", 0.2), ("b", 0.9), ("c", 0.4))]
    assert images(read_hits(unsorted)) == ["b", "c", "a"]
    assert images(read_hits([WEAVIATE[k] for k in (1, 0, 2)])) == BEST


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.booleans())
def test_distances_and_similarities_give_one_order(values: list[float], distances: bool) -> None:
    ordered = sorted(values, reverse=not distances)
    hits = [(str(k), value) for k, value in enumerate(ordered)]
    assert images(read_hits(hits)) == [name for name, _ in hits]
    said = [{"id": name, "_distance" if distances else "certainty": value} for name, value in hits]
    assert read_hits(said) == read_hits(hits, distances=distances)


@pytest.mark.parametrize(
    ("hits", "facts"),
    [
        (None, ["NoneType"]),
        ("a.jpg", ["str"]),
        (7, ["int"]),
        ({"path": "a.jpg", "score": 0.5}, ["path", "score"]),
        ([("a", 0.5), ("b", math.nan)], ["hit 2", "nan"]),
        ([("a", "b")], ["hit 1", "'b'"]),
        ([{"score": 0.5, "title": "x"}], ["hit 1", "title"]),
        ([1.5], ["hit 1"]),
        ([["a", "b", "c"], ["d", "e", "f"]], ["3 columns"]),
        ([("a", 1), ("b", 3), ("c", 2)], ["distances=True"]),
        ((np.zeros(3), np.zeros(3)), ["float64"]),
        ((np.zeros((1, 3)), np.zeros((1, 2), int)), ["(1, 3)", "(1, 2)"]),
        ({"error": {"type": "index_not_found_exception"}, "status": 404}, ["index_not_found_exception"]),
        ({"status": {"error": "Not found: Collection `x`"}, "time": 0.1}, ["Collection `x`"]),
        ({"code": 1100, "message": "collection not found"}, ["collection not found"]),
        ({"data": {"Get": {"Photo": None}}, "errors": [{"message": "no such prop"}]}, ["no such prop"]),
    ],
)  # fmt: skip
def test_what_cannot_be_understood(hits: Any, facts: list[str]) -> None:
    with raises(DataError, *facts):
        read_hits(hits)


def test_names_that_do_not_fit() -> None:
    with raises(ConfigError, "hit 1", "3", "names="):
        read_hits([3])
    for wrong in (6, -1):
        with raises(DataError, "hit 2", str(wrong), "6 names"):
            read_hits([3, wrong], names=NAMES)
    with raises(DataError, "hit 1", "'x'", "1 names"):
        read_hits(["x"], names={"y": "a.jpg"})
    with raises(DataError, "hit 1", "float"):
        read_hits([0], names=[0.5])
    with raises(DataError, "hit 1", "'file'", "path"):
        read_hits([{"path": "a.jpg", "score": 1}], field="file")
