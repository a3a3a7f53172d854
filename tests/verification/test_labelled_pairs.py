"""Lists of labelled pairs: read as they were written, refused with the line that is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FormatError
from delf_engine.verification.calibrating import LabelledPair, read_labelled_pairs

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(pairs=st.lists(st.tuples(NAMES, NAMES, st.integers(0, 1))), kind=st.sampled_from([".csv", ".jsonl"]))
def test_lists_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str, int]], kind: str
) -> None:
    seen: dict[frozenset[str], tuple[str, str, int]] = {}
    for a, b, label in pairs:
        if a != b:
            seen.setdefault(frozenset((a, b)), (a, b, label))
    path = tmp_path_factory.mktemp("lists") / f"pairs{kind}"
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == ".csv":
            rows = csv.writer(file, quoting=csv.QUOTE_ALL)
            rows.writerow(["label", "b", "more", "a"])
            rows.writerows([label, b, "", a] for a, b, label in seen.values())
        else:
            for a, b, label in [*seen.values(), *((b, a, label) for a, b, label in seen.values())]:
                file.write(json.dumps({"a": a, "b": b, "label": label}) + "\n\n")
    if not seen:
        with pytest.raises(FormatError, match=path.name):
            read_labelled_pairs(path)
        return
    assert read_labelled_pairs(path) == [LabelledPair(*pair) for pair in seen.values()]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "a,b,label\n", r"\.csv.*\.jsonl"),
        ("p.csv", "", "p.csv"),
        ("p.csv", "a,b,label\n", "p.csv"),
        ("p.csv", "x,y,1\n", "line 1.*a,b,label.*x,y,1"),
        ("p.csv", "a,b,label\nx,y\n", "line 2: 2 columns"),
        ("p.csv", "a,b,label\nx,y,yes\n", "line 2.*'yes'"),
        ("p.csv", "a,b,label\nx,,1\n", "line 2.*'x' and ''"),
        ("p.csv", "a,b,label\nx,x,1\n", "line 2.*'x'"),
        ("p.csv", "a,b,label\nx,y,1\n\ny,x,0\n", "line 4.*'y' and 'x'.*line 2"),
        ("p.csv", 'a,b,label\n"x,y,1\n', "line 2"),
        ("p.jsonl", "{\n", "line 1.*JSON"),
        ("p.jsonl", "[" * 99_999, "line 1.*JSON"),
        ("p.jsonl", '\n{"a": "x", "b": "y"}\n', "line 2.*label"),
        ("p.jsonl", '{"a": "x", "b": 3, "label": 1}', "line 1.*3"),
        ("p.jsonl", '{"a": "x", "b": "y", "label": 0.5}', "got 0.5"),
        ("p.jsonl", '{"a": "x", "b": "y", "label": null}', "got None"),
        ("p.jsonl", '{"a": "x", "b": "y", "label": [1]}', r"got \[1\]"),
    ],
)
def test_bad_lists_are_named_with_their_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        read_labelled_pairs(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"none\.csv"):
        read_labelled_pairs(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"a,b,label\n\xe4,b,1\n")
    with pytest.raises(FormatError, match=r"latin\.csv"):
        read_labelled_pairs(tmp_path / "latin.csv")


def values_of(label: Any, tmp_path: Path) -> int:
    (tmp_path / "p.jsonl").write_text(json.dumps({"a": "x", "b": "y", "label": label}))
    return read_labelled_pairs(tmp_path / "p.jsonl")[0].label


def test_labels_may_be_numbers_words_or_truths(tmp_path: Path) -> None:
    assert [values_of(label, tmp_path) for label in (1, 0, " 1", "0 ", True, False, 1.0)] == [1, 0, 1, 0, 1, 0, 1]
