"""mAP@k and GAP of Google Landmarks v2, against the definitions written out once more."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.bootstrap import recognition_bootstrap
from delf_engine.evaluation.landmarks import evaluate_landmark_recognition, evaluate_landmark_retrieval
from helpers import raises

IMAGES = [f"i{n}" for n in range(8)]
QUERIES = ["a", "b", "c", "d"]

relevant_images = st.dictionaries(
    st.sampled_from(QUERIES), st.lists(st.sampled_from(IMAGES), min_size=1, unique=True), min_size=1
)
image_lists = st.lists(st.sampled_from(IMAGES), max_size=12, unique=True)
landmark_sets = st.dictionaries(st.sampled_from(QUERIES), st.lists(st.integers(0, 3), unique=True))
guesses = st.tuples(st.integers(0, 3), st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1e300, math.inf]))

# --------------------------------------------------------------------------------------------------- retrieval


def plain_map(predictions: dict[str, list[str]], relevant: dict[str, list[str]], k: int) -> Fraction:
    """mAP@k in whole numbers."""
    total = Fraction(0)
    for query, answers in relevant.items():
        images = predictions.get(query, [])[:k]
        ap = Fraction(0)
        for rank in range(1, len(images) + 1):
            if images[rank - 1] in answers:
                ap += Fraction(len(set(images[:rank]) & set(answers)), rank)
        total += ap / min(len(answers), k)
    return total / len(relevant)


@given(relevant=relevant_images, data=st.data(), k=st.integers(1, 14))
def test_mean_average_precision(relevant: dict[str, list[str]], data: st.DataObject, k: int) -> None:
    predictions = data.draw(st.dictionaries(st.sampled_from(sorted(relevant)), image_lists))
    figures = evaluate_landmark_retrieval(predictions, relevant, k=k)
    assert abs(figures.mean_ap / 100 - plain_map(predictions, relevant, k)) < 1e-12
    for cut, value in figures.mean_precision.items():
        hits = [len(set(predictions.get(q, [])[: min(cut, k)]) & set(relevant[q])) for q in relevant]
        assert abs(value / 100 - sum(hits) / cut / len(relevant)) < 1e-12
    reordered = dict(reversed(relevant.items())), dict(reversed(predictions.items()))
    again = evaluate_landmark_retrieval(reordered[1], reordered[0], k=k)
    assert again.mean_ap == figures.mean_ap


def test_figures_of_the_published_tests() -> None:
    relevant = {"q1": ["x10", "x20"], "q2": ["x10"], "q3": ["x30", "x40", "x50"], "q4": ["x30"]}
    predictions = {"q2": ["x00", "x10"], "q3": ["x40"], "q4": ["x30", "x40"]}
    figures = evaluate_landmark_retrieval(predictions, relevant)
    assert figures.mean_ap == pytest.approx(45.8333333333)
    assert evaluate_landmark_retrieval(predictions, relevant, k=1).mean_ap == 50
    assert figures.positives.tolist() == [2, 1, 3, 1]
    assert repr(figures).startswith("Evaluation(all, 4 queries: mAP@100 45.83, mP@1 ")
    assert json.loads(json.dumps(figures.to_dict()))["average_precision"]["q1"] == 0


def test_more_relevant_images_than_places() -> None:
    relevant = {"q": [f"i{n}" for n in range(250)]}
    perfect = {"q": [f"i{n}" for n in range(120)]}
    assert evaluate_landmark_retrieval(perfect, relevant).mean_ap == 100
    assert evaluate_landmark_retrieval({}, relevant).mean_ap == 0
    nothing = evaluate_landmark_retrieval({}, {})
    assert math.isnan(nothing.mean_ap)
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["mean_ap"] is None


@pytest.mark.parametrize(
    ("predictions", "relevant", "message"),
    [
        ({"x": ["i"]}, {"q": ["i"]}, "'x'.*1 of 1"),
        ({"q": ["i", "j", "i"]}, {"q": ["i"]}, "'q'.*'i'.*ranks 1 and 3"),
        ({}, {"q": []}, "'q'"),
    ],
    ids=str,
)
def test_retrievals_that_are_refused(predictions: Any, relevant: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_landmark_retrieval(predictions, relevant)


def test_a_double_beyond_k_does_not_matter() -> None:
    assert evaluate_landmark_retrieval({"q": ["i", "j", "i"]}, {"q": ["i"]}, k=2).mean_ap == 100
    with pytest.raises(ConfigError, match="k "):
        evaluate_landmark_retrieval({}, {}, k=0)


# -------------------------------------------------------------------------------------------------- recognition


def plain_gap(predictions: dict[str, tuple[int, float]], landmarks: dict[str, list[int]]) -> Fraction:
    order = sorted(predictions)
    order.sort(key=lambda query: predictions[query][1], reverse=True)
    right = [predictions[query][0] in landmarks[query] for query in order]
    area = sum((Fraction(sum(right[:n]), n) for n in range(1, len(right) + 1) if right[n - 1]), Fraction(0))
    return area / sum(len(shown) > 0 for shown in landmarks.values())


@given(landmarks=landmark_sets, data=st.data())
def test_global_average_precision(landmarks: dict[str, list[int]], data: st.DataObject) -> None:
    keys = st.sampled_from(sorted(landmarks)) if landmarks else st.nothing()
    predictions = data.draw(st.dictionaries(keys, guesses))
    figures = evaluate_landmark_recognition(predictions, landmarks)
    only = {query: shown for query, shown in landmarks.items() if shown}
    assert len(figures.order) == len(predictions)
    if only:
        assert abs(figures.mean_ap / 100 - plain_gap(predictions, landmarks)) < 1e-12
        of_landmarks = plain_gap({query: guess for query, guess in predictions.items() if query in only}, only)
        assert abs(figures.figures["GAP, landmarks only"] / 100 - of_landmarks) < 1e-12
        right = sum(query in predictions and predictions[query][0] in shown for query, shown in only.items())
        assert figures.figures["top-1"] == pytest.approx(100 * right / len(only))
    else:
        assert all(math.isnan(value) for value in figures.figures.values())
    backwards = evaluate_landmark_recognition(
        dict(reversed(predictions.items())), dict(reversed(landmarks.items()))
    )
    assert backwards.to_dict() == figures.to_dict()


def test_recognition_figures_of_the_published_tests() -> None:
    landmarks: dict[str, list[int]] = {"q1": [0, 12], "q2": [100, 200, 300], "q3": [1], "q4": [], "q5": []}
    predictions = {"q2": (0, 0.01), "q3": (1, 10.0), "q4": (150, 15.0)}
    figures = evaluate_landmark_recognition(predictions, landmarks)
    assert figures.figures == pytest.approx({"GAP": 100 / 6, "GAP, landmarks only": 100 / 3, "top-1": 100 / 3})
    assert repr(figures).startswith("RecognitionFigures(all, 5 queries: GAP 16.67, ")


def test_predictions_that_are_refused() -> None:
    for predictions in ({"x": (1, 0.5)}, {"q": (1, 0.5), "x": (1, math.nan)}):
        with raises(DataError, "'x'"):
            evaluate_landmark_recognition(predictions, {"q": [1]})
    with raises(DataError, "'q'", "NaN"):
        evaluate_landmark_recognition({"q": (1, math.nan)}, {"q": [1]})


# --------------------------------------------------------------------------------------------- two recognisers


def recognisers(rng: np.random.Generator, queries: int, *rights: float) -> list[Any]:
    landmarks = {f"q{i}": [i] if i % 3 else [] for i in range(queries)}
    return [
        evaluate_landmark_recognition(
            {f"q{i}": (i if rng.random() < right else -1, float(rng.integers(0, 9))) for i in range(queries)},
            landmarks,
        )
        for right in rights
    ]


def test_recognition_is_compared_by_queries_drawn_again(rng: np.random.Generator) -> None:
    good, bad = recognisers(rng, 90, 0.9, 0.2)
    found = recognition_bootstrap(good, bad, samples=200)
    assert found.difference == good.mean_ap - bad.mean_ap
    assert found.low < found.difference < found.high
    assert found.verdict == "first is better"
    assert recognition_bootstrap(bad, good, samples=200).verdict == "second is better"
    same = recognition_bootstrap(good, good, samples=50)
    assert (same.low, same.high, same.verdict) == (0, 0, "no difference shown")
    assert found == recognition_bootstrap(good, bad, samples=200)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # one sample has no standard error
def test_a_query_drawn_twice_predicts_twice(rng: np.random.Generator) -> None:
    """One sample, and its figure by the definition from as many queries as were drawn."""
    one, two = recognisers(rng, 12, 0.5, 0.7)
    drawn: list[list[int]] = []
    real = np.bincount

    def spied(values: Any, **options: Any) -> Any:
        drawn.append(list(values))
        return real(values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "bincount", spied)
        found = recognition_bootstrap(one, two, samples=1, seed=7)
    gaps = []
    for figures in (one, two):
        order = [q for q in figures.order.tolist() for _ in range(drawn[0].count(q))]
        right = [bool(figures.recognised[q]) for q in order]
        area = sum(sum(right[:n]) / n for n in range(1, len(right) + 1) if right[n - 1])
        gaps.append(100 * area / sum(bool(figures.shows_landmark[q]) for q in drawn[0]))
    assert found.low == pytest.approx(gaps[0] - gaps[1])


def test_recognisers_that_cannot_be_compared(rng: np.random.Generator) -> None:
    (one,), (other,) = recognisers(rng, 6, 0.5), recognisers(rng, 7, 0.5)
    with pytest.raises(DataError, match="queries"):
        recognition_bootstrap(one, other)
    nothing = evaluate_landmark_recognition({}, {"q": []})
    with pytest.raises(DataError, match="landmark"):
        recognition_bootstrap(nothing, nothing)
    with pytest.raises(ConfigError):
        recognition_bootstrap(one, one, samples=0)
