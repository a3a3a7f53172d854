"""Shortlists as arrays: a plain oracle, round trips, what FAISS returns, the benchmark's rank matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.reranking import (
    ranks_from_shortlists,
    shortlists_from_arrays,
    shortlists_from_ranks,
    shortlists_to_arrays,
)

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


@st.composite
def shortlists(draw: st.DrawFn) -> tuple[dict[str, list[Any]], list[str]]:
    """Shortlists over some names, with scores in order or without."""
    names = draw(st.lists(st.text(max_size=3), max_size=7, unique=True))
    chosen = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    lists = draw(st.dictionaries(st.text(max_size=3), chosen, max_size=4))
    if draw(st.booleans()):
        return {
            query: list(
                zip(found, sorted((draw(FINITE) for _ in found), reverse=True), strict=True),
            )
            for query, found in lists.items()
        }, names
    return dict(lists), names


@given(shortlists())
def test_round_trip(case: Any) -> None:
    lists, names = case
    ids, scores = shortlists_to_arrays(lists, names=names)
    assert ids.dtype == np.int64
    assert ids.shape == (len(lists), max(map(len, lists.values()), default=0))
    assert shortlists_from_arrays(ids, scores, queries=list(lists), names=names) == lists
    turned = list(reversed(lists))
    again = shortlists_to_arrays(lists, names=names, queries=turned)
    np.testing.assert_array_equal(again.ids, ids[::-1])


def test_what_stands_behind_the_end() -> None:
    ids, scores = shortlists_to_arrays({"q": [("i3", 2.0)], "r": [("i1", 1e308), ("i0", -1e308)]}, names=NAMES)
    assert ids.tolist() == [[3, -1], [1, 0]]
    assert scores is not None
    assert scores.tolist() == [[2.0, -np.inf], [1e308, -1e308]]
    assert shortlists_to_arrays({"q": [], "r": []}, names=[]).ids.shape == (2, 0)
    assert shortlists_to_arrays({"q": [], "r": []}, names=[]).scores is None


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
    with pytest.raises(DataError, match="results of query 'q' are not best first"):
        shortlists_from_arrays(ids, scores, distances=metric != "L2", **options)


def test_distances_are_never_guessed() -> None:
    options: Any = {"queries": ["q"], "names": NAMES}
    with pytest.raises(DataError, match=r"rises from 0.5 to 2 at place 2; .* say distances=True"):
        shortlists_from_arrays([[3, 1]], [[0.5, 2.0]], **options)
    with pytest.raises(DataError, match=r"falls from 2 to 0.5 at place 2; leave distances=True out"):
        shortlists_from_arrays([[3, 1]], [[2.0, 0.5]], distances=True, **options)
    (found,) = shortlists_from_arrays([[3, 1]], [[0.0, 2.0]], distances=True, **options).values()
    assert str(found) == "[('i3', 0.0), ('i1', -2.0)]"  # no negative zero


def test_places_without_a_result_have_no_score() -> None:
    found = shortlists_from_arrays([[3, -1, 1]], [[1.0, -9.0, 0.5]], queries=["q"], names=NAMES)
    assert found == {"q": [("i3", 1.0), ("i1", 0.5)]}


def test_ids_as_strings() -> None:
    found = shortlists_from_arrays([["b", "a", ""], ["c", "", ""]], queries=["q", "r"])
    assert found == {"q": ["b", "a"], "r": ["c"]}
    assert shortlists_from_arrays(np.array([["b", "b"]], object), queries=["q"], names=["b"]) == {"q": ["b"]}
    with pytest.raises(DataError, match="'c' is not one of the 2 names"):
        shortlists_from_arrays([["b", "c"]], queries=["q"], names=["a", "b"])


@pytest.mark.parametrize(
    ("ids", "scores", "options", "what"),
    [
        ([1, 2], None, {}, r"two dimensions, got shape \(2,\)"),
        ([[1], [1, 2]], None, {}, "rectangular"),
        ([[1.0, 2.0]], None, {}, "must be integers"),
        ([[True, False]], None, {}, "must be integers"),
        ([[None, 1]], None, {}, "must be integers"),
        ([[2**64 - 1]], None, {}, "is no row number"),
        ([[2**70]], None, {}, "must be integers"),
        ([[0], [1]], None, {}, "2 rows for 1 queries"),
        ([[0], [1], [2]], None, {"queries": ["q"]}, "goes to shortlists_from_ranks"),
        ([[0, 5]], None, {}, "query 'q', place 2: row 5 is not one of the 5 names"),
        ([[0, -2]], None, {}, "row -2 is not one of the 5 names"),
        ([[0, 1]], [[1.0]], {}, r"scores must be numbers of shape \(1, 2\)"),
        ([[0, 1]], [["a", "b"]], {}, "scores must be numbers"),
        ([[0, 1]], [[1.0], [1.0, 2.0]], {}, "rectangular"),
        ([[0, 1]], [[1.0, np.nan]], {}, "query 'q', place 2: expected a finite number, got nan"),
        ([[0, 1]], [[np.inf, 0.0]], {"distances": True}, "distances of query 'q', place 1"),
        ([[0], [1]], None, {"queries": ["q", "q"]}, "queries: 'q' stands twice"),
        ([[0]], None, {"queries": "q"}, "queries must be a list"),
        ([[0]], None, {"names": [3]}, "names: number 0 is 3"),
        ([[0]], None, {"names": 3}, "names must be a list"),
    ],
)
def test_bad_arrays_are_refused(ids: Any, scores: Any, options: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        shortlists_from_arrays(ids, scores, **{"queries": ["q"], "names": NAMES, **options})


def test_row_numbers_need_names() -> None:
    with pytest.raises(ConfigError, match="names="):
        shortlists_from_arrays([[0]], queries=["q"])
    assert shortlists_from_arrays([[-1]], queries=["q"]) == {"q": []}
    assert shortlists_from_arrays(np.empty((0, 9)), queries=[]) == {}


@pytest.mark.parametrize(
    ("lists", "options", "what"),
    [
        ({"q": ["i9"]}, {}, "shortlist of 'q': 'i9' is not one of the 5 names"),
        ({"q": [("i1", float("nan"))]}, {}, "shortlist of 'q', candidate 1"),
        ({"q": ["i1"], "r": [("i1", 1.0)]}, {}, "some shortlists have scores"),
        ({"q": ["i1"]}, {"queries": ["r"]}, "no shortlist of query 'r'"),
        ({"q": ["i1"], "r": []}, {"queries": ["r"]}, "shortlist of 'q' is of none of the queries"),
        ({"q": ["i1"]}, {"names": ["i1", "i1"]}, "names: 'i1' stands twice"),
    ],
)
def test_bad_shortlists_are_refused(lists: Any, options: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        shortlists_to_arrays(lists, **{"names": NAMES, **options})


# -------------------------------------------------------------------------------------------------- rank matrices


@given(st.data())
def test_rank_matrices_round_trip(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True))
    queries = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=4, unique=True))
    kept = data.draw(st.integers(0, len(names)))
    columns = [data.draw(st.permutations(range(len(names))))[:kept] for _ in queries]
    ranks = np.array(columns, np.int64).reshape(len(queries), kept).T
    lists = shortlists_from_ranks(ranks, names=names, query_names=queries)
    assert lists == {q: [names[row] for row in column] for q, column in zip(queries, columns, strict=True)}
    again = ranks_from_shortlists(lists, names=names, query_names=queries)
    assert again.dtype == np.int64
    assert again.flags.c_contiguous
    np.testing.assert_array_equal(again, ranks)
    scored: Any = {query: [(name, 0.5) for name in found] for query, found in lists.items()}
    np.testing.assert_array_equal(ranks_from_shortlists(scored, names=names, query_names=queries), ranks)


@pytest.mark.parametrize(
    ("ranks", "what"),
    [
        ([[0, 1], [1, 1]], "ranks of query 'r': row 1 stands in them more than once"),
        ([[0, 3], [1, 1]], "query 'r', place 1: row 3 is not one of the 3 names"),
        ([[0, 1], [1, -1]], "query 'r', place 2: row -1"),
        ([[0.0, 1.0]], "ranks must be integers"),
        ([["a", "b"]], "ranks must be row numbers"),
        ([0, 1], "ranks must have two dimensions"),
        ([[0], [1], [2]], "ranks have 1 columns for 2 queries$"),
        ([[0, 1, 2], [1, 2, 0]], "one row a query is the order of shortlists_from_arrays"),
    ],
)
def test_bad_rank_matrices_are_refused(ranks: Any, what: str) -> None:
    with pytest.raises(DataError, match=what):
        shortlists_from_ranks(ranks, names=["a", "b", "c"], query_names=["q", "r"])


def test_what_no_rank_matrix_can_hold() -> None:
    options: Any = {"names": ["a", "b"], "query_names": ["q", "r"]}
    with pytest.raises(DataError, match="from 1 to 2 candidates"):
        ranks_from_shortlists({"q": ["a"], "r": ["a", "b"]}, **options)
    with pytest.raises(DataError, match="'c' is not one of the 2 names"):
        ranks_from_shortlists({"q": ["a"], "r": ["c"]}, **options)
    with pytest.raises(DataError, match="no shortlist of query 'r'"):
        ranks_from_shortlists({"q": ["a"]}, **options)
    with pytest.raises(DataError, match="names: 'a' stands twice"):
        shortlists_from_ranks([[0, 0]], names=["a", "a"], query_names=["q", "r"])


def test_the_benchmark_measures_what_the_matrix_holds(rng: np.random.Generator) -> None:
    """The evaluation gives the same figure for the columns as for the names."""
    from delf_engine.evaluation import GroundTruth, evaluate

    lists = [np.array(v, np.int64) for v in ([0, 2], [3], [1], [])]
    truth = GroundTruth(
        tuple(NAMES),
        ("q", "r"),
        np.zeros((2, 4)),
        (lists[0], lists[1]),
        (lists[1], lists[2]),
        (lists[3], lists[3]),
    )
    ranks = np.stack([rng.permutation(5) for _ in range(2)], axis=1)
    found = shortlists_from_ranks(ranks, names=truth.names, query_names=truth.query_names)
    by_name = evaluate(list(found.values()), truth)  # type: ignore[arg-type]
    assert by_name.to_dict() == evaluate(list(ranks.T), truth).to_dict()
