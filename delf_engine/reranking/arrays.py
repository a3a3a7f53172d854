"""Shortlists as arrays: row numbers as searches return them, and the rank matrices of the revisited benchmark.

A search over vectors answers with two (Q, K) arrays, scores and the row number of each result; FAISS fills rows
that have fewer than K results with -1. The revisited benchmark (Radenović et al. 2018) keeps its rankings the
other way round: one column a query, the row numbers of the database from the best to the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.reranking.candidates import Candidate, Shortlist, checked_shortlist

__all__ = [
    "NO_RESULT",
    "ShortlistArrays",
    "checked_names",
    "distinct_names",
    "lists_of_arrays",
    "ranks_from_shortlists",
    "shortlists_from_arrays",
    "shortlists_from_ranks",
    "shortlists_to_arrays",
]

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

#: The row number that stands for "no result".
NO_RESULT = -1


class ShortlistArrays(NamedTuple):
    """Shortlists as two arrays, a row a query, best first.

    Attributes
    ----------
    ids : (Q, K) int64
        Row numbers of the images; -1 behind the end of a shorter list.
    scores : (Q, K) float64 or None
        Higher is better; minus infinity behind the end of a shorter list. None if the shortlists have no scores.
    """

    ids: Int64
    scores: Float64 | None


def shortlists_from_arrays(
    ids: npt.ArrayLike,
    scores: npt.ArrayLike | None = None,
    *,
    queries: Sequence[str],
    names: Sequence[str] | None = None,
    distances: bool = False,
) -> dict[str, list[Candidate]]:
    """Return the shortlists that the arrays of a search hold.

    For FAISS: ``scores, ids = index.search(vectors, k)``, then
    ``shortlists_from_arrays(ids, scores, queries=queries, names=names, distances=True)`` for an L2 index, and
    without `distances` for one of inner products.

    Parameters
    ----------
    ids : (Q, K) integers or strings
        Row numbers into `names`, or ids of images; best first. -1, or an empty string, is no result and is left
        out.
    scores : (Q, K) numbers or None
        What stands where there is no result does not matter.
    queries : sequence of Q str
        Different from each other.
    names : sequence of N str or None
        Ids of the rows. The same id may name several rows, as of crops of one image: its first place is its best
        and is kept. Needed for row numbers; ids that are strings must be among them.
    distances : bool
        `scores` are distances, of which lower is better: they get the opposite sign. It is never guessed.

    Returns
    -------
    dict of query id to list of id or of (id, score)
        In the order of `queries`.

    Raises
    ------
    DataError
        If shapes disagree, a row number or id is not one of `names`, a query stands twice, a score of a result is
        not finite, or the results of a query are not in order of their scores: with distances that were not
        said to be such they never are.
    ConfigError
        If there are row numbers and no `names`.
    """
    return lists_of_arrays(ids, scores, queries=queries, names=names, distances=distances, ordered=True)


def lists_of_arrays(
    ids: npt.ArrayLike,
    scores: npt.ArrayLike | None,
    *,
    queries: Sequence[str],
    names: Sequence[str] | None,
    distances: bool = False,
    ordered: bool,
    distinct: bool = False,
) -> dict[str, list[Candidate]]:
    """Do what `shortlists_from_arrays` does; without `ordered`, scores may rise, as in re-ranked lists they do.

    With `distinct`, an id that occurs again in a list is refused.
    """
    query_names = distinct_names(queries, "queries")
    known = None if names is None else checked_names(names, "names")
    rows = _id_matrix(ids)
    if len(rows) != len(query_names):
        raise DataError(f"ids have {len(rows)} rows for {len(query_names)} queries{_turned(rows, query_names)}")
    valid = rows != ("" if rows.dtype.kind == "U" else NO_RESULT)
    values = None if scores is None else _score_matrix(scores, rows, valid, query_names, distances)
    if values is not None and ordered:
        _check_order(values, valid, query_names, distances)
    if rows.dtype.kind == "U":
        labels: npt.NDArray[Any] = rows
        if known is not None:
            _check_known(rows[valid], known)
    else:
        labels = _labels(rows, valid, known, query_names)
    out: dict[str, list[Candidate]] = {}
    for q, (query, kept) in enumerate(zip(query_names, valid, strict=True)):
        found = labels[q, kept].tolist()
        if distinct and len(set(found)) < len(found):
            doubled = next(name for k, name in enumerate(found) if name in found[:k])
            raise DataError(f"results of query {query!r}: {doubled!r} stands in them more than once")
        if values is None:
            out[query] = list(dict.fromkeys(found))
        else:
            first: dict[str, float] = {}
            for image_id, score in zip(found, values[q, kept].tolist(), strict=True):
                first.setdefault(image_id, score)
            out[query] = list(first.items())
    return out


def shortlists_to_arrays(
    shortlists: Mapping[str, Shortlist], *, names: Sequence[str], queries: Sequence[str] | None = None
) -> ShortlistArrays:
    """Return shortlists as arrays of row numbers and scores; `shortlists_from_arrays` takes them back.

    Parameters
    ----------
    shortlists : mapping of query id to sequence of ids or of (id, score)
        Best first. An id that occurs again in a list is dropped.
    names : sequence of N str
        Ids of the rows, different from each other.
    queries : sequence of Q str or None
        The order of the rows, all of `shortlists`; None takes theirs.

    Returns
    -------
    ShortlistArrays
        K is the length of the longest list.

    Raises
    ------
    DataError
        If a shortlist is wrong, a name or query stands twice or is unknown, or some lists have scores and others
        have none.
    """
    order = list(shortlists) if queries is None else distinct_names(queries, "queries")
    _check_same_queries(order, shortlists)
    place = {name: row for row, name in enumerate(distinct_names(names, "names"))}
    lists = [checked_shortlist(shortlists[query], query=query) for query in order]
    longest = max(map(len, lists), default=0)
    scored = {score is not None for found in lists for _, score in found}
    if len(scored) > 1:
        raise DataError("some shortlists have scores and others have none: one array cannot hold both")
    ids = np.full((len(lists), longest), NO_RESULT, np.int64)
    scores = np.full((len(lists), longest), -np.inf) if scored == {True} else None
    for q, (query, found) in enumerate(zip(order, lists, strict=True)):
        unknown = [image_id for image_id, _ in found if image_id not in place]
        if unknown:
            raise DataError(f"shortlist of {query!r}: {unknown[0]!r} is not one of the {len(place)} names")
        ids[q, : len(found)] = [place[image_id] for image_id, _ in found]
        if scores is not None:
            scores[q, : len(found)] = [score for _, score in found]
    return ShortlistArrays(ids, scores)


def shortlists_from_ranks(
    ranks: npt.ArrayLike, *, names: Sequence[str], query_names: Sequence[str]
) -> dict[str, list[Candidate]]:
    """Return the shortlists that a rank matrix of the revisited benchmark holds.

    Parameters
    ----------
    ranks : (K, Q) integers
        Column q: row numbers into `names`, from the best to the last, all N of them or the first K.
    names, query_names : sequence of str
        Of the database and of the queries, as the ground truth has them; different from each other.

    Returns
    -------
    dict of query id to list of id

    Raises
    ------
    DataError
        If there is not one column a query, or a row number is not one of `names` or stands twice in a column.
    """
    queries = distinct_names(query_names, "query_names")
    known = distinct_names(names, "names")
    columns = _id_matrix(ranks, "ranks").T
    if columns.dtype.kind == "U":
        raise DataError("ranks must be row numbers, got strings; for ids call shortlists_from_arrays")
    if len(columns) != len(queries):
        hint = (
            "; one row a query is the order of shortlists_from_arrays" if columns.shape[1] == len(queries) else ""
        )
        raise DataError(f"ranks have {len(columns)} columns for {len(queries)} queries{hint}")
    labels = _labels(columns, np.ones(columns.shape, bool), known, queries)
    in_order = np.sort(columns, axis=1)
    doubled = in_order[:, 1:] == in_order[:, :-1]
    if doubled.any():
        q, at = (int(i) for i in np.argwhere(doubled)[0])
        raise DataError(f"ranks of query {queries[q]!r}: row {in_order[q, at]} stands in them more than once")
    return {query: labels[q].tolist() for q, query in enumerate(queries)}


def ranks_from_shortlists(
    shortlists: Mapping[str, Shortlist], *, names: Sequence[str], query_names: Sequence[str]
) -> Int64:
    """Return shortlists as a rank matrix of the revisited benchmark.

    Parameters
    ----------
    shortlists : mapping of query id to sequence of ids or of (id, score)
        One for each of `query_names`, all of one length: the benchmark's matrix has no sign for "no result".
        Scores are left out.
    names, query_names : sequence of str
        Of the database and of the queries, as the ground truth has them; different from each other.

    Returns
    -------
    (K, Q) int64
        Column q: row numbers into `names`, from the best to the last.

    Raises
    ------
    DataError
        If a shortlist is wrong, a name is unknown, or lengths differ.
    """
    bare = {
        query: [image_id for image_id, _ in checked_shortlist(found, query=query)]
        for query, found in shortlists.items()
    }
    lengths = {len(found) for found in bare.values()}
    if len(lengths) > 1:
        raise DataError(
            f"shortlists have from {min(lengths)} to {max(lengths)} candidates: a rank matrix needs all of one "
            "length; cut them to the shortest"
        )
    return np.ascontiguousarray(shortlists_to_arrays(bare, names=names, queries=query_names).ids.T)


def checked_names(values: Iterable[Any], what: str) -> list[str]:
    """Return ids as a list of plain strings.

    Raises
    ------
    DataError
        If they are not strings, or a string instead of several.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DataError(f"{what} must be a list of ids, got {type(values).__name__}")
    given = list(values)
    wrong = next((k for k, value in enumerate(given) if not isinstance(value, str)), None)
    if wrong is not None:
        raise DataError(f"{what}: number {wrong} is {given[wrong]!r}, an id (a string) was expected")
    return [str(value) for value in given]


def distinct_names(values: Iterable[Any], what: str) -> list[str]:
    """Return what `checked_names` does, and refuse an id that stands twice."""
    given = checked_names(values, what)
    if len(set(given)) < len(given):
        seen: set[str] = set()
        doubled = next(name for name in given if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{what}: {doubled!r} stands twice")
    return given


# ------------------------------------------------------------------------------------------------------ checks


def _id_matrix(values: npt.ArrayLike, what: str = "ids") -> npt.NDArray[Any]:
    """Return row numbers as int64, and ids as strings, in two dimensions."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of unequal lengths
        raise DataError(f"{what} must be a rectangular array: {error}") from error
    if array.ndim != 2:
        raise DataError(f"{what} must have two dimensions, got shape {array.shape}")
    if array.dtype.kind == "O" and array.size and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.size == 0:
        return array.astype(np.int64) if array.dtype.kind != "U" else array
    if array.dtype.kind not in "iuU":
        raise DataError(f"{what} must be integers (row numbers) or strings (ids), got {array.dtype}")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise DataError(f"{what}: {array.max()} is no row number")
    return array if array.dtype.kind == "U" else array.astype(np.int64)


def _score_matrix(
    scores: npt.ArrayLike,
    rows: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    queries: Sequence[str],
    distances: bool,
) -> Float64:
    what = "distances" if distances else "scores"
    try:
        given = np.asarray(scores)
    except ValueError as error:
        raise DataError(f"{what} must be a rectangular array: {error}") from error
    if given.shape != rows.shape or (given.size and given.dtype.kind not in "fiu"):
        raise DataError(f"{what} must be numbers of shape {rows.shape}, as ids, got {given.dtype} {given.shape}")
    values = given.astype(np.float64)
    wrong = valid & ~np.isfinite(values)
    if wrong.any():
        q, k = (int(i) for i in np.argwhere(wrong)[0])
        raise DataError(
            f"{what} of query {queries[q]!r}, place {k + 1}: expected a finite number, got {given[q, k]}"
        )
    return 0.0 - values if distances else values


def _check_order(values: Float64, valid: npt.NDArray[np.bool_], queries: Sequence[str], distances: bool) -> None:
    for q, (row, kept) in enumerate(zip(values, valid, strict=True)):
        found = row[kept]
        rises = np.flatnonzero(found[1:] > found[:-1])
        if len(rises):
            k = int(rises[0])
            before, after = found[k : k + 2].tolist()
            if distances:
                said = f"the distance falls from {-before:g} to {-after:g} at place {k + 2}"
                hint = "leave distances=True out"
            else:
                said = f"the score rises from {before:g} to {after:g} at place {k + 2}"
                hint = "for distances, of which lower is better, say distances=True"
            raise DataError(f"results of query {queries[q]!r} are not best first: {said}; {hint}, or sort them")


def _labels(
    rows: Int64, valid: npt.NDArray[np.bool_], known: Sequence[str] | None, queries: Sequence[str]
) -> npt.NDArray[np.object_]:
    """Return the names of row numbers; what is not valid gets any."""
    if known is None and valid.any():
        raise ConfigError("ids are row numbers: say with names= which image each row is")
    size = len(known or ())
    outside = valid & ((rows < 0) | (rows >= size))
    if outside.any():
        q, k = (int(i) for i in np.argwhere(outside)[0])
        raise DataError(
            f"results of query {queries[q]!r}, place {k + 1}: row {rows[q, k]} is not one of the {size} names"
        )
    # One more, for the places that hold nothing: -1 counts from the end.
    table = np.empty(size + 1, object)
    table[:size] = known or []
    return np.asarray(table[np.where(valid, rows, size)])


def _check_known(found: npt.NDArray[np.str_], known: Sequence[str]) -> None:
    unknown = sorted(set(found.tolist()) - set(known))
    if unknown:
        raise DataError(f"ids: {unknown[0]!r} is not one of the {len(known)} names")


def _check_same_queries(order: Sequence[str], shortlists: Mapping[str, Any]) -> None:
    missing = next((query for query in order if query not in shortlists), None)
    if missing is not None:
        raise DataError(f"there is no shortlist of query {missing!r}")
    if len(order) < len(shortlists):
        named = set(order)
        extra = next(query for query in shortlists if query not in named)
        raise DataError(f"the shortlist of {extra!r} is of none of the queries named")


def _turned(rows: npt.NDArray[Any], queries: Sequence[str]) -> str:
    if rows.shape[1] != len(queries):
        return ""
    return "; a matrix of one column a query, as the revisited benchmark has it, goes to shortlists_from_ranks"
