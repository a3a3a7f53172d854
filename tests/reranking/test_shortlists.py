"""Shortlist files: round trips, and errors that name the file and the line."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delf_engine.errors import DataError, FormatError
from delf_engine.reranking import RankedCandidate, read_shortlists, write_rankings
from delf_engine.verification import Verification
from helpers import write_lists

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.text(st.sampled_from("abc/._-é日"), min_size=1, max_size=12)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


def lists(names: st.SearchStrategy[str], scored: bool) -> st.SearchStrategy[Any]:
    entry = st.tuples(names, SCORES) if scored else names
    unique = st.lists(entry, min_size=1, max_size=6, unique_by=(lambda e: e[0]) if scored else (lambda e: e))
    return st.dictionaries(names, unique, max_size=4)


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(data: st.DataObject, ending: str, scored: bool, tmp_path: Path) -> None:
    # Python 3.10 cannot write a NUL into CSV: a DataError there, nothing to round-trip.
    names = NAMES.filter(lambda name: "\0" not in name) if ending == ".csv" else NAMES
    shortlists = data.draw(lists(names, scored))
    path = tmp_path / f"list{ending}"
    write_lists(path, shortlists)
    assert read_shortlists(path) == shortlists
    assert list(read_shortlists(path)) == list(shortlists)
    assert list(tmp_path.iterdir()) == [path]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shortlists=lists(PLAIN, True))
def test_trec_runs_are_sorted_by_score(shortlists: Any, tmp_path: Path) -> None:
    path = tmp_path / "list.run"
    lines = [f"{q} Q0 {name} 0 {score!r} x\n" for q, found in shortlists.items() for name, score in found]
    path.write_text("".join(lines), encoding="utf-8")
    assert read_shortlists(path) == {q: sorted(found, key=lambda e: -e[1]) for q, found in shortlists.items()}


def test_trec_ties_go_by_rank(tmp_path: Path) -> None:
    path = tmp_path / "list.run"
    path.write_text("q Q0 a 2 0.5 x\nq Q0 b 1 0.5 x\n\nq Q0 c 3 0.9 x\n")
    assert read_shortlists(path) == {"q": [("c", 0.9), ("b", 0.5), ("a", 0.5)]}


def test_an_empty_shortlist_survives_in_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    write_lists(path, {"q": [], "r": ["a"]})
    assert read_shortlists(path) == {"q": [], "r": ["a"]}


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
        ("x.txt", "", ".jsonl, .csv"),
    ],
)
def test_bad_files_are_named_with_the_line(name: str, text: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        read_shortlists(path)
    assert str(path) in str(error.value)
    assert where in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", '{"query": "q", "candidates": [["a", 2], ["b", 1], ["a", 0]]}'),
        ("x.csv", "query,id\nq,a\nq,b\nq,a\n"),
        ("x.run", "q Q0 a 1 3 t\nq Q0 b 2 2 t\nq Q0 a 3 1 t\n"),
    ],
)
def test_an_id_that_occurs_again_can_be_refused(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert len(read_shortlists(path)["q"]) == 2
    with pytest.raises(FormatError, match=rf"{name}.*'q', candidate 3: 'a'"):
        read_shortlists(path, distinct=True)


def test_a_row_that_occurs_again_can_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, [[0, 1, 0], [1, 0, -1]])
    names, queries = ["a", "b"], ["q", "r"]
    assert read_shortlists(path, names=names, queries=queries)["q"] == ["a", "b"]
    with pytest.raises(FormatError, match="'q', candidate 3: 'a'"):
        read_shortlists(path, names=names, queries=queries, distinct=True)
    np.save(path, [[0, 1, -1, -1]])
    assert read_shortlists(path, names=names, queries=["q"], distinct=True) == {"q": ["a", "b"]}


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.jsonl"):
        read_shortlists(tmp_path / "none.jsonl")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FormatError, match=r"folder\.csv"):
        read_shortlists(tmp_path / "folder.csv")
    (tmp_path / "binary.run").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match=r"binary\.run.*UTF-8"):
        read_shortlists(tmp_path / "binary.run")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "list.run"
    write_lists(path, {"q": ["a"]})
    before = path.read_bytes()
    with pytest.raises(DataError, match="'b c'"):
        write_lists(path, {"q": ["a", "b c"]})
    assert path.read_bytes() == before
    with pytest.raises(FormatError, match=r"list\.pkl.*\.jsonl"):
        write_rankings(tmp_path / "list.pkl", {})
    with pytest.raises(FormatError, match=r"no/list\.csv"):
        write_rankings(tmp_path / "no" / "list.csv", {})
    assert list(tmp_path.iterdir()) == [path]


def test_rankings(tmp_path: Path) -> None:
    found = Verification("affine", None, [], [], 5, 24.0, None, 15, 3.5, 3.0)  # type: ignore[arg-type]
    ranking = [RankedCandidate("b", 1, 2, 0.25, found, 1.75), RankedCandidate("a", 2, 1, 0.125, None, None)]
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
    assert read_shortlists(tmp_path / "out.csv") == {"q": [("b", 0.25), ("a", 0.125)]}
    assert read_shortlists(tmp_path / "out.jsonl") == {"q": [("b", 0.25), ("a", 0.125)]}
    assert read_shortlists(tmp_path / "out.run") == {"q": [("b", 1.75), ("a", -1.0)]}


FOUND = st.one_of(st.integers(0, 5).map(float), st.floats(0, 1e4), st.sampled_from([0.0, 1e-30, 60.0, 1e9]))


@given(found=st.lists(FOUND, max_size=30), tail=st.integers(0, 5))
def test_a_trec_run_keeps_the_order_in_single_precision(found: list[float], tail: int) -> None:
    evidence = Verification("affine", None, [], [], 5, 24.0, None, 15, 3.5, 3.0)  # type: ignore[arg-type]
    ordered = [*sorted(found, reverse=True), *[None] * tail]
    ranking = [
        RankedCandidate(f"i{k}", k, k, None, None if score is None else evidence, score)
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
