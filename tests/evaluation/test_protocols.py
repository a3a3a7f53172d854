"""Protocols from Python: what the command cannot ask; its own tests cover the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, compare, evaluate, load_protocol, measure, save_ground_truth
from delf_engine.evaluation.protocols import query_rows


@pytest.fixture
def path(truth: GroundTruth, tmp_path: Path) -> Path:
    save_ground_truth(tmp_path / "gnd.pkl", truth)
    return tmp_path / "gnd.pkl"


def test_nothing_to_compare(tmp_path: Path) -> None:
    nothing = (np.array([], int),)
    save_ground_truth(
        tmp_path / "gnd.pkl", GroundTruth(("a",), ("q",), np.zeros((1, 4)), nothing, nothing, nothing)
    )
    ((easy, *_),) = measure(load_protocol("revisited", tmp_path / "gnd.pkl"), [{"q": ["a"]}]).systems
    assert compare(easy, easy) is None
    assert query_rows(easy) == []


def test_figures_of_other_queries_are_refused(path: Path) -> None:
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
