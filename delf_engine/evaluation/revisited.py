"""The revisited Oxford and Paris protocol.

Radenović, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking,
CVPR 2018. Every query has images that show it plainly (easy), images that show it under hard conditions (hard)
and images that are neither counted for nor against a ranking (junk); all others are negatives.

========  =============  ============
set-up    positives      taken out
========  =============  ============
easy      easy           junk, hard
medium    easy, hard     junk
hard      hard           junk, easy
========  =============  ============

A query without a positive in a set-up is left out of its means. All figures are in per cent.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, FormatError

__all__ = ["SETUPS", "Evaluation", "GroundTruth", "Setup", "evaluate", "load_ground_truth", "restrict"]

Setup: TypeAlias = Literal["easy", "medium", "hard"]
Indices: TypeAlias = npt.NDArray[np.int64]
Ranking: TypeAlias = "Sequence[str] | Sequence[int] | npt.NDArray[np.integer[Any]]"

SETUPS: tuple[Setup, ...] = get_args(Setup)
_RANKS = (1, 5, 10)  # of the mean precision mP@k

_POSITIVE = {"easy": ("easy",), "medium": ("easy", "hard"), "hard": ("hard",)}
_JUNK = {"easy": ("junk", "hard"), "medium": ("junk",), "hard": ("junk", "easy")}


@dataclass(frozen=True, eq=False, repr=False)
class GroundTruth:
    """Which images of a gallery show what each query shows.

    Parameters
    ----------
    names : sequence of N str
        Of the gallery's images. An index is a place in it.
    query_names : sequence of Q str
    boxes : (Q, 4) float64
        x0, y0, x1, y1 of each query's landmark in pixels of the query image, to which it is cropped.
    easy, hard, junk : sequence of Q integer arrays
        Indices into `names`, for each query. No image is in two of them.

    Raises
    ------
    DataError
        If lengths disagree, a name is doubled, an index is not one of `names` or stands twice for a query, or a
        box is not four finite numbers.
    """

    names: tuple[str, ...]
    query_names: tuple[str, ...]
    boxes: npt.NDArray[np.float64]
    easy: tuple[Indices, ...]
    hard: tuple[Indices, ...]
    junk: tuple[Indices, ...]

    def __post_init__(self) -> None:
        for field in ("names", "query_names"):
            object.__setattr__(self, field, _distinct(getattr(self, field), field))
        queries = len(self.query_names)
        try:
            boxes = np.array(self.boxes, np.float64).reshape(queries, 4)
        except (TypeError, ValueError):
            raise DataError(f"boxes must be four numbers for each of the {queries} queries") from None
        if not np.isfinite(boxes).all():
            raise DataError("boxes contain NaN or infinite values")
        boxes.flags.writeable = False
        object.__setattr__(self, "boxes", boxes)
        for field in ("easy", "hard", "junk"):
            object.__setattr__(self, field, tuple(_indices(each, field) for each in getattr(self, field)))
            if len(getattr(self, field)) != queries:
                raise DataError(f"{field} must have one list for each of the {queries} queries")
        for name, *lists in zip(self.query_names, self.easy, self.hard, self.junk, strict=True):
            _check_listed(np.concatenate(lists), len(self.names), f"query {name}")

    def __len__(self) -> int:
        return len(self.query_names)

    def positives_of(self, setup: Setup) -> tuple[Indices, ...]:
        """Return the indices of the images that each query should find."""
        return self._joined(_POSITIVE[_checked(setup)])

    def junk_of(self, setup: Setup) -> tuple[Indices, ...]:
        """Return the indices of the images that `setup` takes out of each query's ranking.

        A shortlist that is cut before it is re-ranked must lose them before the cut.
        """
        return self._joined(_JUNK[_checked(setup)])

    def _joined(self, fields: tuple[str, ...]) -> tuple[Indices, ...]:
        return tuple(np.concatenate(lists) for lists in zip(*(getattr(self, f) for f in fields), strict=True))

    def __repr__(self) -> str:
        return f"GroundTruth({len(self)} queries, {len(self.names)} images)"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Figures of a set of rankings, in per cent.

    Attributes
    ----------
    setup : "easy", "medium" or "hard"
    query_names : tuple of Q str
    average_precision : (Q,) float64
        Of each query; NaN for a query without a positive.
    precision : (Q, 3) float64
        Of each query at ranks 1, 5 and 10, or at its last positive's rank if that comes first; NaN as above.
    """

    setup: Setup
    query_names: tuple[str, ...]
    average_precision: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]

    @property
    def evaluated(self) -> int:
        """Number of queries that have a positive."""
        return int(np.isfinite(self.average_precision).sum())

    @property
    def mean_ap(self) -> float:
        """Mean average precision over the queries that have a positive; NaN if none has."""
        return float(_mean(self.average_precision))

    @property
    def mean_precision(self) -> dict[int, float]:
        """Mean precision mP@k for k = 1, 5 and 10."""
        return dict(zip(_RANKS, _mean(self.precision).tolist(), strict=True))

    def __repr__(self) -> str:
        at = ", ".join(f"mP@{k} {value:.2f}" for k, value in self.mean_precision.items())
        return f"Evaluation({self.setup}, {self.evaluated} queries: mAP {self.mean_ap:.2f}, {at})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; a query without a positive has None."""
        return {
            "setup": self.setup,
            "queries": self.evaluated,
            "mean_ap": _or_none(self.mean_ap),
            "mean_precision": {str(k): _or_none(value) for k, value in self.mean_precision.items()},
            "average_precision": {
                name: _or_none(value)
                for name, value in zip(self.query_names, self.average_precision.tolist(), strict=True)
            },
        }


def load_ground_truth(path: str | os.PathLike[str]) -> GroundTruth:
    """Read ``gnd_roxford5k.pkl`` or ``gnd_rparis6k.pkl`` as the authors distribute them.

    The files are pickles of plain lists, dictionaries, strings and numbers; a pickle that asks for anything
    else is refused before it gets it, so a file of unknown origin cannot run code.

    Raises
    ------
    FormatError
        If the file is missing, damaged, asks for more than plain values, or is no such ground truth.
    """
    try:
        content = _plain_values(Path(path).read_bytes())
    except (
        *(OSError, EOFError, MemoryError, pickle.UnpicklingError, struct.error),
        *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    ) as error:  # the unpickler raises all of these on damaged files
        raise FormatError(f"{path}: cannot be read as a ground truth: {error}") from error
    try:
        queries = content["gnd"]
        boxes = np.array([query["bbx"] for query in queries], np.float64)
        easy, hard, junk = (
            tuple(_indices(query[field], field) for query in queries) for field in ("easy", "hard", "junk")
        )
        return GroundTruth(content["imlist"], content["qimlist"], boxes, easy, hard, junk)
    except (DataError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: is no ground truth of the revisited protocol: {error!r}") from error


def restrict(ground_truth: GroundTruth, names: Sequence[str], query_names: Sequence[str]) -> GroundTruth:
    """Return the ground truth of some of the queries on a part of the gallery.

    Parameters
    ----------
    ground_truth : GroundTruth
    names, query_names : sequence of str
        The images and queries kept, in the order that they get.

    Raises
    ------
    DataError
        If a name is doubled or not in `ground_truth`.
    """
    kept = _places(ground_truth.names, _distinct(names, "names"), "gallery")
    chosen = _places(ground_truth.query_names, _distinct(query_names, "query_names"), "queries")
    place = np.full(len(ground_truth.names), -1, np.int64)
    place[kept] = np.arange(len(kept))

    def moved(lists: tuple[Indices, ...]) -> tuple[Indices, ...]:
        return tuple(np.sort(new[new >= 0]) for new in (place[lists[q]] for q in chosen))

    return GroundTruth(
        tuple(names),
        tuple(query_names),
        ground_truth.boxes[chosen],
        *(moved(lists) for lists in (ground_truth.easy, ground_truth.hard, ground_truth.junk)),
    )


def evaluate(rankings: Sequence[Ranking], ground_truth: GroundTruth, *, setup: Setup = "medium") -> Evaluation:
    """Measure rankings by the revisited protocol.

    Parameters
    ----------
    rankings : sequence of Q rankings
        For each query the gallery's images, best first, as integer indices or as names; images that `setup`
        takes out may be in it or not. A ranking may end early: a positive that is not in it is never found
        and counts as missed in the average precision.
    ground_truth : GroundTruth
    setup : "easy", "medium" or "hard"

    Returns
    -------
    Evaluation
        With the average precision by the trapezoidal rule, and the precision at 1, 5 and 10, or at the rank of
        the last positive in the ranking if that comes first (0 if it holds none).

    Raises
    ------
    DataError
        If there is not one ranking a query, or one holds an unknown or doubled image.
    ConfigError
        If there is no such set-up.
    """
    positives, junk = ground_truth.positives_of(setup), ground_truth.junk_of(setup)
    if len(rankings) != len(ground_truth):
        raise DataError(f"{len(rankings)} rankings for {len(ground_truth)} queries: one for each was expected")
    known = {name: i for i, name in enumerate(ground_truth.names)}
    ap = np.full(len(ground_truth), np.nan)
    precision = np.full((len(ground_truth), len(_RANKS)), np.nan)
    for q, ranking in enumerate(rankings):
        order = _order(ranking, known, f"ranking of query {ground_truth.query_names[q]}")
        if len(positives[q]) == 0:
            continue
        order = order[~np.isin(order, junk[q])]
        found = np.flatnonzero(np.isin(order, positives[q]))
        ap[q] = 100 * _average_precision(found, len(positives[q]))
        precision[q] = [100 * _precision_at(found, k) for k in _RANKS]
    for array in (ap, precision):
        array.flags.writeable = False
    return Evaluation(setup, ground_truth.query_names, ap, precision)


def _plain_values(data: bytes) -> Any:
    """Unpickle plain values; damaged lengths and places of the memo must not ask for gigabytes either."""
    for opcode, argument, _ in pickletools.genops(data):  # checks the lengths
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise pickle.UnpicklingError(f"damaged: value number {argument} in {len(data)} bytes")
    return _PlainUnpickler(io.BytesIO(data)).load()


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values only: whatever a pickle names to call or to build is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain values are allowed")


def _average_precision(found: npt.NDArray[np.intp], positives: int) -> float:
    """Area under precision over recall; `found` are the places of the positives, from 0, ascending."""
    before = np.arange(len(found))
    left = np.divide(before, found, out=np.ones(len(found)), where=found > 0)
    right = (before + 1) / (found + 1)
    return float((left + right).sum() / (2 * positives))


def _precision_at(found: npt.NDArray[np.intp], k: int) -> float:
    if len(found) == 0:
        return 0.0
    cut = min(int(found[-1]) + 1, k)
    return float((found < cut).sum() / cut)


def _order(ranking: Ranking, known: dict[str, int], what: str) -> Indices:
    items: Any = ranking if isinstance(ranking, np.ndarray) else list(ranking)
    if len(items) and all(isinstance(item, str) for item in items):
        unknown = [item for item in items if item not in known]
        if unknown:
            raise DataError(f"{what}: {unknown[0]!r} is no image of the gallery")
        items = [known[item] for item in items]
    order = _indices(items, what)
    _check_listed(order, len(known), what)
    return order


def _indices(values: Any, what: str) -> Indices:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        array = np.empty(0, object)
    if array.size == 0 and array.dtype != object:
        array = array.astype(np.int64).reshape(-1)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} must be one-dimensional integer indices, got {array.shape} {array.dtype}")
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array


def _check_listed(order: Indices, size: int, what: str) -> None:
    outside = order[(order < 0) | (order >= size)]
    if len(outside):
        raise DataError(f"{what}: index {outside[0]} is no image of a gallery of {size}")
    counts = np.bincount(order, minlength=1)
    if counts.max() > 1:
        raise DataError(f"{what}: image {int(counts.argmax())} stands in it {int(counts.max())} times")


def _distinct(names: Any, what: str) -> tuple[str, ...]:
    given = tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) for name in given):
        raise DataError(f"{what} must be a list of names")
    if len(set(given)) < len(given):
        doubled = next(name for name in given if given.count(name) > 1)
        raise DataError(f"{what}: {doubled!r} stands twice")
    return given


def _places(all_names: tuple[str, ...], wanted: tuple[str, ...], what: str) -> list[int]:
    place = {name: i for i, name in enumerate(all_names)}
    unknown = [name for name in wanted if name not in place]
    if unknown:
        raise DataError(f"{unknown[0]!r} is not among the {what} of this ground truth")
    return [place[name] for name in wanted]


def _checked(setup: str) -> str:
    if setup not in SETUPS:
        raise ConfigError(f"there is no set-up {setup!r}; choose one of {', '.join(SETUPS)}")
    return setup


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the rows that are not NaN; NaN, without a warning, if all are."""
    rows = values[~np.isnan(values.reshape(len(values), -1)).any(axis=1)]
    return np.asarray(rows.mean(axis=0) if len(rows) else np.full(values.shape[1:], np.nan))


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
