"""Rankings as they come: ids or indices, lists or arrays, by query or in order, with scores or as a rank matrix.

A ranking holds images best first. Nothing in it is repaired: an unknown or doubled image, or a score that is no
number, is an error, for a figure over such a ranking would be one of something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError
from delf_engine.support.arrays import check_array

Indices: TypeAlias = npt.NDArray[np.int64]

#: Images of one query, best first: ids, (id, score), or indices into the gallery.
Ranking: TypeAlias = "Sequence[str] | Sequence[tuple[str, float]] | Sequence[int] | npt.NDArray[Any]"
#: A ranking for each query, in their order or by name.
Rankings: TypeAlias = "Sequence[Ranking] | Mapping[str, Ranking] | npt.NDArray[Any]"

_FEW = 100  # so many first images may be somebody's results by chance
_BLOCK = 1024  # ranks of all queries, transposed together while they are in the cache


class Gallery:
    """The images that rankings are of, by N different names, ready to find labelled ones among them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._table = np.zeros(len(names), np.uint8)

    @cached_property
    def _known(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._names)}

    def labelled(
        self, ranking: Ranking, lists: Sequence[Indices], what: str
    ) -> tuple[Indices, npt.NDArray[np.uint8]]:
        """Find the images of some lists in a ranking.

        `lists` are at most 7 index arrays, no image in two of them; `what` says of which query the ranking is.
        Returned are the places, (F,) int64, where it holds an image of any list, from 0, ascending; and of which,
        (F,) uint8: 1, 2, 4 for the first, the second and the third. A `DataError` if the ranking holds what is no
        image of the gallery, an image twice, or a score that is NaN.
        """
        from delf_engine.evaluation.ranking_kernels import labelled_places

        order = self._order(ranking, what)
        self._table.fill(0)
        for bit, listed in enumerate(lists):
            self._table[listed] = 1 << bit
        size = sum(map(len, lists))
        places, labels = np.empty(size, np.int64), np.empty(size, np.uint8)
        count = labelled_places(np.ascontiguousarray(order), self._table, places, labels)
        if count < 0:
            check_listed(order.astype(np.int64), len(self._names), what)
        return places[:count], labels[:count]

    def _order(self, ranking: Ranking, what: str) -> npt.NDArray[Any]:
        if isinstance(ranking, np.ndarray) and ranking.ndim == 1 and ranking.dtype in (np.int32, np.int64):
            return ranking  # may be long: not copied
        items = ranking.tolist() if isinstance(ranking, np.ndarray) and ranking.dtype.kind in "UO" else ranking
        if not isinstance(items, np.ndarray):
            items = _without_scores(list(items), what)
            if items and all(isinstance(item, str) for item in items):
                return self._indices_of(items, what)
        return index_array(items, what)

    def _indices_of(self, names: list[str], what: str) -> Indices:
        try:
            return np.fromiter(map(self._known.__getitem__, names), np.int64, len(names))
        except KeyError as error:
            unknown = sum(name not in self._known for name in names)
            hint = unknown_hint(unknown, len(names), len(self._names))
            raise DataError(f"{what}: {error.args[0]!r} is no image of the gallery{hint}") from None


def in_query_order(rankings: Rankings, query_names: Sequence[str]) -> list[Any]:
    """Return one ranking a query, in their order; `DataError` if one is missing, or of no query."""
    if not isinstance(rankings, Mapping):
        if len(rankings) != len(query_names):
            turned = getattr(rankings, "shape", ())[1:] == (len(query_names),)
            hint = "; a rank matrix of one column a query goes through rankings_from_ranks" if turned else ""
            counts = f"{len(rankings)} rankings for {len(query_names)} queries"
            raise DataError(f"{counts}: one for each was expected{hint}")
        return list(rankings)
    known = set(query_names)
    extra = [query for query in rankings if query not in known]
    if extra:
        hint = unknown_hint(len(extra), len(rankings), len(known))
        raise DataError(f"there is a ranking of {extra[0]!r}, which is no query of this ground truth{hint}")
    missing = [query for query in query_names if query not in rankings]
    if missing:
        raise DataError(
            f"there is no ranking of {len(missing)} of {len(known)} queries, such as {missing[0]!r}: give an "
            "empty one to a query that found nothing, or restrict the ground truth to the queries asked"
        )
    return [rankings[query] for query in query_names]


def check_complete(rankings: Sequence[Any], size: int) -> None:
    """Refuse arrays of indices that are all complete orders of a smaller gallery: they fit, and mean other images.

    `DataError` if there are several rankings and each holds exactly the images 0 to K - 1, for one K from 100 on
    and below `size`, the images of the gallery. Rankings are without unknown and doubled images.
    """
    if len(rankings) < 2 or not all(isinstance(each, np.ndarray) and each.dtype.kind in "iu" for each in rankings):
        return
    length = len(rankings[0])
    if not _FEW <= length < size or any(len(each) != length for each in rankings):
        return
    if all(int(each.max()) == length - 1 for each in rankings):
        raise DataError(
            f"all rankings are orders of the same {length} images, numbers 0 to {length - 1}, and the gallery has "
            f"{size}: the ground truth seems to be of another set; if it is not, restrict it to those images"
        )


def rankings_from_ranks(ranks: npt.ArrayLike, *, queries: int | None = None) -> npt.NDArray[Any]:
    """Return the rankings that a rank matrix holds, as published code for the revisited benchmark keeps it.

    Parameters
    ----------
    ranks : (K, Q) integers
        Column q, ``ranks[:, q]``: indices into the gallery from the best to the last.
    queries : int or None
        Expected number of columns.

    Returns
    -------
    (Q, K) int32 or int64
        A copy with the row of each query in one piece, which is read many times faster than a column.

    Raises
    ------
    DataError
        If it is no matrix of integers, or has another number of columns.
    """
    try:
        matrix = np.asarray(ranks)
    except ValueError as error:  # lists of unequal lengths
        raise DataError(f"ranks must be a (K, Q) matrix of integers: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "iu":
        raise DataError(f"ranks must be a (K, Q) matrix of integers, got {matrix.shape} {matrix.dtype}")
    if queries is not None and matrix.shape[1] != queries:
        hint = "; one row a query needs no call of this" if matrix.shape[0] == queries else ""
        raise DataError(f"ranks have {matrix.shape[1]} columns for {queries} queries{hint}")
    if matrix.dtype.kind == "u" and matrix.size and matrix.max() > np.iinfo(np.int64).max:
        raise DataError(f"ranks: {matrix.max()} is no index of an image")
    out = np.empty(matrix.shape[::-1], matrix.dtype if matrix.dtype == np.int32 else np.int64)
    for first in range(0, len(matrix), _BLOCK):
        out[:, first : first + _BLOCK] = matrix[first : first + _BLOCK].T
    return out


def _without_scores(items: list[Any], what: str) -> list[Any]:
    """Return the ids of a list of (id, score), and any other list as it is."""
    if not items or not all(
        isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str) for item in items
    ):
        return items
    for image_id, score in items:
        if not isinstance(score, (int, float, np.integer, np.floating)) or math.isnan(score):
            raise DataError(f"{what}: the score of {image_id!r} is {score!r}: a number was expected")
    return [image_id for image_id, _ in items]


def index_array(values: Any, what: str) -> Indices:
    """Return integers as a read-only (N,) int64 array of its own; `DataError` if they are not such."""
    array = check_array(what, values, np.int64, (None,), error=DataError).copy()
    if array.size and np.asarray(values).dtype.kind not in "iu":
        raise DataError(f"{what} must be integer indices, got {np.asarray(values).dtype}")
    array.flags.writeable = False
    return array


def check_listed(order: Indices, size: int, what: str) -> None:
    """Refuse, by a `DataError`, indices that are not of `size` images, or stand twice."""
    outside = order[(order < 0) | (order >= size)]
    if len(outside):
        hint = unknown_hint(len(outside), len(order), size)
        raise DataError(f"{what}: index {outside[0]} is no image of a gallery of {size}{hint}")
    counts = np.bincount(order, minlength=1)
    if counts.max() > 1:
        raise DataError(f"{what}: image {int(counts.argmax())} occurs {int(counts.max())} times")


def unknown_hint(unknown: int, listed: int, size: int) -> str:
    """Return what to add to a complaint about an unknown image: how many there are, and what that may mean."""
    if unknown == 1 and listed > 2:
        return ""
    if 2 * unknown > listed or listed > size:
        return f" ({unknown} of {listed} are unknown): the ground truth seems to be of another set"
    return f" ({unknown} of {listed} are unknown)"
