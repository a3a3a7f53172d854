"""Shortlist files: round trips, and errors that name the file and the line."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.errors import DataError, FormatError
from delf_engine.reranking import RankedCandidate, read_shortlists, write_rankings
from helpers import raises, write_lists
from verification.answers import answer

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.text(st.sampled_from("abc/._-é日"), min_size=1, max_size=12)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


def lists(names: st.SearchStrategy[str], scored: bool, least: int = 1) -> st.SearchStrategy[Any]:
    entry = st.tuples(names, SCORES) if scored else names
    unique = st.lists(entry, min_size=least, max_size=6, unique_by=(lambda e: e[0]) if scored else (lambda e: e))
    return st.dictionaries(names, unique, max_size=4)


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".npz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(data: st.DataObject, ending: str, scored: bool, tmp_path: Path) -> None:
    # Neither CSV of Python 3.10 nor the end of a NumPy string can hold a NUL: a DataError, nothing to round-trip.
    names = NAMES if ending == ".jsonl" else NAMES.filter(lambda name: "\0" not in name)
    shortlists = data.draw(lists(names, scored, least=int(ending == ".csv")))
    path = tmp_path / f"list{ending}"
    write_lists(path, shortlists)
    first = path.read_bytes()
    assert read_shortlists(path) == shortlists
    assert list(read_shortlists(path)) == list(shortlists)
    write_lists(path, shortlists)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shortlists=lists(PLAIN, False, least=0))
def test_npy_round_trip(shortlists: Any, tmp_path: Path) -> None:
    path = tmp_path / "list.npy"
    names = sorted({name for found in shortlists.values() for name in found}, reverse=True)
    write_lists(path, shortlists, names=names)
    assert np.load(path).shape == (len(shortlists), max(map(len, shortlists.values()), default=0))
    assert read_shortlists(path, names=names, queries=list(shortlists)) == shortlists


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shortlists=lists(PLAIN, True))
def test_trec_runs_are_sorted_by_score(shortlists: Any, tmp_path: Path) -> None:
    path = tmp_path / "list.run"
    lines = [f"{q} Q0 {name} 0 {score!r} x\n" for q, found in shortlists.items() for name, score in found]
    path.write_text("".join(lines), encoding="utf-8")
    assert read_shortlists(path) == {q: sorted(found, key=lambda e: -e[1]) for q, found in shortlists.items()}


def test_trec_ties_go_by_rank(tmp_path: Path) -> None:
    path = tmp_path / "list.run"
    path.write_text("q Q0 a 3 0.5 x\nq Q0 b 2 0.5 x\n\nq Q0 d 4 0.1 x\nq Q0 c 4 0.1 x\n")
    assert read_shortlists(path) == {"q": [("b", 0.5), ("a", 0.5), ("d", 0.1), ("c", 0.1)]}
    assert read_shortlists(path, distances=True) == {"q": [("d", -0.1), ("c", -0.1), ("b", -0.5), ("a", -0.5)]}


def write_plainly(path: Path, lists: dict[str, list[tuple[str, float]]], column: str) -> None:
    """Write ids and numbers, best first, as other software does."""
    rows = [(q, name, rank, x) for q, found in lists.items() for rank, (name, x) in enumerate(found)]
    if path.suffix == ".npz":
        width = max(map(len, lists.values()), default=0)
        filled = {q: found + [("", np.nan)] * (width - len(found)) for q, found in lists.items()}
        ids = np.array([[name for name, _ in found] for found in filled.values()], str).reshape(len(lists), width)
        numbers = np.array([[x for _, x in found] for found in filled.values()]).reshape(len(lists), width)
        np.savez(path, **{"ids": ids, f"{column}s": numbers, "queries": np.array(list(lists), str)})
        return
    lines = {
        ".csv": [f"query,id,{column}", *(f"{q},{name},{x!r}" for q, name, _, x in rows)],
        ".run": [f"{q} Q0 {name} {rank} {x!r} x" for q, name, rank, x in rows],
        ".jsonl": [json.dumps({"query": q, "candidates": found}) for q, found in lists.items()],
    }
    path.write_text("\n".join(lines[path.suffix]), encoding="utf-8")


@st.composite
def best_first(draw: st.DrawFn, *, distances: bool) -> dict[str, list[tuple[str, float]]]:
    """Lists in order of their numbers, of which many are equal."""
    entry = st.tuples(PLAIN, st.sampled_from([0.0, 0.25, 1.0]) | st.floats(0, 1e6))
    found = draw(
        st.dictionaries(PLAIN, st.lists(entry, min_size=1, max_size=6, unique_by=lambda e: e[0]), max_size=3)
    )
    return {q: sorted(rows, key=lambda row: row[1], reverse=not distances) for q, rows in found.items()}


@pytest.mark.parametrize(
    ("ending", "column"),
    [
        (".jsonl", "score"),
        (".csv", "score"),
        (".csv", "distance"),
        (".run", "score"),
        (".npz", "score"),
        (".npz", "distance"),
    ],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=best_first(distances=True))
def test_distances_must_be_named(lists: Any, ending: str, column: str, tmp_path: Path) -> None:
    path = tmp_path / f"list{ending}"
    write_plainly(path, lists, column)
    turned = {q: [(name, 0.0 - x) for name, x in found] for q, found in lists.items()}
    assert read_shortlists(path, distances=True) == turned  # equal ones in their order
    if column == "distance":
        assert read_shortlists(path) == turned
    elif any(len({x for _, x in found}) > 1 for found in lists.values()):
        with raises(FormatError, str(path), "distances=True", "--distances"):
            read_shortlists(path)
    else:
        assert read_shortlists(path) == lists


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".run", ".npz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=best_first(distances=False))
def test_scores_are_no_distances(lists: Any, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"list{ending}"
    write_plainly(path, lists, "score")
    assert read_shortlists(path) == lists
    if any(len({x for _, x in found}) > 1 for found in lists.values()):
        with raises(FormatError, str(path), "distances=True"):
            read_shortlists(path, distances=True)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".npz"])
def test_rankings_have_scores_in_any_order_and_no_distances(ending: str, tmp_path: Path) -> None:
    path, lists = tmp_path / f"list{ending}", {"q": [("a", 0.25), ("b", 0.5)]}
    write_lists(path, lists)
    assert read_shortlists(path) == lists
    with raises(FormatError, str(path), "distances"):
        read_shortlists(path, distances=True)


def parse_retrieval(path: Path) -> dict[str, list[str]]:
    """What hloc/utils/parsers.py does."""
    retrieval: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").rstrip("\n").split("\n"):
        if line:
            query, image = line.split()
            retrieval.setdefault(query, []).append(image)
    return retrieval


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shortlists=lists(PLAIN, False))
def test_pairs_of_hloc(shortlists: Any, tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    write_lists(path, shortlists)
    assert parse_retrieval(path) == read_shortlists(path) == shortlists
    # As hloc itself writes them.
    path.write_text("\n".join(" ".join((q, name)) for q, found in shortlists.items() for name in found), "utf-8")
    assert read_shortlists(path) == shortlists


UNDECODABLE = os.fsdecode(b"caf\xe9-\xff\xc3\xa9.jpg")


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".run", ".txt", ".npz"])
def test_names_that_are_not_utf_8_come_back(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"list{ending}"
    write_lists(path, {UNDECODABLE: ["a", UNDECODABLE, "é"]})
    found = read_shortlists(path)[UNDECODABLE]
    assert [entry if isinstance(entry, str) else entry[0] for entry in found] == ["a", UNDECODABLE, "é"]
    if ending == ".jsonl":
        assert b"\xc3\xa9" in path.read_bytes()
        assert json.loads(path.read_bytes())["query"] == UNDECODABLE
    elif ending != ".npz":
        assert os.fsencode(UNDECODABLE) in path.read_bytes()


def test_half_a_pair_of_surrogates_goes_into_json_alone(tmp_path: Path) -> None:
    lists = {"q": ["\ud800"]}
    write_lists(tmp_path / "list.jsonl", lists)
    assert read_shortlists(tmp_path / "list.jsonl") == lists
    for ending in (".csv", ".run", ".txt"):
        with raises(DataError, f"list{ending}"):
            write_lists(tmp_path / f"list{ending}", lists)
    assert [path.name for path in tmp_path.iterdir()] == ["list.jsonl"]


def test_other_peoples_files(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b'\xef\xbb\xbfid,rank,query\r\n"a, b",1,q\r\nc,2,q\r\n\r\n')
    assert read_shortlists(path) == {"q": ["a, b", "c"]}
    path = tmp_path / "LIST.JSONL"
    path.write_text('\n{"query": "q", "candidates": [["a", 1], ["b", 0], ["a", -1]], "extra": 3}\n\n')
    assert read_shortlists(path) == {"q": [("a", 1.0), ("b", 0.0)]}


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("x.jsonl", "{}\n", "line 1:"),
        ("x.jsonl", '{"query": "q", "candidates": ["a"]}\nnot json\n', "line 2:"),
        ("x.jsonl", '{"query": 3, "candidates": []}', "line 1:"),
        ("x.jsonl", '{"query": "q", "candidates": "abc"}', "line 1: shortlist of 'q'"),
        ("x.jsonl", '{"query": "q", "candidates": [["a", NaN]]}', "line 1: shortlist of 'q', candidate 1"),
        ("x.jsonl", '{"query": "q", "candidates": [["a", 1], "b"]}', "line 1: shortlist of 'q'"),
        ("x.jsonl", '{"query": "q", "candidates": [{"score": 1}]}', "line 1: shortlist of 'q', candidate 1"),
        ("x.jsonl", '{"query": "q", "candidates": []}\n' * 2, "line 2: query 'q'"),
        ("x.csv", "a,b,1.0\n", "line 1:"),
        ("x.csv", "query,id,score\nq,a,1\nq,b\n", "line 3:"),
        ("x.csv", "query,id,score\nq,a,high\n", "line 2:"),
        ("x.csv", "query,id,score\nq,a,nan\n", "line 2:"),
        ("x.csv", 'query,id\nq,"a\n', "line 2: "),
        ("x.run", "q Q0 a 1 0.5\n", "line 1:"),
        ("x.run", "q Q0 a 1 0.5 t\nq Q0 a first 0.5 t\n", "line 2:"),
        ("x.txt", "q a\nq b c\n", "line 2:"),
        ("x.csv", "query,id,score,distance\nq,a,1,1\n", "line 1:"),
        ("x.lst", "", ".jsonl, .csv"),
    ],
)
def test_bad_files_are_named_with_the_line(name: str, text: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with raises(FormatError, str(path), where):
        read_shortlists(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '{"query": "q", "candidates": [["a", 2], ["b", 1], ["a", 0]]}'),
        ("x.csv", "query,id\nq,a\nq,b\nq,a\n"),
        ("x.run", "q Q0 a 1 3 t\nq Q0 b 2 2 t\nq Q0 a 3 1 t\n"),
        ("x.npy", [[0, 1, 0]]),
    ],
)
def test_an_id_that_occurs_again_can_be_refused(name: str, text: Any, tmp_path: Path) -> None:
    path, given = tmp_path / name, {"names": ["a", "b"], "queries": ["q"]}
    if name == "x.npy":
        np.save(path, text)
    else:
        path.write_text(text)
    assert len(read_shortlists(path, **given)["q"]) == 2
    with raises(FormatError, name, "'q', candidate 3: 'a'"):
        read_shortlists(path, **given, distinct=True)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "binary.run").write_bytes(b"\xff\xfe\x00")
    for name in ("none.jsonl", "folder.csv", "binary.run"):
        with raises(FormatError, name):
            read_shortlists(tmp_path / name)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "list.run"
    write_lists(path, {"q": ["a"]})
    before = path.read_bytes()
    with raises(DataError, "'b c'"):
        write_lists(path, {"q": ["a", "b c"]})
    assert path.read_bytes() == before
    for wrong in ("list.pkl", "no/list.csv"):
        with raises(FormatError, wrong):
            write_rankings(tmp_path / wrong, {})
    assert list(tmp_path.iterdir()) == [path]


def test_rankings(tmp_path: Path) -> None:
    ranking = [RankedCandidate("b", 1, 2, 0.25, answer(0), 1.75), RankedCandidate("a", 2, 1, 0.125, None, None)]
    for ending in (".jsonl", ".csv", ".run"):
        write_rankings(tmp_path / f"out{ending}", {"q": ranking})
    (record,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert record == {"query": "q", "candidates": [c.to_dict(with_verification=False) for c in ranking]}
    lines = (tmp_path / "out.csv").read_text().replace('"', "").splitlines()
    assert lines == [
        "query,id,rank,first_rank,score,inliers,ranking_score",
        "q,b,1,2,0.25,0,1.75",
        "q,a,2,1,0.125,,",
    ]
    assert read_shortlists(tmp_path / "out.run") == {"q": [("b", 1.75), ("a", -1.0)]}


FOUND = st.one_of(st.integers(0, 5).map(float), st.floats(0, 1e4), st.sampled_from([0.0, 1e-30, 60.0, 1e9]))


@given(found=st.lists(FOUND, max_size=30), tail=st.integers(0, 5))
def test_a_trec_run_keeps_the_order_in_single_precision(found: list[float], tail: int) -> None:
    ordered = [*sorted(found, reverse=True), *[None] * tail]
    ranking = [
        RankedCandidate(f"i{k}", k, k, None, None if score is None else answer(0), score)
        for k, score in enumerate(ordered, start=1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.run"
        write_rankings(path, {"q": ranking})
        read = read_shortlists(path).get("q", [])
    assert [image_id for image_id, _ in read] == [c.id for c in ranking]
    written = np.array([score for _, score in read])
    assert (np.diff(written.astype(np.float32)) < 0).all()
    np.testing.assert_allclose(written[: len(found)], sorted(found, reverse=True), rtol=1e-4, atol=1e-4)
    assert (written[len(found) :] <= -1).all()
