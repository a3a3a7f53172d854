from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation import (
    SETUPS,
    GroundTruth,
    Setup,
    evaluate,
    evaluate_setups,
    load_ground_truth,
    rankings_from_ranks,
    restrict,
)
from evaluation.oracles import RANKS, awkward_ranking, plain_figures, sets_of, synthetic
from helpers import raises

# ------------------------------------------------------------------------------- against one plain loop at a time


def check(rankings: Sequence[Sequence[int]], truth: GroundTruth, setup: Setup) -> None:
    measured = evaluate(rankings, truth, setup=setup)
    expected = [plain_figures(list(r), *sets_of(truth, q, setup)) for q, r in enumerate(rankings)]
    told = [e for e in expected if e is not None]
    assert measured.evaluated == len(told)
    for q, figures in enumerate(expected):
        if figures is None:
            assert np.isnan(measured.average_precision[q])
            assert np.isnan(measured.precision[q]).all()
        else:
            assert abs(measured.average_precision[q] / 100 - figures[0]) < 1e-12
            np.testing.assert_allclose(measured.precision[q] / 100, figures[1], rtol=0, atol=1e-12)
    if told:
        assert abs(measured.mean_ap / 100 - sum(e[0] for e in told) / len(told)) < 1e-12
        for i, k in enumerate(RANKS):
            assert abs(measured.mean_precision[k] / 100 - sum(e[1][i] for e in told) / len(told)) < 1e-12
    else:
        assert np.isnan(measured.mean_ap)


@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 40),
    queries=st.integers(1, 4),
    setup=st.sampled_from(SETUPS),
)
def test_agrees_with_the_plain_protocol(seed: int, images: int, queries: int, setup: Setup) -> None:
    rng = np.random.default_rng(seed)
    truth = synthetic(rng, images, queries)
    check([awkward_ranking(rng, truth, q) for q in range(queries)], truth, setup)


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 40))
def test_rankings_by_tied_scores(seed: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    truth = synthetic(rng, images, 2)
    scores = rng.integers(0, 3, (2, images))
    rankings = np.argsort(-scores, axis=1, kind="stable")
    check(list(rankings), truth, "medium")
    names, figures = list(truth.names), evaluate_setups(rankings, truth)
    ids = [[names[i] for i in ranking] for ranking in rankings]
    scored = {
        query: [(image, float(scores[q][names.index(image)])) for image in ids[q]]
        for q, query in enumerate(truth.query_names)
    }
    matrix = rankings_from_ranks(rankings.T, queries=2)
    reordered = dict(reversed(scored.items()))
    for form in (ids, scored, reordered, matrix, matrix.astype(np.int32)):
        again = evaluate_setups(form, truth)
        assert {s: e.to_dict() for s, e in again.items()} == {s: e.to_dict() for s, e in figures.items()}


def test_means_have_the_same_bits_for_any_order_of_queries(rng: np.random.Generator) -> None:
    truth = synthetic(rng, 60, 40)
    rankings = dict(zip(truth.query_names, (awkward_ranking(rng, truth, q) for q in range(40)), strict=True))
    turned = restrict(truth, truth.names, truth.query_names[::-1])
    for setup in SETUPS:
        one, two = evaluate(rankings, truth, setup=setup), evaluate(rankings, turned, setup=setup)
        assert (one.mean_ap, one.mean_precision) == (two.mean_ap, two.mean_precision)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_ranking_of_the_part_is_the_ranking_of_the_whole_without_the_rest(seed: int) -> None:
    """Images that are not kept can be seen as junk of every query, but for the positives among them."""
    rng = np.random.default_rng(seed)
    truth = synthetic(rng, 30, 3)
    kept = rng.permutation(30)[: rng.integers(1, 31)]
    part = restrict(truth, [truth.names[i] for i in kept], truth.query_names)
    for q in range(3):
        for whole, few in ((truth.easy, part.easy), (truth.hard, part.hard), (truth.junk, part.junk)):
            assert {truth.names[i] for i in whole[q]} & set(part.names) == {part.names[i] for i in few[q]}


@pytest.mark.parametrize("name", ["gnd_roxford5k.pkl", "gnd_rparis6k.pkl"])
def test_agrees_on_the_official_ground_truths(data: Path, name: str) -> None:
    truth = load_ground_truth(data / "revisited" / name)
    rng = np.random.default_rng(0)
    for _ in range(3):  # 70 rankings each, 210 for each set-up
        rankings = [awkward_ranking(rng, truth, q) for q in range(len(truth))]
        for setup in SETUPS:
            check(list(rankings), truth, setup)


def test_by_hand(truth: GroundTruth) -> None:
    rankings = [list("fdagebch"), list("hgfedcba")]
    medium = evaluate(rankings, truth, setup="medium")  # q0 without junk: f A g B C h
    expected = ((0 + 1 / 2) + (1 / 3 + 2 / 4) + (2 / 4 + 3 / 5)) / 6
    np.testing.assert_allclose(medium.average_precision, [100 * expected, 100])
    np.testing.assert_allclose(medium.precision, [[0, 60, 60], [100, 100, 100]])
    easy = evaluate(rankings, truth, setup="easy")  # f A g B h
    np.testing.assert_allclose(
        easy.average_precision, [100 * ((0 + 1 / 2) + (1 / 3 + 2 / 4)) / 4, np.nan], equal_nan=True
    )
    assert easy.evaluated == 1
    assert easy.mean_precision == {1: 0.0, 5: 50.0, 10: 50.0}
    hard = evaluate(rankings, truth, setup="hard")  # f g C h
    np.testing.assert_allclose(hard.average_precision, [100 * (0 + 1 / 3) / 2, 100])


def test_junk_and_positives(truth: GroundTruth) -> None:
    assert [j.tolist() for j in truth.junk_of("easy")] == [[3, 4, 2], [7]]
    assert [j.tolist() for j in truth.junk_of("medium")] == [[3, 4], []]
    assert [j.tolist() for j in truth.junk_of("hard")] == [[3, 4, 0, 1], []]
    assert [p.tolist() for p in truth.positives_of("medium")] == [[0, 1, 2], [7]]
    for call in (truth.junk_of, truth.positives_of):
        with raises(ConfigError, "'mid'"):
            call("mid")  # type: ignore[arg-type]
    with raises(ConfigError, "'Hard'"):
        evaluate([[], []], truth, setup="Hard")  # type: ignore[arg-type]


def test_names_and_indices_give_the_same(truth: GroundTruth) -> None:
    names = [list("hbcadefg"), list("aceg")]
    indices = [[truth.names.index(n) for n in ranking] for ranking in names]
    a, b = evaluate(names, truth), evaluate(indices, truth)
    c = evaluate([np.array(names[0]), np.array(indices[1], np.uint8)], truth)
    assert a.to_dict() == b.to_dict() == c.to_dict()
    whole = np.array([indices[0], indices[0][::-1]])
    assert evaluate(whole, truth).evaluated == 2  # type: ignore[arg-type]


def test_no_query_has_a_positive() -> None:
    nothing = (np.array([], int),)
    truth = GroundTruth(("a",), ("q",), np.zeros((1, 4)), nothing, nothing, nothing)
    figures = evaluate([["a"]], truth, setup="hard")
    assert figures.evaluated == 0
    assert np.isnan(figures.mean_ap)
    assert json.loads(json.dumps(figures.to_dict(), allow_nan=False))["mean_ap"] is None
    assert "0 queries" in repr(figures)


def test_the_result_prints_and_survives_json(truth: GroundTruth) -> None:
    figures = evaluate([list("abcdefgh"), list("habcdefg")], truth)
    assert repr(figures) == ("Evaluation(medium, 2 queries: mAP 100.00, mP@1 100.00, mP@5 100.00, mP@10 100.00)")
    back = json.loads(json.dumps(figures.to_dict(), allow_nan=False))
    assert back["average_precision"] == {"q0": 100.0, "q1": 100.0}
    assert repr(truth) == "GroundTruth(2 queries, 8 images)"
    with pytest.raises(ValueError, match="read-only"):
        figures.average_precision[0] = 1


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
        ([[0]], "1 rankings for 2 queries"),
        *(
            ([ranking, []], "q0")
            for ranking in (["a", "b", "a"], [0.0, 1.0], [True, False], [[0, 1]], [[0, 1], [2]], ["a", 1], [None])
        ),
        (["abz", []], "'z'"),
    ],
    ids=str,
)
def test_rankings_of_something_else(truth: GroundTruth, rankings: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate(rankings, truth)


def test_complete_orders_of_a_smaller_gallery(rng: np.random.Generator) -> None:
    """Row numbers of another set fit a larger one, and would be measured without a word."""
    truth = synthetic(rng, 130, 3)
    orders = [rng.permutation(120) for _ in range(3)]
    with raises(DataError, "120", "130"):
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
