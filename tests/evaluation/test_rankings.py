"""Rankings in every form that they come in, and what is wrong with them said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_engine.errors import DataError
from delf_engine.evaluation import GroundTruth, evaluate, rankings_from_ranks, rankings_from_scores
from evaluation.oracles import synthetic

# -------------------------------------------------------------------------------------------------- by scores

NUMBERS = st.sampled_from([np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64])


@given(dtype=NUMBERS, n=st.integers(0, 30), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_sorted_by_score_and_then_by_id(dtype: Any, n: int, seed: int, data: st.DataObject) -> None:
    elements = {"allow_nan": False} if np.dtype(dtype).kind == "f" else {}
    kinds = hnp.from_dtype(np.dtype(dtype), **elements)
    few = data.draw(st.lists(kinds, min_size=1, max_size=4))  # so that many are equal
    rng = np.random.default_rng(seed)
    scores = np.array(few, dtype)[rng.integers(0, len(few), n)]
    (ranking,) = rankings_from_scores([scores])
    # Python compares numbers of any type exactly.
    plain = sorted(range(n), key=lambda i: i)
    plain.sort(key=lambda i: scores[i].item(), reverse=True)
    assert ranking.tolist() == plain
    ids = rng.permutation(n) * 7
    names = [f"n{i}" for i in ids]
    by_number, by_name = (
        rankings_from_scores([scores], [given_ids])[0].tolist() for given_ids in (ids.tolist(), names)
    )
    expected = sorted(sorted(range(n), key=lambda i: names[i]), key=lambda i: scores[i].item(), reverse=True)
    assert by_name == [names[i] for i in expected]
    expected = sorted(sorted(range(n), key=lambda i: ids[i]), key=lambda i: scores[i].item(), reverse=True)
    assert by_number == [ids[i] for i in expected]
    order = rng.permutation(n)
    mixed = rankings_from_scores([scores[order]], [[names[i] for i in order]])[0]
    assert mixed.tolist() == by_name


def test_infinite_scores_and_negative_zero() -> None:
    assert rankings_from_scores([[-np.inf, 0.0, np.inf, -0.0]])[0].tolist() == [2, 1, 3, 0]
    assert rankings_from_scores(np.empty((0, 4))) == []


@pytest.mark.parametrize(
    ("scores", "ids", "message"),
    [
        ([[1.0], [0.5, np.nan]], None, "query number 1: score number 1 is NaN"),
        ([["a"]], None, "scores must be numbers"),
        ([[[1.0]]], None, "scores must be numbers in one dimension"),
        ([[True]], None, "scores must be numbers"),
        ([[[1.0], [1.0, 2.0]]], None, "scores must be numbers"),
        ([[1.0]], [], "ids of 0 queries for scores of 1"),
        ([[1.0, 2.0]], [["a"]], "1 ids for 2 scores"),
        ([[1.0, 2.0]], [["a", "a"]], "'a' stands in its ids more than once"),
        ([[1.0, 2.0]], [[3, 3]], "3 stands in its ids more than once"),
        ([[1.0, 2.0]], [[3, 0.5]], "must be one-dimensional integer"),
        ([[1.0]], [[2**64 - 1]], "18446744073709551615 is no index"),
    ],
    ids=str,
)
def test_scores_that_are_refused(scores: Any, ids: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rankings_from_scores(scores, ids)


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
        (np.zeros((3, 2)), r"must be a \(K, Q\) matrix of integers, got \(3, 2\) float64"),
        (np.zeros(3, int), "must be a"),
        ([[1], [1, 2]], "must be a"),
        (np.zeros((3, 4), int), "ranks have 4 columns for 3 queries; one row a query needs no call"),
        (np.zeros((5, 4), int), "ranks have 4 columns for 3 queries$"),
        (np.full((1, 3), 2**64 - 1), "18446744073709551615 is no index"),
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
        (np.zeros((8, 2), int), "8 rankings for 2 queries.*column a query goes through rankings_from_ranks"),
        ({"q0": []}, "no ranking of 1 of 2 queries, such as 'q1': give an empty one"),
        ({"q0": [], "q1": [], "x": []}, "ranking of 'x', which is no query of this ground truth$"),
        ({"x": [], "y": []}, r"'x', which .* \(2 of 2 are unknown\): the ground truth seems to be of another set"),
        ([["x", "y", "a"], []], r"query q0: 'x' is no image of the gallery \(2 of 3 are unknown\): the ground"),
        ([["a", "b", "c", "d", "x", "y"], []], r"'x' is no image of the gallery \(2 of 6 are unknown\)$"),
        ([["a", "b", "x"], []], "'x' is no image of the gallery$"),
        ([list(range(9)), []], r"index 8 is no image of a gallery of 8$"),
        ([list(range(12)), []], r"gallery of 8 \(4 of 12 are unknown\): the ground truth seems to be of another"),
        ([np.array([2**63], np.uint64), []], "9223372036854775808 is no index of an image"),
        ([np.array([0, 1, 0], np.int32), []], "image 0 stands in it 2 times"),
        ([np.array([0, -1], np.int64), []], "index -1 is no image"),
        ([[("a", 0.5), ("b", float("nan"))], []], "query q0: the score of 'b' is nan: a number was expected"),
        ([[("a", None)], []], "the score of 'a' is None"),
        ([[("a", 0.5), "b"], []], "must be one-dimensional integer indices"),
        ([[("a", 0.5), ("a", 0.4)], []], "image 0 stands in it 2 times"),
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
    with pytest.raises(
        DataError, match=r"orders of the same 120 images, .* gallery has 130: the ground truth seems"
    ):
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
