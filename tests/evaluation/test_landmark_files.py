from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FormatError
from delf_engine.evaluation.landmarks import (
    LandmarkSolution,
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval_solution,
    read_retrieval_submission,
)

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
    with pytest.raises(FormatError, match=r"line 2.*'1'"):
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
