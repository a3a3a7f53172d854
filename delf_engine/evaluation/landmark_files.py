"""The CSV files of Google Landmarks v2: solutions, and submissions of predictions.

====================================  ===================  ==================================================
``retrieval_solution_v2.1.csv``       id,images,Usage      relevant images, separated by blanks
``recognition_solution_v2.1.csv``     id,landmarks,Usage  landmark numbers; empty for a query that shows none
submission of retrieval               id,images            image ids, best first, separated by blanks
submission of recognition             id,landmarks         one ``landmark confidence``, or nothing
====================================  ===================  ==================================================

``Usage`` is Public, Private or Ignored. Ids hold no commas: lines are split at them, so that a field may be longer
than the csv module allows. Every reader raises `FormatError`, which names the file and the line, if the file
cannot be read or a row is wrong.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from delf_engine.errors import FormatError
from delf_engine.evaluation.landmarks import Label, LandmarkSolution
from delf_engine.support.files import system_errors

__all__ = [
    "is_retrieval_submission",
    "read_recognition_solution",
    "read_recognition_submission",
    "read_retrieval_solution",
    "read_retrieval_submission",
]

Prediction = TypeVar("Prediction")


def read_retrieval_solution(path: str | os.PathLike[str]) -> LandmarkSolution[str]:
    """Read which images are relevant to each query.

    Raises
    ------
    FormatError
        Rows are wrong with another number of columns, an unknown usage, a query that occurs twice, no relevant
        image for a query that is scored, or one twice.
    """
    return _solution(Path(path), "images", _relevant)


def read_recognition_solution(path: str | os.PathLike[str]) -> LandmarkSolution[int]:
    """Read which landmarks each query shows.

    Raises
    ------
    FormatError
        As `read_retrieval_solution` does, and if a landmark is no whole number.
    """
    return _solution(Path(path), "landmarks", lambda text: _distinct(tuple(_landmark(x) for x in text.split())))


def read_retrieval_submission(
    path: str | os.PathLike[str], solution: LandmarkSolution[str]
) -> dict[str, list[str]]:
    """Read the images predicted for each query, best first, of both parts; ignored queries are passed over.

    Raises
    ------
    FormatError
        Rows are wrong with another number of columns, or a query that occurs twice or is not in the solution.
    """
    return _submission(Path(path), "images", solution, str.split)


def is_retrieval_submission(path: Path) -> bool:
    """Tell whether a file has the columns of a submission of retrieval; other lists of images have others."""
    if path.suffix.lower() != ".csv":
        return False
    with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig", errors="replace") as lines:
        return _names(next(lines, "")) == ["id", "images"]


def read_recognition_submission(
    path: str | os.PathLike[str], solution: LandmarkSolution[int]
) -> dict[str, tuple[int, float]]:
    """Read the landmark predicted for each query and its confidence; queries without one are not in the result.

    Raises
    ------
    FormatError
        As `read_retrieval_submission` does, and if a prediction is no landmark and number.
    """
    return _submission(Path(path), "landmarks", solution, _prediction)


def _solution(path: Path, column: str, parse: Callable[[str], tuple[Label, ...]]) -> LandmarkSolution[Label]:
    parts: dict[str, dict[str, tuple[Label, ...]]] = {"Public": {}, "Private": {}}
    ignored: set[str] = set()
    for where, (query, answers, usage) in _rows(path, ("id", column, "Usage")):
        if usage == "Ignored":
            ignored.add(query)
        elif usage in parts:
            parts[usage][query] = _parsed(where, query, parse, answers)
        else:
            raise FormatError(f"{where}: Usage must be Public, Private or Ignored, got {usage!r}")
    if not (ignored or any(parts.values())):
        raise FormatError(f"{path}: holds no query")
    return LandmarkSolution(parts["Public"], parts["Private"], frozenset(ignored))


def _submission(
    path: Path, column: str, solution: LandmarkSolution[Label], parse: Callable[[str], Prediction]
) -> dict[str, Prediction]:
    out: dict[str, Prediction] = {}
    for where, (query, answers) in _rows(path, ("id", column)):
        if query not in solution:
            raise FormatError(f"{where}: query {query!r} is not in the solution; is that of another data set?")
        if query not in solution.ignored and answers.strip():
            out[query] = _parsed(where, query, parse, answers)
    return out


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield file and line, and the fields, of each row below the header; empty lines are passed over."""
    header = ",".join(columns)
    met: set[str] = set()
    try:
        with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig") as lines:
            first = next(lines, "").strip()
            if _names(first) != [name.lower() for name in columns]:
                raise FormatError(f"{path}, line 1: expected the columns {header}, got {first[:80]!r}")
            for number, line in enumerate(lines, start=2):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                fields = [_bare(field) for field in line.split(",")]
                if len(fields) != len(columns):
                    raise FormatError(f"{where}: {len(fields)} columns instead of {len(columns)} ({header})")
                if not fields[0]:
                    raise FormatError(f"{where}: the id of the query is empty")
                if fields[0] in met:
                    raise FormatError(f"{where}: query {fields[0]!r} occurs a second time")
                met.add(fields[0])
                yield where, fields
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text: {error}") from error


def _names(header: str) -> list[str]:
    return [_bare(name).lower() for name in header.split(",")]


def _bare(field: str) -> str:
    text = field.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _parsed(where: str, query: str, parse: Callable[[str], Prediction], text: str) -> Prediction:
    try:
        return parse(text)
    except ValueError as error:
        raise FormatError(f"{where}: query {query!r}: {error}") from None


def _relevant(text: str) -> tuple[str, ...]:
    if not text.split():
        raise ValueError("it has no relevant image")
    return _distinct(tuple(text.split()))


def _prediction(text: str) -> tuple[int, float]:
    parts = text.split()
    if len(parts) != 2:
        raise ValueError(f"expected one 'landmark confidence', got {text!r}")
    score = float(parts[1])
    if math.isnan(score):
        raise ValueError("the confidence is NaN")
    return _landmark(parts[0]), score


def _landmark(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError(f"a landmark is a whole number, got {text!r}")
    return int(text)


def _distinct(answers: tuple[Label, ...]) -> tuple[Label, ...]:
    if len(set(answers)) < len(answers):
        raise ValueError(f"{max(answers, key=answers.count)} occurs twice in it")
    return answers
