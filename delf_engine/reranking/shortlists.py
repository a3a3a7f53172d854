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
from collections.abc import Mapping, Sequence
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
    row_numbers,
    shortlists_from_ranks,
)
from delf_engine.reranking.candidates import Candidate, RankedCandidate
from delf_engine.reranking.text_files import TEXT_ENDINGS, read_text, write_text

__all__ = ["read_shortlists", "write_rankings"]

Arrays = Mapping[str, npt.NDArray[Any]]


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
    if _is_text(path):
        found = read_text(path, distinct=distinct)
    else:
        found = _from_arrays(path, read_arrays(path), known, asked, distinct)
    _check_members(path, found, known, asked)
    return found


def write_rankings(
    path: str | os.PathLike[str],
    rankings: Mapping[str, Sequence[RankedCandidate]],
    *,
    names: Sequence[str] | None = None,
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
    path : path
        With an ending that `read_shortlists` knows.
    rankings : mapping of query id to sequence of RankedCandidate
    names : sequence of N str or None
        Ids of the rows that row numbers count, different from each other; needed for ``.npy``, of no use to text.
        None: the candidates in order of their first appearance. All candidates must be among them.

    Raises
    ------
    DataError
        If an id is unknown, or one that the format cannot hold (blanks in a TREC run file, zero bytes in arrays),
        or arrays should hold scores for some candidates and not for others.
    FormatError
        If there is no such format, or the file cannot be written.
    ConfigError
        If ``.npy`` is to be written and `names` are not given, or HDF5 and h5py is not installed.
    """
    path = Path(path)
    if _is_text(path):
        write_text(path, rankings)
    else:
        write_arrays(path, _as_arrays(path, rankings, names))


def _is_text(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending not in TEXT_ENDINGS + ARRAY_ENDINGS:
        raise FormatError(f"{path}: the ending must be one of {', '.join(TEXT_ENDINGS + ARRAY_ENDINGS)}")
    return ending in TEXT_ENDINGS


def _from_arrays(
    path: Path, arrays: Arrays, names: list[str] | None, queries: list[str] | None, distinct: bool
) -> dict[str, list[Candidate]]:
    _check_fields(path, arrays)
    try:
        rows = checked_names(_column(arrays, "names"), "names") if "names" in arrays else names
        asked = distinct_names(_column(arrays, "queries"), "queries") if "queries" in arrays else queries
        if asked is None:
            raise ConfigError(f"{path}: the file does not say of which queries it is; give queries=")
        found = arrays["ranks" if "ranks" in arrays else "ids"]
        if rows is None and ("ranks" in arrays or (found.dtype.kind in "iu" and found.size)):
            raise ConfigError(f"{path}: holds row numbers and no names; give names=")
        if "ranks" in arrays:
            return shortlists_from_ranks(found, names=rows or (), query_names=asked)
        scores, distances = arrays.get("scores"), arrays.get("distances")
        return lists_of_arrays(
            found,
            distances if scores is None else scores,
            queries=asked,
            names=rows,
            distances=distances is not None,
            distinct=distinct,
        )
    except DataError as error:
        raise FormatError(f"{path}: {error}") from error


def _check_fields(path: Path, arrays: Arrays) -> None:
    if ("ids" in arrays) == ("ranks" in arrays):
        raise FormatError(f"{path}: expected an array 'ids' of shape (Q, K), or 'ranks' of shape (K, Q)")
    exclusive = [name for name in ("ranks", "scores", "distances") if name in arrays]
    if len(exclusive) > 1:
        raise FormatError(f"{path}: holds {exclusive[1]!r} beside {exclusive[0]!r}; leave one out")


def _column(arrays: Arrays, name: str) -> list[Any]:
    values = arrays[name]
    if values.ndim != 1 or (values.size and values.dtype.kind not in "UO"):
        raise DataError(f"{name} must be strings in one dimension, got {values.dtype} {values.shape}")
    return list(values.tolist())


def _check_members(
    path: Path, found: Mapping[str, Sequence[Candidate]], names: list[str] | None, queries: list[str] | None
) -> None:
    """Refuse what the caller's own lists do not hold: the file is of something else."""
    asked = found if queries is None else set(queries)
    extra = next((query for query in found if query not in asked), None)
    if extra is not None:
        raise FormatError(f"{path}: query {extra!r} is not one of the {len(asked)} queries given")
    if names is None:
        return
    known = set(names)
    for query, entries in found.items():
        ids = (entry if isinstance(entry, str) else entry[0] for entry in entries)
        unknown = next((image_id for image_id in ids if image_id not in known), None)
        if unknown is not None:
            raise FormatError(f"{path}: shortlist of {query!r}: {unknown!r} is not one of the {len(known)} names")


def _as_arrays(
    path: Path, rankings: Mapping[str, Sequence[RankedCandidate]], names: Sequence[str] | None
) -> dict[str, npt.NDArray[Any] | list[str]]:
    """Return rankings as arrays of one shape, and the ids of queries and rows."""
    if names is None and path.suffix.lower() == ".npy":
        raise ConfigError(f"{path}: .npy holds row numbers: say with names= which image each row is, or use .npz")
    ids = {query: [c.id for c in ranking] for query, ranking in rankings.items()}
    for query, found in ids.items():
        if len(set(found)) < len(found):
            raise DataError(f"ranking of {query!r} holds an image twice")
    given = list(dict.fromkeys(name for found in ids.values() for name in found)) if names is None else names
    rows = row_numbers(ids, given)
    out: dict[str, npt.NDArray[Any] | list[str]] = {"ids": rows, "queries": list(ids), "names": list(given)}
    scored = {c.score is not None for ranking in rankings.values() for c in ranking}
    if len(scored) > 1:
        raise DataError("some candidates have scores and others have none: one array cannot hold both")
    if scored == {True}:
        out["scores"] = _padded([[c.score for c in ranking] for ranking in rankings.values()], -np.inf)
    out["first_rank"] = _padded([[c.first_rank for c in ranking] for ranking in rankings.values()], NO_RESULT)
    out["inliers"] = _padded([[c.inliers for c in ranking] for ranking in rankings.values()], -1)
    out["ranking_score"] = _padded([[c.ranking_score for c in ranking] for ranking in rankings.values()], np.nan)
    return out


def _padded(rows: Sequence[Sequence[float | None]], fill: float) -> npt.NDArray[Any]:
    """Return lists as a matrix; `fill` stands for None, and behind the end of a shorter list."""
    out = np.full((len(rows), max(map(len, rows), default=0)), fill)
    for q, values in enumerate(rows):
        out[q, : len(values)] = [fill if value is None else value for value in values]
    return out
