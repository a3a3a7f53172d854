"""Ranking by evidence: every method is compared with the one that it adds to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.reranking.evidence import _RULES, _rows
from delf_engine.evaluation import GroundTruth

ROUNDS = {
    "one round, confirmed": "one round",
    "expansion": "one round",
    "expansion, confirmed": "one round, confirmed",
    "graph": "one round",
    "graph, confirmed": "one round, confirmed",
}


def test_methods_are_compared_with_what_they_add_to() -> None:
    nothing = np.zeros(0, np.int64)
    truth = GroundTruth(
        ("right", "wrong"), ("q",), np.zeros((1, 4)), easy=(np.array([0]),), hard=(nothing,), junk=(nothing,)
    )
    over = {f"{rule}, confirm={count}": rule for rule in _RULES for count in (10, 20)} | ROUNDS
    first = {name: name for name in (*_RULES, "one round")}
    rankings = {name: {"q": ["wrong", "right"]} for name in first} | {
        name: {"q": ["right", "wrong"]} for name in over
    }
    searched: Any = SimpleNamespace(name="x", truth=truth)
    rows = {row["method"]: row for row in _rows(searched, rankings)}
    assert {method: row["over"] for method, row in rows.items()} == over | first
    assert {method: row["map"] for method, row in rows.items()} == dict.fromkeys(over, 100) | dict.fromkeys(
        first, 25
    )
    for method, base in (over | first).items():
        gain = rows[method]["map"] - rows[base]["map"]
        assert rows[method]["difference"]["difference"] == pytest.approx(gain)
