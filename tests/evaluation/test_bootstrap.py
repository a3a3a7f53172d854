"""Two systems compared: the bootstrap, and what the command that uses it cannot ask."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation import GroundTruth, compare, evaluate, paired_bootstrap
from delf_engine.evaluation.protocols import query_rows
from helpers import raises


def test_the_interval_is_that_of_the_mean(rng: np.random.Generator) -> None:
    first = rng.normal(3, 10, 400)
    second = rng.normal(0, 10, 400)
    found = paired_bootstrap(first, second, samples=4000)
    difference = first - second
    assert found.difference == pytest.approx(difference.mean())
    half = 1.96 * difference.std() / np.sqrt(400)
    assert found.low == pytest.approx(difference.mean() - half, abs=0.15)
    assert found.high == pytest.approx(difference.mean() + half, abs=0.15)
    assert found.queries == 400


def test_pairing_counts(rng: np.random.Generator) -> None:
    """Queries differ much, the systems little: only the paired interval is narrow."""
    second = rng.uniform(0, 100, 70)
    found = paired_bootstrap(second + 1, second)
    assert (found.difference, found.low, found.high) == pytest.approx((1, 1, 1))


def test_swapping_mirrors_and_a_seed_repeats(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 12))
    one, two = paired_bootstrap(a, b, samples=500), paired_bootstrap(b, a, samples=500)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert one == paired_bootstrap(a.tolist(), b.tolist(), samples=500)
    assert one != paired_bootstrap(a, b, samples=500, seed=1)


def test_queries_without_a_positive_are_left_out() -> None:
    found = paired_bootstrap([1.0, np.nan, 3.0], [0.0, np.nan, 2.0], samples=50)
    assert (found.difference, found.queries) == (1.0, 2)
    assert str(found) == "+1.00 [+1.00, +1.00] over 2 queries"
    assert json.loads(json.dumps(found.to_dict()))["confidence"] == 0.95


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [1]), ([1, np.nan], [1, 2]), ([[1]], [[1]]), ([], []), ([np.nan], [np.nan])],
    ids=str,
)
def test_figures_that_cannot_be_compared(first: Any, second: Any) -> None:
    with pytest.raises(DataError):
        paired_bootstrap(first, second)


def test_options_out_of_range() -> None:
    with raises(ConfigError, "0"):
        paired_bootstrap([1.0], [2.0], samples=0)


def test_the_verdict_says_only_what_the_interval_shows(rng: np.random.Generator) -> None:
    noise = rng.normal(0, 10, 70)
    assert paired_bootstrap(noise + 0.5, np.zeros(70), samples=500).verdict == "no difference shown"
    better = paired_bootstrap(noise + 20, noise, samples=50)
    assert better.verdict == "first is better"
    assert paired_bootstrap(noise, noise + 20, samples=50).verdict == "second is better"
    assert paired_bootstrap(noise, noise, samples=50).verdict == "no difference shown"


def truth_of(*easy: int) -> GroundTruth:
    nothing = (np.array([], int),)
    return GroundTruth(("a",), ("q",), np.zeros((1, 4)), (np.array(easy, int),), nothing, nothing)


def test_figures_without_a_positive_or_of_other_queries(truth: GroundTruth) -> None:
    nothing = evaluate([["a"]], truth_of())
    assert compare(nothing, nothing) is None
    assert query_rows(nothing) == []
    for function in (query_rows, compare):
        with pytest.raises(DataError):
            function(evaluate([[], []], truth), evaluate([[]], truth_of(0)))
