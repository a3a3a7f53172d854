"""Google Landmarks v2: its CSV files, and mAP@100 for retrieval.

Weyand, Araujo, Cao, Sim: Google Landmarks Dataset v2, CVPR 2020; the definitions are those of the evaluation
published with it. All figures are in per cent. Unlike the revisited benchmarks' average precision, which is a
trapezoidal area, this one is the sum of the precisions at the ranks of what was found.

===============================  ===============  ==========================================
``retrieval_solution_v2.1.csv``  id,images,Usage  relevant images, separated by blanks
submission                       id,images        image ids, best first, separated by blanks
===============================  ===============  ==========================================

``Usage`` is Public, Private or Ignored. Ids hold no commas: lines are split at them, so that a field may be longer
than the csv module allows. Every reader raises `FormatError`, which names the file and the line, if the file
cannot be read or a row is wrong: another number of columns, a query that occurs twice, an unknown usage, no
relevant image for a query that is scored or one twice, a query that is not in the solution.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.rankings import unknown_hint
from delf_engine.support.files import system_errors

_RANKS = (1, 5, 10)  # of the mean precision mP@k


@dataclass(frozen=True)
class LandmarkSolution:
    """Answers to the test queries, in the two parts that are scored apart."""

    # Ids of the relevant images by query. Published figures are of the private part unless they say otherwise.
    public: Mapping[str, tuple[str, ...]]
    private: Mapping[str, tuple[str, ...]]
    ignored: frozenset[str]  # queries that are not scored: predictions for them are passed over

    def __contains__(self, query: object) -> bool:
        return any(query in part for part in (self.public, self.private, self.ignored))

    @property
    def parts(self) -> dict[str, Mapping[str, tuple[str, ...]]]:
        """The parts that hold a query, by name."""
        return {name: part for name, part in (("public", self.public), ("private", self.private)) if part}


def read_retrieval_solution(path: str | os.PathLike[str]) -> LandmarkSolution:
    """Read which images are relevant to each query."""
    parts: dict[str, dict[str, tuple[str, ...]]] = {"Public": {}, "Private": {}}
    ignored: set[str] = set()
    for where, (query, answers, usage) in _rows(Path(path), ("id", "images", "Usage")):
        if usage == "Ignored":
            ignored.add(query)
        elif usage in parts:
            parts[usage][query] = _relevant(f"{where}: query {query!r}", answers)
        else:
            raise FormatError(f"{where}: Usage must be Public, Private or Ignored, got {usage!r}")
    if not (ignored or any(parts.values())):
        raise FormatError(f"{path}: holds no query")
    return LandmarkSolution(parts["Public"], parts["Private"], frozenset(ignored))


def read_retrieval_submission(path: str | os.PathLike[str], solution: LandmarkSolution) -> dict[str, list[str]]:
    """Read the images predicted for each query, best first, of both parts; ignored queries are passed over."""
    out: dict[str, list[str]] = {}
    for where, (query, answers) in _rows(Path(path), ("id", "images")):
        if query not in solution:
            raise FormatError(f"{where}: query {query!r} is not in the solution; is that of another data set?")
        if query not in solution.ignored and answers.strip():
            out[query] = answers.split()
    return out


def is_retrieval_submission(path: Path) -> bool:
    """Tell whether a file has the columns of a submission of retrieval; other lists of images have others."""
    if path.suffix.lower() != ".csv":
        return False
    with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig", errors="replace") as lines:
        return _names(next(lines, "")) == ["id", "images"]


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


def _relevant(where: str, text: str) -> tuple[str, ...]:
    images = tuple(text.split())
    if not images:
        raise FormatError(f"{where}: it has no relevant image")
    if len(set(images)) < len(images):
        raise FormatError(f"{where}: {max(images, key=images.count)} occurs twice in it")
    return images


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
    unknown = [query for query in predictions if query not in relevant]
    if unknown:
        hint = unknown_hint(len(unknown), len(predictions), len(relevant))
        raise DataError(f"there is a prediction for {unknown[0]!r}, which is no query of this ground truth{hint}")
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
