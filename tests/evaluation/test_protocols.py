"""Protocols from Python: what the command shows is there in three calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation import GroundTruth, compare, evaluate, load_protocol, measure, save_ground_truth
from delf_engine.evaluation.protocols import query_rows


@pytest.fixture
def path(truth: GroundTruth, tmp_path: Path) -> Path:
    save_ground_truth(tmp_path / "gnd.pkl", truth)
    return tmp_path / "gnd.pkl"


def test_two_systems_on_the_same_queries(path: Path, truth: GroundTruth) -> None:
    good, bad = {"q0": list("abcdefgh"), "q1": list("habcdefg")}, {"q0": list("fgabcdeh"), "q1": list("abcdefgh")}
    found = measure(load_protocol("revisited", path), [good, bad])
    assert [one.name for one in found.systems[0]] == ["easy", "medium", "hard"]
    for system, lists in zip(found.systems, (good, bad), strict=True):
        assert system[1].to_dict() == evaluate(lists, truth).to_dict()
    difference = compare(found.systems[0][1], found.systems[1][1], samples=100)
    assert difference is not None
    assert difference.difference == pytest.approx(found.systems[0][1].mean_ap - found.systems[1][1].mean_ap)
    rows = query_rows(found.systems[1][1], found.systems[0][1])
    assert [row.query for row in rows] == ["q1", "q0"]
    assert all(row.difference == row.value - row.other for row in rows)
    assert [(row.query, row.positives) for row in query_rows(found.systems[0][0])] == [
        ("q0", 2)
    ]  # q1 has no easy one


def test_queries_left_out_are_said(path: Path) -> None:
    protocol = load_protocol("revisited", path)
    with pytest.raises(DataError, match="'q1'"):
        measure(protocol, [{"q0": []}])
    found = measure(protocol, [{"q0": []}], allow_missing=True)
    assert found.left_out == ["q1"]
    assert "1 LEFT OUT" in found.title
    assert compare(found.systems[0][0], found.systems[0][0]) is not None
    with pytest.raises(DataError, match="another set"):
        measure(protocol, [{"x": []}], allow_missing=True)


def test_nothing_to_compare(tmp_path: Path) -> None:
    nothing = (np.array([], int),)
    save_ground_truth(
        tmp_path / "gnd.pkl", GroundTruth(("a",), ("q",), np.zeros((1, 4)), nothing, nothing, nothing)
    )
    ((easy, *_),) = measure(load_protocol("revisited", tmp_path / "gnd.pkl"), [{"q": ["a"]}]).systems
    assert compare(easy, easy) is None
    assert query_rows(easy) == []


def test_what_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'coco'"):
        load_protocol("coco", path)
    with pytest.raises(ConfigError, match="classes"):
        load_protocol("revisited", path, query_folder=tmp_path)
    second = measure(load_protocol("revisited", path), [{"q0": [], "q1": []}]).systems[0][1]
    other = evaluate(
        [[]],
        GroundTruth(
            ("a",), ("q",), np.zeros((1, 4)), (np.array([0]),), (np.array([], int),), (np.array([], int),)
        ),
    )
    for function in (query_rows, compare):
        with pytest.raises(DataError):
            function(second, other)
