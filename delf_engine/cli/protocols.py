"""What `delf-engine evaluate` measures: ground truth and rankings, read and measured by each protocol."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delf_engine.errors import ConfigError, DataError, FormatError

if TYPE_CHECKING:
    from delf_engine.evaluation import ClassTruth, GroundTruth, LandmarkSolution

__all__ = ["PROTOCOLS", "Measured", "Request", "Run", "run_protocol"]

Lists = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """What is asked of a protocol.

    Attributes
    ----------
    files : tuple of Path
        Rankings, and those of the baseline if there is one.
    ground_truth : Path
    names, queries : list of str or None
        Ids of the rows of array files; None: those of the ground truth.
    columns : bool
        Array files hold one column a query.
    query_folder : Path or None
        Queries of the protocol "classes".
    allow_missing : bool
        Leave out the queries that have no ranking.
    """

    files: tuple[Path, ...]
    ground_truth: Path
    names: list[str] | None = None
    queries: list[str] | None = None
    columns: bool = False
    query_folder: Path | None = None
    allow_missing: bool = False


@dataclass(frozen=True)
class Measured:
    """Figures of one part of a protocol: a set-up, or a part of the queries.

    Attributes
    ----------
    name : str
    figures : dict of name to float
        In the order of the table; in per cent.
    queries : int
        Number of queries in the means.
    query_names : sequence of Q str
    values : (Q,) float64
        The first figure of each query.
    positives : (Q,) int64
    whole : Evaluation, RetrievalFigures, RecognitionFigures or ClassFigures
    """

    name: str
    figures: dict[str, float]
    queries: int
    query_names: Sequence[str]
    values: Any
    positives: Any
    whole: Any


@dataclass(frozen=True)
class Run:
    """A protocol's title, its figures for each file, and the queries that were left out."""

    title: str
    measured: list[list[Measured]]
    left_out: list[str]


def run_protocol(protocol: str, request: Request) -> Run:
    """Read the files and measure them.

    Raises
    ------
    ConfigError
        If there is no such protocol, or an option is not one of it.
    DelfEngineError
        If a file cannot be read or does not fit the ground truth.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if request.query_folder is not None and protocol != "classes":
        raise ConfigError("--query-folder is of the protocol classes")
    return PROTOCOLS[protocol](request)


# --------------------------------------------------------------------------------------------------- protocols


def _revisited(request: Request) -> Run:
    from delf_engine.evaluation import evaluate_setups, load_ground_truth, restrict

    truth = load_ground_truth(request.ground_truth)
    lists = [_read(path, request, truth) for path in request.files]
    kept, left_out = _asked(truth.query_names, lists, request.allow_missing)
    part = restrict(truth, truth.names, kept) if left_out else truth

    def measure(found: Lists) -> list[Measured]:
        return [
            Measured(
                setup.capitalize(),
                {"mAP": each.mean_ap, **{f"mP@{k}": value for k, value in each.mean_precision.items()}},
                each.evaluated,
                part.query_names,
                each.average_precision,
                [len(positives) for positives in part.positives_of(setup)],
                each,
            )
            for setup, each in evaluate_setups(_of(found, left_out), part).items()
        ]

    title = f"Revisited protocol, {request.ground_truth.name}: {_counts(truth, kept)}"
    return Run(title, [measure(found) for found in lists], left_out)


def _classes(request: Request) -> Run:
    from delf_engine.evaluation import class_truth_of_folder, evaluate_classes

    def truth_of(paths: bool) -> ClassTruth:
        return class_truth_of_folder(request.ground_truth, queries=request.query_folder, paths=paths)

    truth = truth_of(False)
    lists = [_read(path, request, truth) for path in request.files]
    inside = os.path.join(request.query_folder or request.ground_truth, "")
    if any(query.startswith(inside) for found in lists for query in found):
        truth = truth_of(True)
    kept, left_out = _asked(truth.query_names, lists, request.allow_missing)
    places = [q for q, name in enumerate(truth.query_names) if name not in set(left_out)]
    part = replace(
        truth,
        query_names=kept,
        query_classes=tuple(truth.query_classes[q] for q in places),
        query_images=truth.query_images[places],
    )

    def measure(found: Lists) -> list[Measured]:
        each = evaluate_classes(_of(found, left_out), part)
        figures = {"mAP": each.mean_ap}
        figures |= {f"recall@{k}": value for k, value in each.mean_recall.items()}
        figures |= {f"mP@{k}": value for k, value in each.mean_precision.items()}
        of_queries = (each.query_names, each.average_precision, each.positives)
        return [Measured("All", figures, each.evaluated, *of_queries, each)]

    title = f"Classes of {request.ground_truth}: {_counts(truth, kept)}, {len(set(truth.classes))} classes"
    return Run(title, [measure(found) for found in lists], left_out)


def _landmark_retrieval(request: Request) -> Run:
    from delf_engine.evaluation import evaluate_landmark_retrieval, read_retrieval_solution

    solution = read_retrieval_solution(request.ground_truth)
    _check_text(request)

    def measure(path: Path) -> list[Measured]:
        found = _landmark_lists(path, solution)
        out = []
        for name, part in solution.parts.items():
            each = evaluate_landmark_retrieval({q: found[q] for q in part if q in found}, part)
            figures = {f"mAP@{each.k}": each.mean_ap}
            figures |= {f"mP@{k}": value for k, value in each.mean_precision.items()}
            of_queries = (each.query_names, each.average_precision, each.positives)
            out.append(Measured(name.capitalize(), figures, len(part), *of_queries, each))
        return out

    return Run(_landmark_title("retrieval", request), [measure(path) for path in request.files], [])


def _landmark_recognition(request: Request) -> Run:
    from delf_engine.evaluation import (
        evaluate_landmark_recognition,
        read_recognition_solution,
        read_recognition_submission,
    )

    solution = read_recognition_solution(request.ground_truth)
    _check_text(request)

    def measure(path: Path) -> list[Measured]:
        found = read_recognition_submission(path, solution)
        out = []
        for name, part in solution.parts.items():
            guesses = {query: found[query] for query in part if query in found}
            each = evaluate_landmark_recognition(guesses, part)
            only = evaluate_landmark_recognition(guesses, part, landmark_queries_only=True)
            figures = {"GAP": each.gap, "GAP, landmarks only": only.gap, "top-1": each.top1_accuracy}
            positives = [len(part[query]) for query in each.query_names]
            of_queries = (each.query_names, each.contribution, positives)
            out.append(Measured(name.capitalize(), figures, len(part), *of_queries, each))
        return out

    return Run(_landmark_title("recognition", request), [measure(path) for path in request.files], [])


#: What measures rankings, by the name of its protocol.
PROTOCOLS: dict[str, Callable[[Request], Run]] = {
    "revisited": _revisited,
    "gldv2-retrieval": _landmark_retrieval,
    "gldv2-recognition": _landmark_recognition,
    "classes": _classes,
}


# ----------------------------------------------------------------------------------------------------- reading


def _read(path: Path, request: Request, truth: GroundTruth | ClassTruth) -> Lists:
    """Return the rankings of a file by query; rows of an array without names are those of the ground truth."""
    from delf_engine.evaluation import rankings_from_ranks
    from delf_engine.reranking import read_shortlists
    from delf_engine.reranking.array_files import ARRAY_ENDINGS, read_arrays

    names, queries = request.names, request.queries
    if path.suffix.lower() not in ARRAY_ENDINGS:
        if request.columns:
            raise ConfigError(f"{path}: --columns is for files of arrays: {', '.join(ARRAY_ENDINGS)}")
        return read_shortlists(path, names=names, queries=queries, distinct=True)
    arrays = read_arrays(path)
    ranks = arrays.get("ids") if request.columns else arrays.get("ranks")
    rows = arrays.get("ids") if ranks is None else ranks
    whole = {"scores", "distances", "names", "queries"}.isdisjoint(arrays)
    if names is None and whole and rows is not None and rows.ndim == 2 and rows.dtype.kind in "iu":
        asked = truth.query_names if queries is None else queries
        rows = rows if ranks is None else rankings_from_ranks(ranks, queries=len(asked))
        if len(rows) != len(asked):
            hint = "; is it one column a query? Then say --columns" if rows.shape[1] == len(asked) else ""
            raise FormatError(f"{path}: {len(rows)} rows for {len(asked)} queries{hint}")
        # May be long lists: they stay row numbers, without the -1 that stands for no result.
        return dict(zip(asked, (row[row != -1] if (row == -1).any() else row for row in rows), strict=True))
    if request.columns:
        raise ConfigError(f"{path}: --columns is for row numbers of the ground truth, without names or scores")
    return read_shortlists(
        path,
        names=truth.names if names is None and "names" not in arrays else names,
        queries=truth.query_names if queries is None and "queries" not in arrays else queries,
        distinct=True,
    )


def _landmark_lists(path: Path, solution: LandmarkSolution[str]) -> dict[str, list[str]]:
    """Return the images by query of a submission, or of a file of shortlists of any format."""
    from delf_engine.evaluation import read_retrieval_submission
    from delf_engine.reranking import read_shortlists

    if path.suffix.lower() == ".csv" and _columns(path) == ["id", "images"]:
        return read_retrieval_submission(path, solution)
    lists = read_shortlists(path, distinct=True)
    unknown = [q for q in lists if q not in {*solution.public, *solution.private, *solution.ignored}]
    if unknown:
        counts = f"{len(unknown)} of {len(lists)} are unknown"
        raise DataError(f"{path}: query {unknown[0]!r} is not in the solution ({counts}): is it of another set?")
    return {
        query: [entry if isinstance(entry, str) else entry[0] for entry in found] for query, found in lists.items()
    }


def _columns(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            return [name.strip().strip('"').lower() for name in next(lines, "").split(",")]
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error


# ----------------------------------------------------------------------------------------------------- queries


def _asked(
    query_names: Sequence[str], lists: Sequence[Lists], allow_missing: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Return the queries that are measured, and those that are left out."""
    missing = [query for query in query_names if any(query not in found for found in lists)]
    if not missing or not allow_missing:
        return tuple(query_names), []  # what is missing is an error of the evaluation
    if len(missing) == len(query_names):
        raise DataError("no query of the ground truth has a ranking: it seems to be of another set")
    left_out = set(missing)
    return tuple(query for query in query_names if query not in left_out), missing


def _of(found: Lists, left_out: Sequence[str]) -> Lists:
    without = set(left_out)
    return {query: ranking for query, ranking in found.items() if query not in without}


def _counts(truth: GroundTruth | ClassTruth, kept: Sequence[str]) -> str:
    left_out = len(truth) - len(kept)
    part = f" of {len(truth):,} queries ({left_out:,} LEFT OUT, without a ranking)" if left_out else " queries"
    return f"{len(kept):,}{part}, {len(truth.names):,} images"


def _landmark_title(task: str, request: Request) -> str:
    return f"Google Landmarks v2 {task}, {request.ground_truth.name}"


def _check_text(request: Request) -> None:
    if request.columns or request.allow_missing or request.names or request.queries:
        raise ConfigError(
            "--columns, --names, --queries and --allow-missing are of other protocols; "
            "a query of Google Landmarks without a prediction counts 0"
        )
