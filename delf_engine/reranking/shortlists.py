"""Shortlist files: text and arrays in; the same and rankings out.

The ending of the name tells the format.

=====================  =======================================================================================
``.jsonl``             one query a line: ``{"query": id, "candidates": [[id, score], ...]}`` or ``[id, ...]``,
                       or ``[{"id": id, "score": score}, ...]`` as rankings are written
``.csv``               columns ``query,id,score`` (``score`` may be left out), in order of rank within a query
``.run``, ``.trec``    ``query Q0 id rank score tag``, ranked by score as trec_eval does, equal ones by rank
``.npy``               (Q, K) integers: the row numbers of each query's results, best first, -1 for none
``.npz``               arrays ``ids`` (Q, K), row numbers or ids as strings; ``scores`` (Q, K), or
                       ``distances``, of which lower is better; ``queries`` (Q,) and ``names`` (N,), the ids of
                       queries and of rows. ``ranks`` (K, Q) in place of ``ids`` is a rank matrix of the
                       revisited benchmark. All but ``ids`` or ``ranks`` may be left out
``.h5``, ``.hdf5``     datasets of the same names (needs h5py)
=====================  =======================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.reranking.array_files import ARRAY_ENDINGS, read_arrays, write_arrays
from delf_engine.reranking.arrays import (
    NO_RESULT,
    checked_names,
    distinct_names,
    lists_of_arrays,
    shortlists_from_ranks,
    shortlists_to_arrays,
)
from delf_engine.reranking.candidates import Candidate, RankedCandidate, Shortlist, checked_shortlist
from delf_engine.reranking.text_files import TEXT_ENDINGS, read_text, write_ranking_text, write_shortlist_text

__all__ = ["read_shortlists", "write_rankings", "write_shortlists"]


def read_shortlists(
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    queries: Sequence[str] | None = None,
    distinct: bool = False,
) -> dict[str, list[Candidate]]:
    """Read the shortlists of many queries, in order of the file.

    Parameters
    ----------
    path : path
        Ending in ``.jsonl``, ``.csv``, ``.run``, ``.trec``, ``.npy``, ``.npz``, ``.h5`` or ``.hdf5``.
    names : sequence of N str or None
        Ids of the rows, for a file of row numbers that does not hold them. In any other file all candidates must
        be among them.
    queries : sequence of Q str or None
        Ids of the queries, for a file of arrays that does not hold them. In any other file all queries must be
        among them.
    distinct : bool
        Refuse a list with an id that occurs again, as lists to be evaluated must.

    Returns
    -------
    dict of query id to list of id or of (id, score)
        An id that occurs again in a list is dropped, unless `distinct`.

    Raises
    ------
    FormatError
        If the file cannot be read, is damaged or wrong. It names the file, and the line or the place.
    ConfigError
        If the file needs `names` or `queries` and they are not given, or is HDF5 and h5py is not installed.
    DataError
        If `names` or `queries` are no lists of ids.
    """
    path = Path(path)
    known = None if names is None else checked_names(names, "names")
    asked = None if queries is None else distinct_names(queries, "queries")
    found = (
        read_text(path, distinct=distinct)
        if _is_text(path)
        else _from_arrays(path, read_arrays(path), known, asked, distinct)
    )
    _check_members(path, found, known, asked)
    return found


def write_shortlists(
    path: str | os.PathLike[str],
    shortlists: Mapping[str, Shortlist],
    *,
    names: Sequence[str] | None = None,
    queries: Sequence[str] | None = None,
) -> None:
    """Write shortlists so that `read_shortlists` returns them.

    TREC run files always hold scores; candidates without one get descending numbers. ``.npy`` holds row numbers
    and nothing else: `names` and `queries` are needed again to read it.

    Parameters
    ----------
    path : path
        With an ending that `read_shortlists` knows.
    shortlists : mapping of query id to sequence of ids or of (id, score)
    names : sequence of N str or None
        Ids of the rows that row numbers count, different from each other; needed for ``.npy``. None: the
        candidates in order of their first appearance. All candidates must be among them.
    queries : sequence of Q str or None
        The order in which the queries are written, all of them; None takes that of `shortlists`.

    Raises
    ------
    DataError
        If a shortlist is wrong, an id is unknown, or one that the format cannot hold (blanks in a TREC run file,
        zero bytes in arrays), or arrays should hold scores for some lists and not for others.
    FormatError
        If there is no such format, or the file cannot be written.
    ConfigError
        If ``.npy`` is to be written and `names` are not given, or HDF5 and h5py is not installed.
    """
    path = Path(path)
    text = _is_text(path)
    checked = {query: checked_shortlist(found, query=query) for query, found in shortlists.items()}
    ordered = _in_order(checked, queries)
    if not text:
        write_arrays(path, _arrays(path, ordered, names))
        return
    if names is not None:
        _check_candidates(ordered, set(distinct_names(names, "names")))
    write_shortlist_text(path, ordered)


def write_rankings(
    path: str | os.PathLike[str],
    rankings: Mapping[str, Sequence[RankedCandidate]],
    *,
    names: Sequence[str] | None = None,
    queries: Sequence[str] | None = None,
) -> None:
    """Write rankings, with their evidence where the format has a place for it.

    JSON lines hold ``{"id", "rank", "first_rank", "score", "inliers", "ranking_score"}`` a candidate, CSV the same
    columns. ``.npz`` and HDF5 hold, beside the arrays of a shortlist, ``first_rank``, ``inliers`` (-1: not
    verified) and ``ranking_score`` (NaN: not verified), of the same shape; ``.npy`` the row numbers alone. A TREC
    run file has one score, the ranking score, and its readers sort by nothing else: where equal scores would lose
    the order, the later one is lowered by a millionth; candidates that were not verified follow in steps of 1
    below the last verified one, and below 0.

    Parameters
    ----------
    path, names, queries
        As `write_shortlists` takes them.
    rankings : mapping of query id to sequence of RankedCandidate

    Raises
    ------
    DataError, FormatError, ConfigError
        As `write_shortlists`.
    """
    path = Path(path)
    text = _is_text(path)
    ordered = _in_order(rankings, queries)
    if text and names is None:
        write_ranking_text(path, ordered)
        return
    lists = {query: _listed(query, ranking) for query, ranking in ordered.items()}
    if not text:
        write_arrays(path, _arrays(path, lists, names) | _evidence(list(ordered.values())))
        return
    _check_candidates(lists, set(distinct_names(names or (), "names")))
    write_ranking_text(path, ordered)


# ----------------------------------------------------------------------------------------------------- reading


def _from_arrays(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    names: list[str] | None,
    queries: list[str] | None,
    distinct: bool,
) -> dict[str, list[Candidate]]:
    _check_fields(path, arrays)
    try:
        rows = checked_names(_column(arrays, "names"), "names") if "names" in arrays else names
        asked = distinct_names(_column(arrays, "queries"), "queries") if "queries" in arrays else queries
        if asked is None:
            raise ConfigError(f"{path}: the file does not say of which queries it is; give queries=")
        if "ranks" in arrays:
            if rows is None:
                raise ConfigError(f"{path}: holds row numbers and no names; give names=")
            return shortlists_from_ranks(arrays["ranks"], names=rows, query_names=asked)
        if rows is None and arrays["ids"].dtype.kind in "iu" and arrays["ids"].size:
            raise ConfigError(f"{path}: holds row numbers and no names; give names=")
        return lists_of_arrays(
            arrays["ids"],
            arrays.get("scores", arrays.get("distances")),
            queries=asked,
            names=rows,
            distances="distances" in arrays,
            ordered=False,
            distinct=distinct,
        )
    except DataError as error:
        raise FormatError(f"{path}: {error}") from error


def _check_fields(path: Path, arrays: Mapping[str, Any]) -> None:
    if ("ids" in arrays) == ("ranks" in arrays):
        raise FormatError(f"{path}: expected an array 'ids' of shape (Q, K), or 'ranks' of shape (K, Q)")
    extra = [name for name in ("scores", "distances") if name in arrays]
    if len(extra) == 2 or (extra and "ranks" in arrays):
        raise FormatError(
            f"{path}: holds {extra[0]!r} beside {'ranks' if 'ranks' in arrays else extra[1]!r}; leave one out"
        )


def _column(arrays: Mapping[str, npt.NDArray[Any]], name: str) -> list[Any]:
    values = arrays[name]
    if values.ndim != 1 or (values.size and values.dtype.kind not in "UO"):
        raise DataError(f"{name} must be strings in one dimension, got {values.dtype} {values.shape}")
    return list(values.tolist())


def _check_members(
    path: Path, found: Mapping[str, Sequence[Candidate]], names: list[str] | None, queries: list[str] | None
) -> None:
    """Refuse what the caller's own lists do not hold: the file is of something else."""
    if queries is not None:
        asked = set(queries)
        extra = next((query for query in found if query not in asked), None)
        if extra is not None:
            raise FormatError(f"{path}: query {extra!r} is not one of the {len(queries)} queries given")
    if names is not None:
        try:
            _check_candidates(found, set(names))
        except DataError as error:
            raise FormatError(f"{path}: {error}") from error


# ----------------------------------------------------------------------------------------------------- writing


def _arrays(
    path: Path, lists: Mapping[str, Sequence[tuple[str, float | None]]], names: Sequence[str] | None
) -> dict[str, npt.NDArray[Any] | list[str]]:
    if names is None and path.suffix.lower() == ".npy":
        raise ConfigError(f"{path}: .npy holds row numbers: say with names= which image each row is, or use .npz")
    rows = (
        list(dict.fromkeys(image_id for found in lists.values() for image_id, _ in found))
        if names is None
        else distinct_names(names, "names")
    )
    bare = {query: _shortlist(found) for query, found in lists.items()}
    ids, scores = shortlists_to_arrays(bare, names=rows)
    out: dict[str, npt.NDArray[Any] | list[str]] = {"ids": ids, "queries": list(bare), "names": rows}
    return out if scores is None else out | {"scores": scores}


def _evidence(rankings: Sequence[Sequence[RankedCandidate]]) -> dict[str, npt.NDArray[Any] | list[str]]:
    """Return what stands beside the ids of rankings, in arrays of the same shape."""
    shape = len(rankings), max(map(len, rankings), default=0)
    first, inliers = np.full(shape, NO_RESULT, np.int64), np.full(shape, -1, np.int64)
    scores = np.full(shape, np.nan)
    for q, ranking in enumerate(rankings):
        for k, c in enumerate(ranking):
            first[q, k] = c.first_rank
            inliers[q, k] = -1 if c.inliers is None else c.inliers
            scores[q, k] = np.nan if c.ranking_score is None else c.ranking_score
    return {"first_rank": first, "inliers": inliers, "ranking_score": scores}


def _listed(query: str, ranking: Iterable[RankedCandidate]) -> list[tuple[str, float | None]]:
    out = [(c.id, c.score) for c in ranking]
    checked = checked_shortlist(_shortlist(out), query=query)
    if len(checked) < len(out):
        raise DataError(f"ranking of {query!r} holds an image twice")
    return checked


def _shortlist(entries: Iterable[tuple[str, float | None]]) -> list[Candidate]:
    return [image_id if score is None else (image_id, score) for image_id, score in entries]


# ------------------------------------------------------------------------------------------------------ common


def _is_text(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending not in TEXT_ENDINGS + ARRAY_ENDINGS:
        raise FormatError(f"{path}: the ending must be one of {', '.join(TEXT_ENDINGS + ARRAY_ENDINGS)}")
    return ending in TEXT_ENDINGS


def _in_order(lists: Mapping[str, Any], queries: Sequence[str] | None) -> dict[str, Any]:
    if queries is None:
        return dict(lists)
    order = distinct_names(queries, "queries")
    if set(order) != set(lists):
        odd = min(set(order) ^ set(lists))
        where = "no list is of it" if odd in set(order) else "there is a list of it"
        raise DataError(f"queries must be those of the lists; {odd!r}: {where}")
    return {query: lists[query] for query in order}


def _check_candidates(lists: Mapping[str, Iterable[str | tuple[str, Any]]], names: set[str]) -> None:
    for query, found in lists.items():
        ids = (entry if isinstance(entry, str) else entry[0] for entry in found)
        unknown = next((image_id for image_id in ids if image_id not in names), None)
        if unknown is not None:
            raise DataError(f"shortlist of {query!r}: {unknown!r} is not one of the {len(names)} names")
