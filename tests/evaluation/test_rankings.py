"""Rankings in every form that they come in, and what is wrong with them said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, evaluate, rankings_from_ranks
from evaluation.oracles import synthetic

# --------------------------------------------------------------------------------------------- rank matrices


@given(
    ranks=hnp.arrays(
        st.sampled_from([np.int32, np.int64, np.uint8]),
        st.tuples(st.integers(0, 9), st.integers(0, 4)),
        elements=st.integers(0, 200),
    ),
    times=st.sampled_from([1, 300]),
)
def test_columns_become_rows(ranks: Any, times: int) -> None:
    ranks = np.tile(ranks, (times, 1))  # longer than a block, too
    rows = rankings_from_ranks(ranks, queries=ranks.shape[1])
    assert np.array_equal(rows, ranks.T)
    assert rows.flags.c_contiguous
    assert rows.dtype == (np.int32 if ranks.dtype == np.int32 else np.int64)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (np.zeros((3, 2)), r"\(3, 2\) float64"),
        (np.zeros(3, int), "matrix"),
        ([[1], [1, 2]], "matrix"),
        (np.zeros((3, 4), int), "4 columns for 3 queries; one row a query"),
        (np.zeros((5, 4), int), "4 columns for 3 queries$"),
        (np.full((1, 3), 2**64 - 1), "18446744073709551615"),
    ],
    ids=range(6),
)
def test_matrices_that_are_refused(ranks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rankings_from_ranks(ranks, queries=3)


# -------------------------------------------------------------------------------- rankings of something else


@pytest.mark.parametrize(
    ("rankings", "message"),
    [
        (np.zeros((8, 2), int), "8 rankings for 2.*rankings_from_ranks"),
        ({"q0": []}, "1 of 2 queries.*'q1'"),
        ({"q0": [], "q1": [], "x": []}, "'x'[^(]*$"),
        ({"x": [], "y": []}, r"'x'.*2 of 2.*another set"),
        ([["x", "y", "a"], []], r"q0.*'x'.*2 of 3.*another set"),
        ([["a", "b", "c", "d", "x", "y"], []], r"'x'.*\(2 of 6 [a-z ]*\)$"),
        ([["a", "b", "x"], []], "'x'[^(]*$"),
        ([list(range(9)), []], r"index 8 .*8$"),
        ([list(range(12)), []], r"8.*4 of 12.*another set"),
        ([np.array([2**63], np.uint64), []], "q0"),
        ([np.array([0, 1, 0], np.int32), []], "image 0.*2 times"),
        ([np.array([0, -1], np.int64), []], "index -1"),
        ([[("a", 0.5), ("b", float("nan"))], []], "q0.*'b'.*nan"),
        ([[("a", None)], []], "'a'.*None"),
        ([[("a", 0.5), "b"], []], "q0"),
        ([[("a", 0.5), ("a", 0.4)], []], "image 0.*2 times"),
    ],
    ids=range(16),
)
def test_rankings_of_something_else(truth: GroundTruth, rankings: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(rankings, truth)


def test_complete_orders_of_a_smaller_gallery(rng: np.random.Generator) -> None:
    """Row numbers of another set fit a larger one, and would be measured without a word."""
    truth = synthetic(rng, 130, 3)
    orders = [rng.permutation(120) for _ in range(3)]
    with pytest.raises(DataError, match=r"120.*130.*another set"):
        evaluate(np.array(orders), truth)
    evaluate([rng.permutation(130) for _ in range(3)], truth)
    evaluate([*orders[:2], np.append(orders[2][:-1], 125)], truth)  # one of them is of the larger one
    evaluate([*orders[:2], orders[2][:-1]], truth)
    evaluate([order[order < 50] for order in orders], truth)  # so few may be by chance


def test_rankings_may_be_read_only_and_strided(truth: GroundTruth) -> None:
    order = np.arange(8)
    order.flags.writeable = False
    matrix = np.stack([order, order[::-1]], axis=1)
    expected = evaluate([order.tolist(), order[::-1].tolist()], truth).to_dict()
    assert evaluate([order, order[::-1]], truth).to_dict() == expected
    assert evaluate(matrix.T, truth).to_dict() == expected
    assert matrix[:, 1].tolist() == order[::-1].tolist()  # nothing was written to
