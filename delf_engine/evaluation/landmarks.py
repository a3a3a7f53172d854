"""Google Landmarks v2: its CSV files, mAP@100 for retrieval, global average precision for recognition.

Weyand, Araujo, Cao, Sim: Google Landmarks Dataset v2, CVPR 2020; the definitions are those of the evaluation
published with it. All figures are in per cent. Unlike the revisited benchmarks' average precision, which is a
trapezoidal area, this one is the sum of the precisions at the ranks of what was found.

====================================  ===================  ==================================================
``retrieval_solution_v2.1.csv``       id,images,Usage      relevant images, separated by blanks
``recognition_solution_v2.1.csv``     id,landmarks,Usage   landmark numbers; empty for a query that shows none
submission of retrieval               id,images            image ids, best first, separated by blanks
submission of recognition             id,landmarks         one ``landmark confidence``, or nothing
====================================  ===================  ==================================================

``Usage`` is Public, Private or Ignored. Ids hold no commas: lines are split at them, so that a field may be longer
than the csv module allows. Every reader raises `FormatError`, which names the file and the line, if the file
cannot be read or a row is wrong: another number of columns, a query that occurs twice, an unknown usage, no
relevant image for a query that is scored or one twice, a landmark that is no whole number, a query that is not in
the solution.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.rankings import unknown_hint
from delf_engine.support.files import system_errors

Label = TypeVar("Label", str, int)
Prediction = TypeVar("Prediction")

_RANKS = (1, 5, 10)  # of the mean precision mP@k


@dataclass(frozen=True)
class LandmarkSolution(Generic[Label]):
    """Answers to the test queries, in the two parts that are scored apart.

    Attributes
    ----------
    public, private : dict of query id to tuple
        Ids of the relevant images (retrieval), or of the landmarks shown (recognition; empty for a query that
        shows none). Published figures are of the private part unless they say otherwise.
    ignored : frozenset of str
        Queries that are not scored: predictions for them are passed over.
    """

    public: Mapping[str, tuple[Label, ...]]
    private: Mapping[str, tuple[Label, ...]]
    ignored: frozenset[str]

    def __contains__(self, query: object) -> bool:
        return any(query in part for part in (self.public, self.private, self.ignored))

    @property
    def parts(self) -> dict[str, Mapping[str, tuple[Label, ...]]]:
        """The parts that hold a query, by name."""
        return {name: part for name, part in (("public", self.public), ("private", self.private)) if part}


def read_retrieval_solution(path: str | os.PathLike[str]) -> LandmarkSolution[str]:
    """Read which images are relevant to each query."""
    return _solution(Path(path), "images", _relevant)


def read_recognition_solution(path: str | os.PathLike[str]) -> LandmarkSolution[int]:
    """Read which landmarks each query shows."""
    return _solution(Path(path), "landmarks", lambda text: _distinct(tuple(_landmark(x) for x in text.split())))


def read_retrieval_submission(
    path: str | os.PathLike[str], solution: LandmarkSolution[str]
) -> dict[str, list[str]]:
    """Read the images predicted for each query, best first, of both parts; ignored queries are passed over."""
    return _submission(Path(path), "images", solution, str.split)


def read_recognition_submission(
    path: str | os.PathLike[str], solution: LandmarkSolution[int]
) -> dict[str, tuple[int, float]]:
    """Read the landmark predicted for each query and its confidence; queries without one are not in the result."""
    return _submission(Path(path), "landmarks", solution, _prediction)


def is_retrieval_submission(path: Path) -> bool:
    """Tell whether a file has the columns of a submission of retrieval; other lists of images have others."""
    if path.suffix.lower() != ".csv":
        return False
    with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig", errors="replace") as lines:
        return _names(next(lines, "")) == ["id", "images"]


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
                if not fields[0] or fields[0] in met:
                    problem = f"query {fields[0]!r} occurs a second time" if fields[0] else "its id is empty"
                    raise FormatError(f"{where}: {problem}")
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


def evaluate_landmark_retrieval(
    predictions: Mapping[str, Sequence[str]],
    relevant: Mapping[str, Collection[str]],
    *,
    k: int = 100,
    name: str = "all",
) -> Evaluation:
    """Measure retrieval by mAP@k.

    A query's average precision is the sum, over the ranks up to k that hold a relevant image, of the share of
    relevant images up to there, divided by the smaller of k and the number of relevant images. The mean is over
    all queries of `relevant`; those without a prediction count 0. Precision counts a place without a prediction as
    one without a relevant image.

    `predictions` are image ids, best first; what is beyond the first `k`, 100 in the published figures, does not
    matter. `relevant` is one image at least for each query, as in `LandmarkSolution.private`; `name` is that of
    what is measured. A `DataError` if a prediction is for an unknown query, an image occurs twice, or a query has
    no relevant image; a `ConfigError` if `k` is below 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    _check_queries(predictions, relevant)
    names = tuple(relevant)
    positives = np.array([len(set(relevant[query])) for query in names], np.int64)
    if (positives == 0).any():
        raise DataError(f"query {names[int(positives.argmin())]!r} has no relevant image: leave it out")
    ap, precision = np.zeros(len(names)), np.zeros((len(names), len(_RANKS)))
    for q, query in enumerate(names):
        ranks: dict[str, int] = {}
        for rank, image in enumerate(predictions.get(query, ())[:k], start=1):
            if ranks.setdefault(image, rank) != rank:
                raise DataError(f"prediction for {query!r}: image {image!r} is at ranks {ranks[image]} and {rank}")
        answers = set(relevant[query])
        found = [rank for image, rank in ranks.items() if image in answers]
        ap[q] = 100 * math.fsum((i + 1) / rank for i, rank in enumerate(found)) / min(positives[q], k)
        precision[q] = [100 * sum(rank <= cut for rank in found) / cut for cut in _RANKS]
    return Evaluation(name, names, positives, ap, _RANKS, precision, measure=f"mAP@{k}")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RecognitionFigures(Evaluation):
    """Recognition figures, in per cent.

    `positives` are the landmarks that each query shows. `average_precision` is what each query adds to the global
    average precision, which `mean_ap` is, times the number of queries that show a landmark: the precision at its
    place among all predictions if it is recognised, else 0; NaN for a query that shows none. There are no figures
    by rank.

    Attributes
    ----------
    recognised : (Q,) bool
        Whether the predicted landmark is one that the query shows.
    order : (P,) int64
        Queries with a prediction, from the most confident one.
    """

    recognised: npt.NDArray[np.bool_]
    order: npt.NDArray[np.int64]

    @property
    def shows_landmark(self) -> npt.NDArray[np.bool_]:
        """Which queries show a landmark, (Q,)."""
        return self.positives > 0

    @property
    def evaluated(self) -> int:
        """Number of queries, those that show no landmark included: a confident prediction for one costs."""
        return len(self.query_names)

    @property
    def figures(self) -> dict[str, float]:
        """All figures by their names, the main one first; NaN if no query shows a landmark.

        Beside GAP the same without the queries that show no landmark, and predictions for them; and the share of
        the queries that show one whose predicted one is right.
        """
        shown = int(self.shows_landmark.sum())
        right = self.recognised[self.order[self.shows_landmark[self.order]]]
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        return {
            self.measure: self.mean_ap,
            "GAP, landmarks only": 100 * math.fsum(precision[right].tolist()) / shown if shown else math.nan,
            "top-1": 100 * int(self.recognised.sum()) / shown if shown else math.nan,
        }


def evaluate_landmark_recognition(
    predictions: Mapping[str, tuple[int, float]],
    landmarks: Mapping[str, Collection[int]],
    *,
    name: str = "all",
) -> RecognitionFigures:
    """Measure recognition by the global average precision (GAP, also called micro-AP).

    The predictions of all queries are sorted by confidence, equal ones by query id, ascending. GAP is the sum,
    over the places that hold a right prediction, of the share of right ones up to there, divided by the number of
    queries that show a landmark. A confident prediction for a query that shows none thus costs.

    `predictions` are one at most a query, `landmarks` empty for a query that shows none, as in
    `LandmarkSolution.private`; `name` is that of what is measured. A `DataError` if a prediction is for an unknown
    query, or a confidence is NaN.
    """
    _check_queries(predictions, landmarks)
    names = tuple(landmarks)
    place_of = {query: q for q, query in enumerate(names)}
    positives = np.array([len(set(landmarks[query])) for query in names], np.int64)
    precision = np.where(positives > 0, 0.0, math.nan)
    recognised = np.zeros(len(names), bool)
    for query, (_, confidence) in predictions.items():
        if math.isnan(confidence):
            raise DataError(f"prediction for {query!r}: the confidence is NaN")
    order = sorted(predictions, key=lambda query: (-predictions[query][1], query))
    right = 0
    for place, query in enumerate(order, start=1):
        if predictions[query][0] in landmarks[query]:
            right += 1
            recognised[place_of[query]] = True
            precision[place_of[query]] = 100 * right / place
    return RecognitionFigures(
        name=name,
        query_names=names,
        positives=positives,
        average_precision=precision,
        ranks=(),
        precision=np.empty((len(names), 0)),
        measure="GAP",
        recognised=recognised,
        order=np.array([place_of[query] for query in order], np.int64),
    )


def _check_queries(predictions: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    unknown = [name for name in predictions if name not in known]
    if unknown:
        hint = unknown_hint(len(unknown), len(predictions), len(known))
        raise DataError(f"there is a prediction for {unknown[0]!r}, which is no query of this ground truth{hint}")
