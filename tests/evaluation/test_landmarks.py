"""mAP@k and GAP of Google Landmarks v2, against the definitions written out once more."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation.bootstrap import recognition_bootstrap
from delf_engine.evaluation.landmarks import (
    LandmarkSolution,
    evaluate_landmark_recognition,
    evaluate_landmark_retrieval,
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval_solution,
    read_retrieval_submission,
)
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
    with raises(ConfigError):
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
    with raises(DataError):
        recognition_bootstrap(one, other)
    nothing = evaluate_landmark_recognition({}, {"q": []})
    with raises(DataError):
        recognition_bootstrap(nothing, nothing)
    with pytest.raises(ConfigError):
        recognition_bootstrap(one, one, samples=0)


# ----------------------------------------------------------------------------------------------------- files

RETRIEVAL = "id,images,Usage\n01,None,Ignored\n02,a b,Public\n03,b,Private\n04,c,Private\n05,None,Ignored\n"
RECOGNITION = "id,landmarks,Usage\n01,0 12,Public\n02,,Public\n03,100,Ignored\n04,1,Private\n05,,Ignored\n"


def saved(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_solutions(tmp_path: Path) -> None:
    found = read_retrieval_solution(saved(tmp_path, RETRIEVAL))
    assert found == LandmarkSolution({"02": ("a", "b")}, {"03": ("b",), "04": ("c",)}, frozenset({"01", "05"}))
    shown = read_recognition_solution(saved(tmp_path, RECOGNITION))
    assert shown == LandmarkSolution({"01": (0, 12), "02": ()}, {"04": (1,)}, frozenset({"03", "05"}))
    assert list(shown.parts) == ["public", "private"]
    only = read_recognition_solution(saved(tmp_path, "id,landmarks,Usage\n1,,Private"))
    assert only.parts == {"private": {"1": ()}}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_do_to_them(tmp_path: Path, end: str) -> None:
    text = '\ufeffID,"images",usage\n\n"02"," a  b ",Public\n'.replace("\n", end)
    assert read_retrieval_solution(saved(tmp_path, text)).public == {"02": ("a", "b")}


def test_submissions(tmp_path: Path) -> None:
    solution = read_retrieval_solution(saved(tmp_path, RETRIEVAL))
    text = "id,images\n02,x \n04,y x z\n\n05,\n01,q\n"
    assert read_retrieval_submission(saved(tmp_path, text), solution) == {"02": ["x"], "04": ["y", "x", "z"]}
    shown = read_recognition_solution(saved(tmp_path, RECOGNITION))
    text = "id,landmarks\n01,12 0.1 \n04,0 19\n02,\n\n05,14 0.01\n"
    assert read_recognition_submission(saved(tmp_path, text), shown) == {"01": (12, 0.1), "04": (0, 19.0)}


def test_a_field_of_any_length(tmp_path: Path) -> None:
    images = [f"{n:016x}" for n in range(20_000)]
    solution = read_retrieval_solution(saved(tmp_path, f"id,images,Usage\nq,{' '.join(images)},Private\n"))
    assert solution.private["q"] == tuple(images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1.*id,images,Usage"),
        (RECOGNITION, "line 1.*id,images,Usage.*'id,landmarks,Usage'"),
        ("id,images,Usage\n", "file.csv"),
        ("id,images,Usage\n1,a\n", "line 2: 2 columns.*3"),
        ("id,images,Usage\n1,a,Public,\n", "line 2: 4 columns"),
        ("id,images,Usage\n\n1,a,Secret\n", "line 3.*'Secret'"),
        ("id,images,Usage\n1,a,Public\n1,a,Private\n", "line 3.*'1'"),
        ("id,images,Usage\n1,a,Ignored\n1,a,Ignored\n", "line 3.*'1'"),
        ("id,images,Usage\n1,,Public\n", "line 2.*'1'"),
        ("id,images,Usage\n1,a b a,Public\n", "line 2.*'1'.* a "),
        ("id,images,Usage\n,a,Public\n", "line 2.*empty"),
        (b"id,images,Usage\n1,\xff,Public\n", "file.csv.*UTF-8"),
    ],
    ids=range(12),
)
def test_solutions_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_retrieval_solution(saved(tmp_path, text))


@pytest.mark.parametrize("landmark", ["x", "-1", "1.0", "1_0", "²", "9" * 30])
def test_what_is_no_landmark(tmp_path: Path, landmark: str) -> None:
    with raises(FormatError, "'1'"):
        read_recognition_solution(saved(tmp_path, f"id,landmarks,Usage\n1,{landmark},Public\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,images\n01,1 0.5\n", "id,landmarks.*'id,images'"),
        ("id,landmarks\n01,1 0.5\n01,2 0.5\n", "line 3.*'01'"),
        ("id,landmarks\n09,1 0.5\n", "line 2.*'09'"),
        ("id,landmarks\n01,1\n", "line 2.*'01'.*'1'"),
        ("id,landmarks\n01,1 0.5 2 0.5\n", "line 2.*'01'"),
        ("id,landmarks\n01,1 high\n", "line 2.*'01'.*'high'"),
        ("id,landmarks\n01,1 nan\n", "line 2.*'01'.*NaN"),
        ("id,landmarks\n01,a 0.5\n", "line 2.*'01'.*'a'"),
    ],
    ids=range(8),
)
def test_submissions_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    solution = read_recognition_solution(saved(tmp_path, RECOGNITION))
    with pytest.raises(FormatError, match=message):
        read_recognition_submission(saved(tmp_path, text), solution)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(FormatError, match=path.name):
            read_retrieval_solution(path)


@given(text=st.text(alphabet='id,mages lnrkU\nPubc1"0.-', max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = saved(tmp_path_factory.getbasetemp(), "id,landmarks,Usage\n" + text)
    message = ""
    try:
        read_recognition_solution(path)
    except FormatError as error:
        message = str(error)
    assert not message or message.startswith(str(path))
