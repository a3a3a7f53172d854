"""Lists of labelled pairs; cross-validation: who shares a place, how places are dealt, what is judged by what."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.verification.calibrating import (
    LabelledPair,
    connected_places,
    cross_validated,
    fold_of_places,
    read_labelled_pairs,
)
from delf_engine.verification.calibration import Calibration
from helpers import raises
from verification.answers import answer, labelled

IMAGES = st.sampled_from("abcdefgh")
PAIRS = st.lists(st.tuples(IMAGES, IMAGES, st.booleans()), max_size=15)


@given(PAIRS)
def test_places_are_connected_components(rows: list[tuple[str, str, bool]]) -> None:
    joined = {name: {name} for a, b, _ in rows for name in (a, b)}
    for _ in rows:  # long enough to reach along any chain
        for a, b, same in rows:
            if same:
                for name in (union := joined[a] | joined[b]):
                    joined[name] = union
    expected = [(min(joined[a]), min(joined[b])) for a, b, _ in rows]
    assert connected_places([(a, b) for a, b, _ in rows], [same for _, _, same in rows]) == expected


@given(rows=PAIRS, folds=st.integers(1, 5), seed=st.integers(0, 9))
def test_places_are_dealt_evenly_and_in_no_order(rows: list[tuple[str, str, bool]], folds: int, seed: int) -> None:
    places, labels = [(a, b) for a, b, _ in rows], np.array([same for _, _, same in rows], bool)
    dealt = fold_of_places(places, labels, folds)
    assert set(dealt) == {name for pair in places for name in pair}
    assert set(dealt.values()) <= set(range(folds))
    order = np.random.default_rng(seed).permutation(len(rows))
    assert fold_of_places([places[i] for i in order], labels[order], folds) == dealt
    paired = {name for pair, same in zip(places, labels, strict=True) if same for name in pair}
    used = [dealt[name] for name in paired]
    assert len(set(used)) == min(folds, len(paired))  # none is empty while another has two


def world(seed: int, places: int = 8) -> tuple[list, np.ndarray, list[tuple[str, str]]]:  # type: ignore[type-arg]
    found, labels = labelled(seed, 200, 300)
    rng = np.random.default_rng(seed)
    ends = []
    for same in labels:
        a, b = rng.choice(places, 2, replace=False)
        ends.append((f"p{a}", f"p{a}" if same else f"p{b}"))
    return found, labels, ends


def test_each_pair_is_judged_by_pairs_of_other_places() -> None:
    found, labels, ends = world(0)
    p = cross_validated(found, labels, ends, folds=4)
    fold = fold_of_places(ends, labels, 4)
    assert not np.isnan(p).any()
    for i in range(0, len(found), 23):
        held = {fold[name] for name in ends[i]}
        learnt = [j for j in range(len(found)) if not {fold[name] for name in ends[j]} & held]
        other = Calibration.fit([found[j] for j in learnt], labels[learnt], trained_on="others")
        assert p[i] == other.probability(found[i])
    order = np.random.default_rng(1).permutation(len(found))
    again = cross_validated([found[i] for i in order], labels[order], [ends[i] for i in order], folds=4)
    assert again.tolist() == p[order].tolist()


def test_what_others_do_not_tell_stays_unjudged() -> None:
    found, labels, _ = world(0)
    alone = [("p", "p")] * len(found)
    assert np.isnan(cross_validated(found, labels, alone)).all()
    two = [("p0", "p0") if i % 2 else ("p1", "p1") for i in range(len(found))]
    assert not np.isnan(cross_validated(found, labels, two)).any()
    across = [("p0", "p1") if not same else pair for pair, same in zip(two, labels, strict=True)]
    assert np.isnan(cross_validated(found, labels, across)).all()  # no negative without the place itself


def test_refusals() -> None:
    found, labels, ends = world(0)
    with raises(ConfigError):
        cross_validated(found, labels, ends, folds=2)
    with raises(DataError):
        cross_validated(found, labels, ends[1:])
    with pytest.raises(DataError, match=r"label [01]"):
        cross_validated([answer(3)], [1], [("a", "b")])
    assert list(itertools.chain(connected_places([], []), fold_of_places([], [], 3))) == []


# ----------------------------------------------------------------------------------------------------- lists

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
    with raises(FormatError, "none.csv"):
        read_labelled_pairs(tmp_path / "none.csv")
    (tmp_path / "utf16.csv").write_text("a,b,label\nx,y,1\n", "utf-16")
    with raises(FormatError, "utf16.csv"):
        read_labelled_pairs(tmp_path / "utf16.csv")


def test_names_of_files_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"a,b,label\n\xe4,b,1\n")
    assert read_labelled_pairs(tmp_path / "latin.csv") == [("\udce4", "b", 1)]


def test_labels_may_be_numbers_words_or_truths(tmp_path: Path) -> None:
    for label, expected in ((1, 1), (0, 0), (" 1", 1), ("0 ", 0), (True, 1), (False, 0), (1.0, 1)):
        (tmp_path / "p.jsonl").write_text(json.dumps({"a": "x", "b": "y", "label": label}))
        assert read_labelled_pairs(tmp_path / "p.jsonl")[0].label == expected
