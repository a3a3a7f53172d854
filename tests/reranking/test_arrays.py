"""Shortlists as arrays, in memory and in files: an oracle, round trips, what others write, damage."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.reranking import (
    RankedCandidate,
    read_shortlists,
    shortlists_from_arrays,
    shortlists_from_ranks,
    write_rankings,
)
from helpers import raises, write_lists
from verification.answers import answer

h5py = pytest.importorskip("h5py")

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


ENDINGS = [".npy", ".npz"]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".run", *ENDINGS])
def test_what_is_of_something_else_is_refused(ending: str, tmp_path: Path) -> None:
    path, names, queries = tmp_path / f"list{ending}", ["c", "b", "a"], ["q", "r"]
    write_lists(path, {"q": ["a", "b"], "r": ["c"]}, names=names)
    found = read_shortlists(path, names=names, queries=queries)
    assert [[entry if ending != ".run" else entry[0] for entry in found[q]] for q in queries] == [
        ["a", "b"],
        ["c"],
    ]
    if ending != ".npy":
        with raises(FormatError, str(path), "'c'"):
            read_shortlists(path, names=["a", "b"])
        with raises(FormatError, str(path), "'r'"):
            read_shortlists(path, queries=["q"])
    with raises(DataError, "names"):
        read_shortlists(path, names="abc")


@pytest.mark.parametrize("ending", ENDINGS)
def test_rankings(ending: str, tmp_path: Path) -> None:
    ranking = [RankedCandidate("b", 1, 2, 0.25, answer(0), 1.75), RankedCandidate("a", 2, 1, 0.5, None, None)]
    path, names = tmp_path / f"out{ending}", ["a", "b"]
    write_rankings(path, {"q": ranking, "r": []}, names=names)
    found = read_shortlists(path, names=names, queries=["q", "r"])
    if ending == ".npy":
        assert found == {"q": ["b", "a"], "r": []}
        return
    assert found == {"q": [("b", 0.25), ("a", 0.5)], "r": []}
    with np.load(path) as file:
        arrays = {name: np.array(file[name]) for name in ("ids", "first_rank", "inliers", "ranking_score")}
    assert arrays["ids"].tolist() == [[1, 0], [-1, -1]]
    assert arrays["first_rank"].tolist() == [[2, 1], [-1, -1]]
    assert arrays["inliers"].tolist() == [[0, -1], [-1, -1]]
    np.testing.assert_array_equal(arrays["ranking_score"], [[1.75, np.nan], [np.nan, np.nan]])


def test_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, ids=np.array([[1, 0, -1]], np.int32), distances=np.float32([[0.5, 2, np.inf]]), other=[1])
    assert read_shortlists(path, names=["a", "b"], queries=["q"]) == {"q": [("b", -0.5), ("a", -2.0)]}
    np.savez(path, ids=[["b", "a", ""]], queries=["q"])
    assert read_shortlists(path) == {"q": ["b", "a"]}
    np.savez(path, ids=np.array([[b"b", b"caf\xc3\xa9"]]), queries=np.array([b"q"]), scores=[[2, 1]])
    assert read_shortlists(path) == {"q": [("b", 2.0), ("café", 1.0)]}
    np.savez(path, ranks=np.array([[0, 1], [1, 0]], np.uint8), names=["a", "b"])
    assert read_shortlists(path, queries=["q", "r"]) == {"q": ["a", "b"], "r": ["b", "a"]}
    np.savez(path, ids=[[0, 1, 0]], names=["a", "a"], queries=["q"])
    assert read_shortlists(path) == {"q": ["a"]}


@pytest.mark.parametrize(
    ("arrays", "kind", "what"),
    [
        ({"queries": ["q"]}, FormatError, "'ids'"),
        ({"ids": [[0]], "ranks": [[0]]}, FormatError, "'ids'"),
        ({"ids": [[0]], "scores": [[1.0]], "distances": [[1.0]]}, FormatError, "'distances' beside 'scores'"),
        ({"ranks": [[0]], "scores": [[1.0]]}, FormatError, "'scores' beside 'ranks'"),
        ({"ids": [[0]], "queries": ["q"]}, ConfigError, "names="),
        ({"ranks": [[0]], "queries": ["q"]}, ConfigError, "names="),
        ({"ids": [[0]], "names": ["a"]}, ConfigError, "queries="),
        ({"ids": [["a"]], "queries": [["q"]]}, FormatError, "queries"),
        ({"ids": [["a"]], "queries": [7]}, FormatError, "queries"),
        # What `shortlists_from_arrays` and `shortlists_from_ranks` refuse, see their tests.
        ({"ids": [[0, 2]], "queries": ["q"], "names": ["a"]}, FormatError, "'q': row 2"),
        ({"ids": [["a"]], "queries": ["q"], "scores": [[np.nan]]}, FormatError, "'q', candidate 1"),
        ({"ids": 0, "queries": ["q"], "names": ["a"]}, FormatError, "ids"),
        ({"ranks": [[0], [0]], "queries": ["q"], "names": ["a"]}, FormatError, "'q': row 0"),
    ],
)
def test_bad_files_are_named(arrays: Any, kind: Any, what: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with raises(kind, str(path), what):
        read_shortlists(path)


@pytest.mark.parametrize(
    ("array", "names", "kind", "what"),
    [
        ([[0]], None, ConfigError, "names="),
        ([[3]], ["a"], FormatError, "row 3"),
        ([[0], [1]], ["a", "b"], FormatError, "2 rows for 1 queries"),
        (0, ["a"], FormatError, "ids"),
    ],
)
def test_bad_npy_files_are_named(array: Any, names: Any, kind: Any, what: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array(array))
    with raises(kind, "bad.npy", what):
        read_shortlists(tmp_path / "bad.npy", names=names, queries=["q"])


class _Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    trap = np.array([[_Trap(tmp_path / "sprung")]], object)
    np.save(tmp_path / "x.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "x.npz", ids=trap, queries=["q"])
    (tmp_path / "y.npz").write_bytes((tmp_path / "x.npy").read_bytes())
    for name in ("x.npy", "x.npz", "y.npz"):
        with raises(FormatError, name, "allow_pickle"):
            read_shortlists(tmp_path / name, names=["a"], queries=["q"])
    assert not (tmp_path / "sprung").exists()


def test_files_under_a_wrong_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", [[0]])
    np.savez(tmp_path / "x.npz", ids=[[0]])
    (tmp_path / "a.npz").write_bytes((tmp_path / "x.npy").read_bytes())
    (tmp_path / "a.npy").write_bytes((tmp_path / "x.npz").read_bytes())
    for ending in ENDINGS:
        (tmp_path / f"folder{ending}").mkdir()
    for name in ("a.npz", "a.npy", *(f"none{e}" for e in ENDINGS), *(f"folder{e}" for e in ENDINGS)):
        with raises(FormatError, name):
            read_shortlists(tmp_path / name, names=["a"], queries=["q"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_cut_and_damaged_files(ending: str, tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / f"bad{ending}"
    shortlists: Any = {f"q{k}": [f"i{j}" for j in range(k + 3)] for k in range(4)}
    names = [f"i{j}" for j in range(6)]
    write_lists(path, shortlists, names=names)
    data = path.read_bytes()

    def read() -> Any:
        return read_shortlists(path, names=names, queries=list(shortlists))

    for end in {0, 1, 7, 60, len(data) // 2, len(data) - 1}:
        path.write_bytes(data[:end])
        with raises(FormatError, path.name):
            read()
    for at in rng.integers(0, len(data), 200).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :])
        with suppress(FormatError, ConfigError):
            read()


def test_a_header_of_a_size_that_is_not_there(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<i8", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    )
    path = tmp_path / "x.npy"
    path.write_bytes(buffer.getvalue() + bytes(64))
    with raises(FormatError, "x.npy"):
        read_shortlists(path, names=["a"], queries=["q"])


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_cannot_be_written_leaves_the_old_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"list{ending}"
    write_lists(path, {"q": ["a"]}, names=["a"])
    before = path.read_bytes()
    wrong: list[tuple[Any, Any, str]] = [
        ({"q": ["b"]}, ["a"], "'b'"),
        ({"q": ["a"], "r": [("a", 1.0)]}, ["a"], "scores"),
        ({"q": ["a"]}, ["a", "a"], "'a'"),
        ({"q": ["a", "a"]}, ["a"], "'q'"),
    ]
    if ending != ".npy":
        wrong += [({"q": ["a\0"]}, None, "zero byte"), ({"q\0r": ["a"]}, None, "zero byte")]
    for shortlists, names, what in wrong:
        with raises(DataError, what):
            write_lists(path, shortlists, names=names)
    if ending == ".npy":
        with raises(ConfigError, "names="):
            write_lists(path, {"q": ["a"]})
    assert path.read_bytes() == before
    with raises(FormatError, f"list{ending}"):
        write_lists(tmp_path / "no" / f"list{ending}", {"q": ["a"]}, names=["a"])
    assert list(tmp_path.iterdir()) == [path]


def test_lone_surrogates(tmp_path: Path) -> None:
    shortlists = {"q": ["\udc80"]}
    write_lists(tmp_path / "x.npz", shortlists)
    assert read_shortlists(tmp_path / "x.npz") == shortlists
    assert list(tmp_path.iterdir()) == [tmp_path / "x.npz"]
