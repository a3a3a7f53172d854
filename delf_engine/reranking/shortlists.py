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

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from delf_engine.errors import DataError, FormatError
from delf_engine.reranking.array_files import ARRAY_ENDINGS, read_arrays, write_arrays
from delf_engine.reranking.arrays import arrays_of_rankings, checked_names, lists_of_file
from delf_engine.reranking.candidates import Candidate, RankedCandidate, as_candidates, checked_shortlist
from delf_engine.support.files import replacing, system_errors

__all__ = ["read_shortlists", "write_rankings"]

Lists: TypeAlias = dict[str, list[Candidate]]
Rankings: TypeAlias = Mapping[str, Sequence[RankedCandidate]]

_TAG = "delf-engine"  # of the system, in TREC run files


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
    asked = None if queries is None else checked_names(queries, "queries", distinct=True)
    if _is_text(path):
        found = _read_text(path, distinct)
    else:
        found = lists_of_file(path, read_arrays(path), known, asked, distinct)
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
    if not _is_text(path):
        write_arrays(path, arrays_of_rankings(path, rankings, names))
        return
    _, write = _TEXT[path.suffix.lower()]
    with (
        system_errors(f"{path}: cannot be written"),
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        write(path, file, rankings)


def _is_text(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending not in _TEXT and ending not in ARRAY_ENDINGS:
        raise FormatError(f"{path}: the ending must be one of {', '.join([*_TEXT, *ARRAY_ENDINGS])}")
    return ending in _TEXT


def _read_text(path: Path, distinct: bool) -> Lists:
    parse, _ = _TEXT[path.suffix.lower()]
    try:
        with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig", newline="") as lines:
            return parse(path, lines, distinct)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text: {error}") from error


def _check_members(
    path: Path, found: Mapping[str, Sequence[Candidate]], names: list[str] | None, queries: list[str] | None
) -> None:
    """Refuse what the caller's own lists do not hold: the file is of something else."""
    asked, known = found if queries is None else set(queries), set(names or ())
    for query, entries in found.items():
        if query not in asked:
            raise FormatError(f"{path}: query {query!r} is not one of the {len(asked)} queries given")
        ids = () if names is None else (entry if isinstance(entry, str) else entry[0] for entry in entries)
        unknown = next((image_id for image_id in ids if image_id not in known), None)
        if unknown is not None:
            raise FormatError(f"{path}: shortlist of {query!r}: {unknown!r} is not one of the {len(known)} names")


def _read_json_lines(path: Path, lines: Iterable[str], distinct: bool) -> Lists:
    out: Lists = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise FormatError(f"{path}, line {number}: is not JSON: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get("query"), str) or "candidates" not in record:
            raise FormatError(f'{path}, line {number}: expected {{"query": id, "candidates": [[id, score], ...]}}')
        if record["query"] in out:
            raise FormatError(f"{path}, line {number}: query {record['query']!r} occurs a second time")
        entries = _without_evidence(record["candidates"])
        out[record["query"]] = _candidates(f"{path}, line {number}", record["query"], entries, distinct)
    return out


def _without_evidence(candidates: Any) -> Any:
    """Return the candidates of a ranking, which are objects with their evidence, as those of a shortlist."""
    if not isinstance(candidates, list) or not all(isinstance(entry, dict) for entry in candidates):
        return candidates
    return [
        entry.get("id") if entry.get("score") is None else (entry.get("id"), entry["score"])
        for entry in candidates
    ]


def _write_json_lines(path: Path, file: TextIO, rankings: Rankings) -> None:
    for query, ranking in rankings.items():
        record = {"query": query, "candidates": [c.to_dict(with_verification=False) for c in ranking]}
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _read_csv(path: Path, lines: Iterable[str], distinct: bool) -> Lists:
    rows = csv.DictReader(lines, strict=True)
    out: dict[str, list[Any]] = {}
    try:
        rows.fieldnames = columns = [name.strip() for name in rows.fieldnames or ()]
        if columns and not {"query", "id"} <= set(columns):
            raise FormatError(f"{path}, line 1: expected the columns query,id,score, got {','.join(columns)}")
        for row in rows:
            if None in row or None in row.values():
                raise FormatError(f"{path}, line {rows.line_num}: expected {len(columns)} columns")
            score = row.get("score", "").strip()
            entry = (row["id"], _number(path, rows.line_num, score)) if score else row["id"]
            out.setdefault(row["query"], []).append(entry)
    except csv.Error as error:
        raise FormatError(f"{path}, line {rows.reader.line_num}: {error}") from error
    return {query: _candidates(str(path), query, found, distinct) for query, found in out.items()}


def _write_csv(path: Path, file: TextIO, rankings: Rankings) -> None:
    # All text quoted: an id may hold anything, a lone carriage return too.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(("query", "id", "rank", "first_rank", "score", "inliers", "ranking_score"))
    try:
        for query, ranking in rankings.items():
            for c in ranking:
                writer.writerow((query, c.id, c.rank, c.first_rank, c.score, c.inliers, c.ranking_score))
    except csv.Error as error:  # Python 3.10 cannot write a NUL
        raise DataError(f"{path}: CSV cannot hold one of these ids ({error}); use .jsonl") from error


def _read_trec(path: Path, lines: Iterable[str], distinct: bool) -> Lists:
    found: dict[str, list[tuple[float, float, str]]] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 6:
            raise FormatError(
                f"{path}, line {number}: expected 'query Q0 id rank score tag', got {line.strip()!r}"
            )
        rank, score = _number(path, number, fields[3]), _number(path, number, fields[4])
        found.setdefault(fields[0], []).append((-score, rank, fields[2]))
    out: Lists = {}
    for query, rows in found.items():
        rows.sort(key=lambda row: row[:2])  # stable: lines equal in score and rank stay in order
        out[query] = _candidates(str(path), query, [(image_id, -cost) for cost, _, image_id in rows], distinct)
    return out


def _write_trec(path: Path, file: TextIO, rankings: Rankings) -> None:
    for query, ranking in rankings.items():
        for c, score in zip(ranking, _descending(ranking), strict=True):
            for name in (query, c.id):
                if len(name.split()) != 1 or name != name.strip():
                    raise DataError(
                        f"{path}: a TREC run file cannot hold the id {name!r}: blanks separate its columns; use "
                        ".jsonl"
                    )
            file.write(f"{query} Q0 {c.id} {c.rank} {score!r} {_TAG}\n")


def _descending(ranking: Sequence[RankedCandidate]) -> Iterator[float]:
    """Yield ranking scores that fall strictly, in the single precision of trec_eval too."""
    last: float | None = None
    for c in ranking:
        if c.ranking_score is None:
            last = min(last or 0.0, 0.0) - 1.0
        elif last is None:
            last = c.ranking_score
        else:
            last = min(c.ranking_score, last - 1e-6 * max(abs(last), 1.0))
        yield last


def _candidates(where: str, query: str, entries: Any, distinct: bool) -> list[Candidate]:
    try:
        return as_candidates(checked_shortlist(entries, query=query, distinct=distinct))
    except DataError as error:
        raise FormatError(f"{where}: {error}") from error


def _number(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{path}, line {number}: expected a finite number, got {text!r}")
    return value


#: How each text format is read and written, by the ending of the name.
_TEXT: dict[str, tuple[Callable[[Path, Iterable[str], bool], Lists], Callable[[Path, TextIO, Rankings], None]]] = {
    ".jsonl": (_read_json_lines, _write_json_lines),
    ".csv": (_read_csv, _write_csv),
    ".run": (_read_trec, _write_trec),
    ".trec": (_read_trec, _write_trec),
}
