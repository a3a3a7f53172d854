r"""Shortlist files: text and arrays in; the same and rankings out.

The ending of the name tells the format.

=====================  =======================================================================================
``.jsonl``             one query a line: ``{"query": id, "candidates": [[id, score], ...]}`` or ``[id, ...]``,
                       or ``[{"id": id, "score": score}, ...]`` as rankings are written
``.csv``               columns ``query,id,score``, or ``distance`` for ``score``, of which lower is better, or
                       neither; in order of rank within a query
``.run``, ``.trec``    ``query Q0 id rank score tag``, ranked by score as trec_eval does, equal ones by rank
``.txt``               ``query id``, in order of rank within a query: the pairs of hloc
``.npy``               (Q, K) integers: the row numbers of each query's results, best first, -1 for none
``.npz``               arrays ``ids`` (Q, K), row numbers or ids as strings; ``scores`` (Q, K), or
                       ``distances``, of which lower is better; ``queries`` (Q,) and ``names`` (N,), the ids of
                       queries and of rows. ``ranks`` (K, Q) in place of ``ids`` is a rank matrix of the
                       revisited benchmark. All but ``ids`` or ``ranks`` may be left out
=====================  =======================================================================================

Text is UTF-8. Ids may hold bytes that are not, as names of files do: Python's surrogates ``\udcXX``
(`os.fsdecode`). JSON lines have these escapes, other text the bytes themselves.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeAlias

from delf_engine.errors import DataError, FormatError
from delf_engine.reranking.array_files import ARRAY_ENDINGS, read_arrays, write_arrays
from delf_engine.reranking.arrays import arrays_of_rankings, check_unranked, lists_of_file
from delf_engine.reranking.candidates import (
    Candidate,
    RankedCandidate,
    as_candidates,
    check_best_first,
    checked_shortlist,
)
from delf_engine.support.arrays import checked_names
from delf_engine.support.files import check_target, replacing, system_errors

Lists: TypeAlias = dict[str, list[Candidate]]
Rankings: TypeAlias = Mapping[str, Sequence[RankedCandidate]]

_TAG = "delf-engine"  # of the system, in TREC run files


def read_shortlists(
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    queries: Sequence[str] | None = None,
    distinct: bool = False,
    distances: bool = False,
) -> dict[str, list[Candidate]]:
    """Read the shortlists of many queries, in order of the file.

    Parameters
    ----------
    path : path
        Ending in ``.jsonl``, ``.csv``, ``.run``, ``.trec``, ``.txt``, ``.npy`` or ``.npz``.
    names : sequence of N str or None
        Ids of the rows, for a file of row numbers that does not hold them. In any other file all candidates must
        be among them.
    queries : sequence of Q str or None
        Ids of the queries, for a file of arrays that does not hold them. In any other file all queries must be
        among them.
    distinct : bool
        Refuse a list with an id that occurs again, as lists to be evaluated must.
    distances : bool
        What the file calls scores are distances, of which lower is better: they get the opposite sign. It is never
        guessed: a list whose scores rise is refused, and one whose distances fall. Only rankings that
        `write_rankings` has written may have scores in any order.

    Returns
    -------
    dict of query id to list of id or of (id, score)
        An id that occurs again in a list is dropped, unless `distinct`.

    Raises
    ------
    FormatError
        If the file cannot be read, is damaged or wrong. It names the file, and the line or the place.
    ConfigError
        If the file needs `names` or `queries` and they are not given.
    DataError
        If `names` or `queries` are no lists of ids.
    """
    path = Path(path)
    known = None if names is None else checked_names(names, "names")
    asked = None if queries is None else checked_names(queries, "queries", distinct=True)
    if _is_text(path):
        found = _read_text(_Reading(path, distinct, distances))
    else:
        found = lists_of_file(path, read_arrays(path), known, asked, distinct=distinct, distances=distances)
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
    columns. ``.npz`` holds, beside the arrays of a shortlist, ``first_rank``, ``inliers`` (-1: not
    verified) and ``ranking_score`` (NaN: not verified), of the same shape; ``.npy`` the row numbers alone. A TREC
    run file has one score, the ranking score, and its readers sort by nothing else: where equal scores would lose
    the order, the later one is lowered by a millionth; candidates that were not verified follow in steps of 1
    below the last verified one, and below 0. Pairs of hloc have no score.

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
        If an id is unknown, or one that the format cannot hold (blanks in a TREC run file or in pairs, zero bytes
        in arrays), or arrays should hold scores for some candidates and not for others.
    FormatError
        If there is no such format, or the file cannot be written.
    ConfigError
        If ``.npy`` is to be written and `names` are not given.
    """
    path = Path(path)
    if not _is_text(path):
        write_arrays(path, arrays_of_rankings(path, rankings, names))
        return
    _, write = _TEXT[path.suffix.lower()]
    # What UTF-8 has no code for: JSON has an escape for it, which Python writes like its own.
    errors = "backslashreplace" if path.suffix.lower() == ".jsonl" else "surrogateescape"
    try:
        with (
            system_errors(f"{path}: cannot be written"),
            replacing(path) as partial,
            partial.open("w", encoding="utf-8", errors=errors, newline="") as file,
        ):
            write(path, file, rankings)
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: cannot hold one of these ids: {error}; use .jsonl") from error


def check_rankings_file(path: Path, names: Sequence[str] | None = None) -> None:
    """Raise what `write_rankings` would of such a file and `names`: before the work, not after."""
    if not _is_text(path):
        arrays_of_rankings(path, {}, names)
    check_target(path)


def _is_text(path: Path) -> bool:
    ending = path.suffix.lower()
    if ending not in _TEXT and ending not in ARRAY_ENDINGS:
        raise FormatError(f"{path}: the ending must be one of {', '.join([*_TEXT, *ARRAY_ENDINGS])}")
    return ending in _TEXT


class _Reading(NamedTuple):
    """A file that is read, and how."""

    path: Path
    distinct: bool
    distances: bool

    def candidates(self, where: str, query: str, entries: Any, *, reranked: bool = False) -> list[Candidate]:
        """Return checked candidates; of a list that was `reranked` scores may stand in any order."""
        check_unranked(self.path, reranked=reranked, distances=self.distances)
        try:
            found = checked_shortlist(entries, query=query, distinct=self.distinct, distances=self.distances)
            if not reranked:
                check_best_first(query, found, distances=self.distances)
        except DataError as error:
            raise FormatError(f"{where}: {error}") from error
        return as_candidates(found)


def _read_text(reading: _Reading) -> Lists:
    path = reading.path
    parse, _ = _TEXT[path.suffix.lower()]
    with (
        system_errors(f"{path}: cannot be read"),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines,
    ):
        return parse(reading, lines)


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


def _read_json_lines(reading: _Reading, lines: Iterable[str]) -> Lists:
    path = reading.path
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
        entries, query = record["candidates"], record["query"]
        objects = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        reranked = objects and any("first_rank" in entry for entry in entries)
        if objects:
            entries = [e.get("id") if e.get("score") is None else (e.get("id"), e["score"]) for e in entries]
        out[query] = reading.candidates(f"{path}, line {number}", query, entries, reranked=reranked)
    return out


def _write_json_lines(path: Path, file: TextIO, rankings: Rankings) -> None:
    for query, ranking in rankings.items():
        record = {"query": query, "candidates": [c.to_dict(with_verification=False) for c in ranking]}
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _read_csv(reading: _Reading, lines: Iterable[str]) -> Lists:
    path = reading.path
    rows = csv.DictReader(lines, strict=True)
    out: dict[str, list[Any]] = {}
    try:
        rows.fieldnames = columns = [name.strip() for name in rows.fieldnames or ()]
        if columns and not {"query", "id"} <= set(columns):
            raise FormatError(f"{path}, line 1: expected the columns query,id,score, got {','.join(columns)}")
        if {"score", "distance"} <= set(columns):
            raise FormatError(f"{path}, line 1: has a column 'distance' beside 'score'; leave one out")
        named = "distance" if "distance" in columns else "score"
        for row in rows:
            if None in row or None in row.values():
                raise FormatError(f"{path}, line {rows.line_num}: expected {len(columns)} columns")
            score = row.get(named, "").strip()
            entry = (row["id"], _number(path, rows.line_num, score)) if score else row["id"]
            out.setdefault(row["query"], []).append(entry)
    except csv.Error as error:
        raise FormatError(f"{path}, line {rows.reader.line_num}: {error}") from error
    reading = reading._replace(distances=reading.distances or named == "distance")
    reranked = "first_rank" in columns
    return {q: reading.candidates(str(path), q, found, reranked=reranked) for q, found in out.items()}


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


def _read_trec(reading: _Reading, lines: Iterable[str]) -> Lists:
    path, sign = reading.path, 1 if reading.distances else -1
    found: dict[str, list[tuple[float, float, str]]] = {}
    for number, (query, _, image_id, *numbers, _) in _fields(path, lines, "query Q0 id rank score tag"):
        rank, score = (_number(path, number, text) for text in numbers)
        found.setdefault(query, []).append((sign * score, rank, image_id))
    out: Lists = {}
    for query, rows in found.items():
        rows.sort(key=lambda row: row[1])
        costs = [cost for cost, _, _ in rows]
        if costs != sorted(costs) == costs[::-1] and len({rank for _, rank, _ in rows}) == len(rows):
            said = "falling distances" if reading.distances else "rising scores"
            hint = "for scores leave out" if reading.distances else "for distances, of which lower is better, say"
            raise FormatError(
                f"{path}: ranks of query {query!r} go with {said}; {hint} distances=True (--distances)"
            )
        rows.sort(key=lambda row: row[:2])  # stable: lines equal in score and rank stay in order
        out[query] = reading.candidates(str(path), query, [(image_id, sign * cost) for cost, _, image_id in rows])
    return out


def _fields(path: Path, lines: Iterable[str], columns: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line of text that blanks divide into columns."""
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields and len(fields) != len(columns.split()):
            raise FormatError(f"{path}, line {number}: expected {columns!r}, got {line.strip()!r}")
        if fields:
            yield number, fields


def _write_trec(path: Path, file: TextIO, rankings: Rankings) -> None:
    for query, ranking in rankings.items():
        for c, score in zip(ranking, _descending(ranking), strict=True):
            file.write(f"{_word(path, query)} Q0 {_word(path, c.id)} {c.rank} {score!r} {_TAG}\n")


def _read_pairs(reading: _Reading, lines: Iterable[str]) -> Lists:
    found: dict[str, list[str]] = {}
    for _, (query, image_id) in _fields(reading.path, lines, "query id"):
        found.setdefault(query, []).append(image_id)
    return {query: reading.candidates(str(reading.path), query, ids) for query, ids in found.items()}


def _write_pairs(path: Path, file: TextIO, rankings: Rankings) -> None:
    for query, ranking in rankings.items():
        file.writelines(f"{_word(path, query)} {_word(path, c.id)}\n" for c in ranking)


def _word(path: Path, name: str) -> str:
    """Return an id that is one word."""
    if name.split() != [name]:
        raise DataError(f"{path}: cannot hold the id {name!r}: blanks separate its columns; use .jsonl")
    return name


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


def _number(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{path}, line {number}: expected a finite number, got {text!r}")
    return value


#: How each text format is read and written, by the ending of the name.
_TEXT: dict[str, tuple[Callable[[_Reading, Iterable[str]], Lists], Callable[[Path, TextIO, Rankings], None]]] = {
    ".jsonl": (_read_json_lines, _write_json_lines),
    ".csv": (_read_csv, _write_csv),
    ".run": (_read_trec, _write_trec),
    ".trec": (_read_trec, _write_trec),
    ".txt": (_read_pairs, _write_pairs),
}
