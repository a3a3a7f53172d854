"""Shortlists as arrays: a plain oracle, round trips, what FAISS returns, the benchmark's rank matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.reranking import shortlists_from_arrays, shortlists_from_ranks
from helpers import raises

NAMES = [f"i{k}" for k in range(5)]
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def by_hand(ids: Any, scores: Any, queries: Any, names: Any, distances: bool) -> dict[str, list[Any]]:
    """What `shortlists_from_arrays` says it does, one entry at a time."""
    out: dict[str, list[Any]] = {}
    for q, query in enumerate(queries):
        out[query] = []
        for k, row in enumerate(ids[q]):
            if row == -1 or names[row] in [c if scores is None else c[0] for c in out[query]]:
                continue
            sign = -1 if distances else 1
            out[query].append(names[row] if scores is None else (names[row], sign * float(scores[q][k])))
    return out


@st.composite
def searched(draw: st.DrawFn) -> tuple[Any, Any, list[str], list[str], bool]:
    """What a search returns: row numbers with holes, scores in order, ids of rows that may be the same."""
    queries = draw(st.lists(st.text(max_size=3), max_size=4, unique=True))
    names = draw(st.lists(st.text(max_size=2), min_size=1, max_size=6))
    width = draw(st.integers(0, 5))
    distances = draw(st.booleans())
    kind = draw(st.sampled_from([np.int32, np.int64]))
    ids = np.full((len(queries), width), -1, kind)
    scores = np.full((len(queries), width), np.nan)
    for q in range(len(queries)):
        row = draw(st.lists(st.integers(-1, len(names) - 1), min_size=width, max_size=width))
        values = sorted(draw(st.lists(FINITE, min_size=width, max_size=width)), reverse=not distances)
        ids[q] = row
        scores[q] = [np.nan if at == -1 else value for at, value in zip(row, values, strict=True)]
    return ids, scores if draw(st.booleans()) else None, queries, names, distances


@given(searched())
def test_arrays_are_read_as_by_hand(case: Any) -> None:
    ids, scores, queries, names, distances = case
    found = shortlists_from_arrays(ids, scores, queries=queries, names=names, distances=distances)
    assert found == by_hand(ids, scores, queries, names, distances)
    assert list(found) == queries


@pytest.mark.parametrize("metric", ["L2", "inner product"])
def test_what_faiss_returns(metric: str, rng: np.random.Generator) -> None:
    import faiss

    vectors = rng.normal(size=(5, 8)).astype(np.float32)
    index = faiss.IndexFlatL2(8) if metric == "L2" else faiss.IndexFlatIP(8)
    index.add(vectors)
    scores, ids = index.search(vectors[:2], 7)  # more than there are: FAISS fills up with -1
    assert (ids[:, 5:] == -1).all()
    options: Any = {"queries": ["q", "r"], "names": NAMES}
    found = shortlists_from_arrays(ids, scores, distances=metric == "L2", **options)
    for q, query in enumerate(("q", "r")):
        assert [entry[0] for entry in found[query]] == [NAMES[row] for row in ids[q, :5]]
        assert [entry[1] for entry in found[query]] == sorted((e[1] for e in found[query]), reverse=True)
    with raises(DataError, "'q'", "at place 2", "distances=True"):  # never guessed
        shortlists_from_arrays(ids, scores, distances=metric != "L2", **options)


def test_ids_as_strings() -> None:
    found = shortlists_from_arrays([["b", "a", ""], ["c", "", ""]], queries=["q", "r"])
    assert found == {"q": ["b", "a"], "r": ["c"]}
    assert shortlists_from_arrays(np.array([["b", "b"]], object), queries=["q"], names=["b"]) == {"q": ["b"]}
    with raises(DataError, "'c'"):
        shortlists_from_arrays([["b", "c"]], queries=["q"], names=["a", "b"])
    (scored,) = shortlists_from_arrays([["b", "a"]], [[0.0, 2.0]], queries=["q"], distances=True).values()
    assert str(scored) == "[('b', 0.0), ('a', -2.0)]"  # no negative zero
    with raises(ConfigError, "names="):
        shortlists_from_arrays([[0]], queries=["q"])
    assert shortlists_from_arrays([[-1]], queries=["q"]) == {"q": []}
    assert shortlists_from_arrays(np.empty((0, 9)), queries=[]) == {}


@pytest.mark.parametrize(
    ("ids", "scores", "options", "what"),
    [
        ([1, 2], None, {}, "ids .. (2,)"),
        ([[1], [1, 2]], None, {}, "ids"),
        ([[1.0, 2.0]], None, {}, "ids"),
        ([[True, False]], None, {}, "ids"),
        ([[None, 1]], None, {}, "ids"),
        ([[2**70]], None, {}, "ids"),
        ([[0], [1]], None, {}, "2 rows for 1 queries"),
        ([[0], [1], [2]], None, {"queries": ["q"]}, "3 rows for 1 queries .. shortlists_from_ranks"),
        ([[0, 5]], None, {}, "'q': row 5, number 2,"),
        ([[0, -2]], None, {}, "'q': row -2, number 2,"),
        ([[0, 1]], [[1.0]], {}, "scores .. (1, 2)"),
        ([[0, 1]], [["a", "b"]], {}, "scores"),
        ([[0, 1]], [[1.0], [1.0, 2.0]], {}, "scores"),
        ([[0, 1]], [[1.0, np.nan]], {}, "'q', candidate 2"),
        ([[0, 1]], [[np.inf, 0.0]], {"distances": True}, "'q', candidate 1"),
        ([[0], [1]], None, {"queries": ["q", "q"]}, "queries: 'q'"),
        ([[0]], None, {"queries": "q"}, "queries"),
        ([[0]], None, {"names": [3]}, "names: number 0"),
        ([[0]], None, {"names": 3}, "names"),
    ],
)
def test_bad_arrays_are_refused(ids: Any, scores: Any, options: Any, what: str) -> None:
    with raises(DataError, *what.split(" .. ")):
        shortlists_from_arrays(ids, scores, **{"queries": ["q"], "names": NAMES, **options})


@given(st.data())
def test_rank_matrices_are_read_by_column(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True))
    queries = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True))
    kept = data.draw(st.integers(0, len(names)))
    columns = [data.draw(st.permutations(range(len(names))))[:kept] for _ in queries]
    ranks = np.array(columns, np.int64).reshape(len(queries), kept).T
    lists = shortlists_from_ranks(ranks, names=names, query_names=queries)
    assert lists == {q: [names[row] for row in column] for q, column in zip(queries, columns, strict=True)}


@pytest.mark.parametrize(
    ("ranks", "what"),
    [
        ([[0, 1], [1, 1]], "'r': row 1"),
        ([[0, 3], [1, 1]], "'r': row 3, number 1,"),
        ([[0, 1], [1, -1]], "'r': row -1, number 2,"),
        ([[0.0, 1.0]], "ranks"),
        ([["a", "b"]], "ranks"),
        ([0, 1], "ranks"),
        ([[0], [1], [2]], "1 columns for 2 queries"),
        ([[0, 1, 2], [1, 2, 0]], "shortlists_from_arrays"),
    ],
)
def test_bad_rank_matrices_are_refused(ranks: Any, what: str) -> None:
    with raises(DataError, what):
        shortlists_from_ranks(ranks, names=["a", "b", "c"], query_names=["q", "r"])
