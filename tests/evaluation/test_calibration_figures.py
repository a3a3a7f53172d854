"""Calibration error and ROC, against plain counting."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.calibration_figures import binned, expected_calibration_error, roc_auc
from helpers import raises

Pairs = list[tuple[float, bool]]

tied = st.integers(0, 20).map(lambda n: n / 20)
probability = st.one_of(tied, st.floats(0, 1))
pairs = st.lists(st.tuples(probability, st.booleans()), min_size=1, max_size=60)
score = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e308, 1e308))
both_kinds = st.lists(st.tuples(score, st.booleans()), min_size=2, max_size=40).filter(
    lambda found: len({label for _, label in found}) == 2
)


def plain_error(found: Pairs, bins: int) -> float:
    """Add the gaps of the bins, one at a time; a bin holds its upper edge."""
    total, edges = 0.0, np.linspace(0, 1, bins + 1)
    for i in range(bins):
        inside = [
            (p, label) for p, label in found if (edges[i] < p or i == 0) and (p <= edges[i + 1] or i == bins - 1)
        ]
        if inside:
            share = sum(label for _, label in inside) / len(inside)
            mean = sum(p for p, _ in inside) / len(inside)
            total += len(inside) / len(found) * abs(share - mean)
    return total


def plain_auc(found: Pairs) -> float:
    """Compare every true pair with every false one."""
    true = [value for value, label in found if label]
    false = [value for value, label in found if not label]
    return sum((t > f) + 0.5 * (t == f) for t, f in product(true, false)) / (len(true) * len(false))


@given(pairs, st.integers(1, 15))
def test_error_is_that_of_plain_counting(found: Pairs, bins: int) -> None:
    values, labels = zip(*found, strict=True)
    assert expected_calibration_error(values, labels, bins=bins) == pytest.approx(
        plain_error(found, bins), abs=1e-12
    )
    _, _, of_bin = binned(values, labels, bins)
    edges = np.linspace(0, 1, bins + 1)
    assert (edges[of_bin] <= values).all()
    assert (values <= edges[of_bin + 1]).all()


def test_error_at_a_prior_is_that_of_as_many_pairs() -> None:
    p, labels = np.array([0.1, 0.4, 0.6, 0.95, 0.3]), np.array([0, 0, 1, 1, 0])
    # Three true pairs to one false one: each true pair stands nine times, each false one twice.
    times = np.where(labels == 1, 9, 2)
    repeated = expected_calibration_error(np.repeat(p, times), np.repeat(labels, times))
    assert expected_calibration_error(p, labels, prior=0.75) == pytest.approx(repeated)
    assert expected_calibration_error(p, labels, prior=0.4) == pytest.approx(expected_calibration_error(p, labels))
    with raises(ConfigError):
        expected_calibration_error(p, labels, prior=1.0)
    with pytest.raises(DataError):
        expected_calibration_error([0.5], [1], prior=0.5)


@given(both_kinds)
def test_auc_is_that_of_comparing_all_pairs(found: Pairs) -> None:
    values, labels = zip(*found, strict=True)
    assert roc_auc(values, labels) == pytest.approx(plain_auc(found), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "labels", "complaint"),
    [
        ([], [], "no pair"),
        ([0.5], [1, 0], r"labels.*\(1,\).*\(2,\)"),
        ([[0.5]], [[1]], r"\(N,\)"),
        ([0.5, np.nan], [1, 0], r"\(1,\)"),
        ([0.5, np.inf], [1, 0], r"\(1,\)"),
        ([0.5, 0.5], [1, 2], "number 1 is 2"),
        ([0.5, 0.5], [1, np.nan], r"labels.*\(1,\)"),
        (["a"], [1], "numbers"),
    ],
)
def test_wrong_pairs_are_refused(values: list[float], labels: list[float], complaint: str) -> None:
    for figure in (expected_calibration_error, roc_auc):
        with pytest.raises(DataError, match=complaint):
            figure(values, labels)


def test_out_of_range() -> None:
    for bad in (-0.01, 1.01, 1e300):
        with raises(DataError):
            expected_calibration_error([0.5, bad], [1, 0])
    with raises(ConfigError):
        expected_calibration_error([0.5], [1], bins=0)
    with raises(DataError):
        roc_auc([1, 2], [1, 1])
    with raises(DataError):
        roc_auc([1], [0])
