"""Shortlists as arrays: row numbers as searches return them, and the rank matrices of the revisited benchmark.

A search over vectors answers with two (Q, K) arrays, scores and the row number of each result; FAISS fills rows
that have fewer than K results with -1. The revisited benchmark (Radenović et al. 2018) keeps its rankings the
other way round: one column a query, the row numbers of the database from the best to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.reranking.candidates import (
    Candidate,
    Entries,
    RankedCandidate,
    as_candidates,
    check_best_first,
    checked_shortlist,
)
from delf_engine.support.arrays import check_array, checked_names

Array = npt.NDArray[Any]

_NO_RESULT = -1


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
    return _candidates(_lists_of_arrays(ids, scores, queries, names, distances=distances), distances)


def _candidates(
    lists: Mapping[str, Entries], distances: bool, *, reranked: bool = False
) -> dict[str, list[Candidate]]:
    for query, entries in () if reranked else lists.items():
        check_best_first(query, entries, distances=distances)
    return {query: as_candidates(entries) for query, entries in lists.items()}


def _lists_of_arrays(
    ids: npt.ArrayLike,
    scores: npt.ArrayLike | None,
    queries: Sequence[str],
    names: Sequence[str] | None,
    *,
    distances: bool,
    distinct: bool = False,
) -> dict[str, list[tuple[str, float | None]]]:
    """Do what `shortlists_from_arrays` does, as entries with scores that may rise, as in re-ranked lists they do.

    With `distinct`, an id that occurs again in a list is refused.
    """
    query_names = checked_names(queries, "queries", distinct=True)
    rows = _id_matrix(ids, "ids")
    if len(rows) != len(query_names):
        hint = "; is it a matrix of one column a query? Those go to shortlists_from_ranks"
        turned = hint if rows.shape[1] == len(query_names) else ""
        raise DataError(f"ids have {len(rows)} rows for {len(query_names)} queries{turned}")
    values = None
    if scores is not None:
        what = "distances" if distances else "scores"
        values = check_array(what, scores, np.float64, rows.shape, error=DataError, finite=False)
    known = None if names is None else checked_names(names, "names")
    valid = rows != (_NO_RESULT if rows.dtype.kind == "i" else "")
    unknown = set(rows[valid].tolist()) - set(known or ()) if known is not None and rows.dtype.kind == "U" else ()
    if unknown:
        raise DataError(f"ids: {min(unknown)!r} is not one of the {len(known or ())} names")
    out: dict[str, list[tuple[str, float | None]]] = {}
    for q, query in enumerate(query_names):
        found: Any = _named(query, rows[q, valid[q]], known)
        if values is not None:
            found = list(zip(found, values[q, valid[q]].tolist(), strict=True))
        out[query] = checked_shortlist(found, query=query, distinct=distinct, distances=distances)
    return out


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
    queries = checked_names(query_names, "query_names", distinct=True)
    known = checked_names(names, "names", distinct=True)
    columns = _id_matrix(ranks, "ranks").T
    if columns.dtype.kind == "U":
        raise DataError("ranks must be row numbers, got strings; for ids call shortlists_from_arrays")
    if len(columns) != len(queries):
        hint = "; one row a query is the order of shortlists_from_arrays"
        turned = hint if columns.shape[1] == len(queries) else ""
        raise DataError(f"ranks have {len(columns)} columns for {len(queries)} queries{turned}")
    out: dict[str, list[Candidate]] = {}
    for query, column in zip(queries, columns, strict=True):
        rows, counts = np.unique(column, return_counts=True)
        if (counts > 1).any():
            doubled = int(rows[counts > 1][0])
            raise DataError(f"ranks of query {query!r}: row {doubled} stands in them more than once")
        out[query] = list(_named(query, column, known))
    return out


def lists_of_file(
    path: Path,
    arrays: Mapping[str, Array],
    names: list[str] | None,
    queries: list[str] | None,
    *,
    distinct: bool,
    distances: bool,
) -> dict[str, list[Candidate]]:
    """Return the shortlists that the arrays of a file hold; see `delf_engine.reranking.read_shortlists`."""
    if ("ids" in arrays) == ("ranks" in arrays):
        raise FormatError(f"{path}: expected an array 'ids' of shape (Q, K), or 'ranks' of shape (K, Q)")
    exclusive = [name for name in ("ranks", "scores", "distances") if name in arrays]
    if len(exclusive) > 1:
        raise FormatError(f"{path}: holds {exclusive[1]!r} beside {exclusive[0]!r}; leave one out")
    try:
        rows = checked_names(_column(arrays, "names"), "names") if "names" in arrays else names
        asked = _column(arrays, "queries") if "queries" in arrays else queries
        if asked is None:
            raise ConfigError(f"{path}: the file does not say of which queries it is; give queries=")
        found = arrays["ranks" if "ranks" in arrays else "ids"]
        if rows is None and ("ranks" in arrays or (found.dtype.kind in "iu" and found.size)):
            raise ConfigError(f"{path}: holds row numbers and no names; give names=")
        if "ranks" in arrays:
            return shortlists_from_ranks(found, names=rows or (), query_names=asked)
        scores = arrays.get("scores", arrays.get("distances"))
        reranked, distances = "first_rank" in arrays, distances or "distances" in arrays
        check_unranked(path, reranked=reranked, distances=distances)
        lists = _lists_of_arrays(found, scores, asked, rows, distances=distances, distinct=distinct)
        return _candidates(lists, distances, reranked=reranked)
    except DataError as error:
        raise FormatError(f"{path}: {error}") from error


def check_unranked(path: Path, *, reranked: bool, distances: bool) -> None:
    """Refuse distances in a file that `write_rankings` has written, where they have their sign already."""
    if reranked and distances:
        raise FormatError(f"{path}: holds rankings with scores, of which higher is better; leave out distances")


def arrays_of_rankings(
    path: Path, rankings: Mapping[str, Sequence[RankedCandidate]], names: Sequence[str] | None
) -> dict[str, Array | list[str]]:
    """Return rankings as arrays of one shape, and the ids of queries and rows; see `write_rankings`."""
    if names is None and path.suffix.lower() == ".npy":
        raise ConfigError(f"{path}: .npy holds row numbers: say with names= which image each row is, or use .npz")
    ids = {query: [c.id for c in ranking] for query, ranking in rankings.items()}
    given = list(dict.fromkeys(name for found in ids.values() for name in found)) if names is None else names
    place = {name: row for row, name in enumerate(checked_names(given, "names", distinct=True))}
    for query, found in ids.items():
        if len(set(found)) < len(found):
            raise DataError(f"ranking of {query!r} holds an image twice")
        unknown = next((image_id for image_id in found if image_id not in place), None)
        if unknown is not None:
            raise DataError(f"list of {query!r}: {unknown!r} is not one of the {len(place)} names")
    scored = {c.score is not None for ranking in rankings.values() for c in ranking}
    if len(scored) > 1:
        raise DataError("some candidates have scores and others have none: one array cannot hold both")

    def padded(of: Callable[[RankedCandidate], float | None], fill: float) -> Array:
        """Return a (Q, K) matrix; `fill` stands for None, and behind the end of a shorter ranking."""
        out = np.full((len(ids), max(map(len, ids.values()), default=0)), fill)
        for q, ranking in enumerate(rankings.values()):
            out[q, : len(ranking)] = [fill if (value := of(c)) is None else value for c in ranking]
        return out

    out: dict[str, Array | list[str]] = {"ids": padded(lambda c: place[c.id], _NO_RESULT)}
    out |= {"queries": list(ids), "names": list(given)}
    if scored == {True}:
        out["scores"] = padded(lambda c: c.score, -np.inf)
    out["first_rank"] = padded(lambda c: c.first_rank, _NO_RESULT)
    out["inliers"] = padded(lambda c: c.inliers, -1)
    out["ranking_score"] = padded(lambda c: c.ranking_score, np.nan)
    return out


def _column(arrays: Mapping[str, Array], name: str) -> list[Any]:
    values = arrays[name]
    if values.ndim != 1 or (values.size and values.dtype.kind not in "UO"):
        raise DataError(f"{name} must be strings in one dimension, got {values.dtype} {values.shape}")
    return list(values.tolist())


def _id_matrix(values: npt.ArrayLike, what: str) -> Array:
    """Return row numbers as int64, and ids as strings, in two dimensions."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of unequal lengths
        raise DataError(f"{what} must be a rectangular array: {error}") from error
    if array.dtype.kind == "O" and array.size and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.dtype.kind == "U" and array.ndim == 2:
        return array
    if array.size and array.dtype.kind not in "iu":
        raise DataError(f"{what} must be integers (row numbers) or strings (ids), got {array.dtype}")
    return check_array(what, array, np.int64, (None, None), error=DataError)


def _named(query: str, found: Array, known: Sequence[str] | None) -> list[str]:
    """Return the ids of a query's results, which are row numbers or ids themselves."""
    if found.dtype.kind == "U":
        ids: list[str] = found.tolist()
        return ids
    if known is None and len(found):
        raise ConfigError("ids are row numbers: say with names= which image each row is")
    size = len(known or ())
    outside = (found < 0) | (found >= size)
    if outside.any():
        k = int(outside.argmax())
        raise DataError(
            f"results of query {query!r}: row {found[k]}, number {k + 1}, is not one of the {size} names"
        )
    return [(known or ())[row] for row in found.tolist()]
