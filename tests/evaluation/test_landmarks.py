"""mAP@k of Google Landmarks v2, against the definitions written out once more."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation.landmarks import (
    LandmarkSolution,
    evaluate_landmark_retrieval,
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


# ----------------------------------------------------------------------------------------------------- files

RETRIEVAL = "id,images,Usage\n01,None,Ignored\n02,a b,Public\n03,b,Private\n04,c,Private\n05,None,Ignored\n"


def saved(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_solutions(tmp_path: Path) -> None:
    found = read_retrieval_solution(saved(tmp_path, RETRIEVAL))
    assert found == LandmarkSolution({"02": ("a", "b")}, {"03": ("b",), "04": ("c",)}, frozenset({"01", "05"}))
    assert list(found.parts) == ["public", "private"]
    only = read_retrieval_solution(saved(tmp_path, "id,images,Usage\n1,a,Private"))
    assert only.parts == {"private": {"1": ("a",)}}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_do_to_them(tmp_path: Path, end: str) -> None:
    text = '\ufeffID,"images",usage\n\n"02"," a  b ",Public\n'.replace("\n", end)
    assert read_retrieval_solution(saved(tmp_path, text)).public == {"02": ("a", "b")}


def test_submissions(tmp_path: Path) -> None:
    solution = read_retrieval_solution(saved(tmp_path, RETRIEVAL))
    text = "id,images\n02,x \n04,y x z\n\n05,\n01,q\n"
    assert read_retrieval_submission(saved(tmp_path, text), solution) == {"02": ["x"], "04": ["y", "x", "z"]}


def test_a_field_of_any_length(tmp_path: Path) -> None:
    images = [f"{n:016x}" for n in range(20_000)]
    solution = read_retrieval_solution(saved(tmp_path, f"id,images,Usage\nq,{' '.join(images)},Private\n"))
    assert solution.private["q"] == tuple(images)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1.*id,images,Usage"),
        ("id,landmarks,Usage\n", "line 1.*id,images,Usage.*'id,landmarks,Usage'"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,landmarks\n01,1 0.5\n", "id,images.*'id,landmarks'"),
        ("id,images\n02,a\n02,b\n", "line 3.*'02'"),
        ("id,images\n09,a\n", "line 2.*'09'"),
    ],
    ids=range(3),
)
def test_submissions_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    solution = read_retrieval_solution(saved(tmp_path, RETRIEVAL))
    with pytest.raises(FormatError, match=message):
        read_retrieval_submission(saved(tmp_path, text), solution)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(FormatError, match=path.name):
            read_retrieval_solution(path)


@given(text=st.text(alphabet='id,mages lnrkU\nPubc1"0.-', max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = saved(tmp_path_factory.getbasetemp(), "id,images,Usage\n" + text)
    message = ""
    try:
        read_retrieval_solution(path)
    except FormatError as error:
        message = str(error)
    assert not message or message.startswith(str(path))
