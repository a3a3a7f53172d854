"""The protocols behind one call: a ground truth, rankings of one system or of several, figures and differences.

`load_protocol` reads a ground truth, `measure` measures rankings of it, `compare` says whether one system is
better than another. The functions of each protocol (`evaluate_setups`, `evaluate_classes`, ...) measure one
system.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.bootstrap import Comparison, paired_bootstrap
from delf_engine.evaluation.classes import class_truth_of_folder, evaluate_classes
from delf_engine.evaluation.figures import Evaluation
from delf_engine.evaluation.ground_truth import load_ground_truth, restrict
from delf_engine.evaluation.landmarks import (
    evaluate_landmark_retrieval,
    is_retrieval_submission,
    read_retrieval_solution,
    read_retrieval_submission,
)
from delf_engine.evaluation.revisited import evaluate_setups

#: Rankings by query, in the form that the protocol's own function takes.
Lists: TypeAlias = Mapping[str, Any]


class Protocol(ABC):
    """A ground truth at a path, ready to measure rankings of it; a folder of queries is for ``classes``."""

    #: Whether rankings are of one gallery, every query has one, and rows can stand for images and queries.
    of_a_gallery: ClassVar[bool] = True
    names: tuple[str, ...] = ()
    query_names: tuple[str, ...] = ()

    @abstractmethod
    def __init__(self, path: Path, query_folder: Path | None) -> None:
        """Read the ground truth."""

    def read_submission(self, path: Path) -> Lists | None:
        """Return the rankings of a file of the benchmark's own; None if it is no such file."""
        return None

    def named_as(self, lists: Sequence[Lists]) -> Protocol:
        """Return the protocol with the names of images that rankings use."""
        return self

    def title(self, left_out: int) -> str:
        """Return what was measured, in words."""
        whole = len(self.query_names)
        part = f" of {whole:,} queries ({left_out:,} LEFT OUT, without a ranking)" if left_out else " queries"
        return f"{whole - left_out:,}{part}, {len(self.names):,} images"

    @abstractmethod
    def figures(self, rankings: Lists, queries: Sequence[str]) -> list[Evaluation]:
        """Measure one system on some of the queries."""


class _Revisited(Protocol):
    def __init__(self, path: Path, query_folder: Path | None) -> None:
        self._name, self._truth = path.name, load_ground_truth(path)
        self.names, self.query_names = self._truth.names, self._truth.query_names

    def title(self, left_out: int) -> str:
        return f"Revisited protocol, {self._name}: {super().title(left_out)}"

    def figures(self, rankings: Lists, queries: Sequence[str]) -> list[Evaluation]:
        whole = len(queries) == len(self.query_names)
        truth = self._truth if whole else restrict(self._truth, self.names, queries)
        return list(evaluate_setups(rankings, truth).values())


class _Classes(Protocol):
    def __init__(self, path: Path, query_folder: Path | None, paths: bool = False) -> None:
        self._folders = path, query_folder
        self._truth = class_truth_of_folder(path, queries=query_folder, paths=paths)
        self.names, self.query_names = self._truth.names, self._truth.query_names

    def named_as(self, lists: Sequence[Lists]) -> Protocol:
        path, query_folder = self._folders
        inside = os.path.join(query_folder or path, "")
        paths = any(query.startswith(inside) for found in lists for query in found)
        return _Classes(*self._folders, paths=True) if paths else self

    def title(self, left_out: int) -> str:
        classes = len(set(self._truth.classes))
        return f"Classes of {self._folders[0]}: {super().title(left_out)}, {classes} classes"

    def figures(self, rankings: Lists, queries: Sequence[str]) -> list[Evaluation]:
        asked = set(queries)
        places = [q for q, name in enumerate(self.query_names) if name in asked]
        truth = replace(
            self._truth,
            query_names=tuple(queries),
            query_classes=tuple(self._truth.query_classes[q] for q in places),
            query_images=self._truth.query_images[places],
        )
        return [evaluate_classes(rankings, truth)]


class _LandmarkRetrieval(Protocol):
    of_a_gallery = False

    def __init__(self, path: Path, query_folder: Path | None) -> None:
        self._name, self._solution = path.name, read_retrieval_solution(path)

    def read_submission(self, path: Path) -> Lists | None:
        return read_retrieval_submission(path, self._solution) if is_retrieval_submission(path) else None

    def title(self, left_out: int) -> str:
        return f"Google Landmarks v2 retrieval, {self._name}"

    def figures(self, rankings: Lists, queries: Sequence[str]) -> list[Evaluation]:
        unknown = [query for query in rankings if query not in self._solution]
        if unknown:
            counts = f"{len(unknown)} of {len(rankings)} are unknown"
            raise DataError(f"query {unknown[0]!r} is not in the solution ({counts}): is it of another set?")
        images = {
            query: [entry if isinstance(entry, str) else entry[0] for entry in found]
            for query, found in rankings.items()
        }
        return [
            evaluate_landmark_retrieval({q: images[q] for q in part if q in images}, part, name=name)
            for name, part in self._solution.parts.items()
        ]


#: What measures rankings, by the name of its protocol.
PROTOCOLS: dict[str, type[Protocol]] = {
    "revisited": _Revisited,
    "gldv2-retrieval": _LandmarkRetrieval,
    "classes": _Classes,
}


def load_protocol(
    name: str, ground_truth: str | os.PathLike[str], *, query_folder: str | os.PathLike[str] | None = None
) -> Protocol:
    """Read a ground truth.

    Parameters
    ----------
    name : str
        One of `PROTOCOLS`.
    ground_truth : path
        ``gnd_*.pkl``, a solution file of Google Landmarks v2, or a folder of classes.
    query_folder : path or None
        For ``classes``: a folder with the queries.

    Raises
    ------
    ConfigError
        If there is no such protocol, or it has no folder of queries.
    FormatError, DataError
        If the ground truth cannot be read.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    if query_folder is not None and name != "classes":
        raise ConfigError("a folder of queries is of the protocol classes")
    return PROTOCOLS[name](Path(ground_truth), None if query_folder is None else Path(query_folder))


class Measured(NamedTuple):
    """What `measure` found: the protocol in words, figures of each system, queries without a ranking."""

    title: str
    systems: list[list[Evaluation]]
    left_out: list[str]


def measure(protocol: Protocol, systems: Sequence[Lists], *, allow_missing: bool = False) -> Measured:
    """Measure the rankings of systems on the same queries.

    Parameters
    ----------
    protocol : Protocol
        From `load_protocol`.
    systems : sequence of mapping of query to ranking
        A ranking holds ids, best first, or (id, score).
    allow_missing : bool
        For protocols of a gallery: leave out queries that a system has no ranking of.

    Returns
    -------
    title : str
        What was measured, in words.
    systems : list of list of Evaluation
        Figures of each system, in per cent.
    left_out : list of str
        Queries that were left out.

    Raises
    ------
    DataError
        If rankings are not of this ground truth, or lack a query.
    """
    protocol = protocol.named_as(systems)
    missing = [query for query in protocol.query_names if any(query not in found for found in systems)]
    if not allow_missing:
        missing = []  # what is missing is an error of the evaluation
    elif missing and len(missing) == len(protocol.query_names):
        raise DataError("no query of the ground truth has a ranking: it seems to be of another set")
    without = set(missing)
    queries = [query for query in protocol.query_names if query not in without]
    found = [
        protocol.figures({query: each[query] for query in each if query not in without}, queries)
        for each in systems
    ]
    return Measured(protocol.title(len(missing)), found, missing)


def compare(first: Evaluation, second: Evaluation, *, samples: int = 2000) -> Comparison | None:
    """Compare two systems on one part of a benchmark; None where no query has a positive.

    Parameters
    ----------
    first, second : Evaluation
        Of the same queries.
    samples : int
        Resamples of the queries; the interval is the same in every call.

    Raises
    ------
    DataError
        If the figures are not of the same queries.
    """
    if math.isnan(first.mean_ap):
        return None
    return paired_bootstrap(first.average_precision, second.average_precision, samples=samples)


class QueryRow(NamedTuple):
    """What two systems reach on one query; without a second one `other` is 0."""

    query: str
    positives: int
    value: float
    other: float
    difference: float


def query_rows(first: Evaluation, second: Evaluation | None = None) -> list[QueryRow]:
    """Return the figures query by query, the largest loss of the first system at the top; without NaN.

    A `DataError` if the figures are not of the same queries.
    """
    others = first.average_precision * 0 if second is None else second.average_precision
    if second is not None and second.query_names != first.query_names:
        raise DataError("the two systems must have figures for the same queries")
    differences = first.average_precision - others
    columns = (first.positives, first.average_precision, others, differences)
    rows = map(QueryRow, first.query_names, *(column.tolist() for column in columns))
    return sorted((row for row in rows if not np.isnan(row.value)), key=lambda row: (row.difference, row.query))
