"""Text files of shortlists and rankings: JSON lines, CSV and TREC run files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from delf_engine.errors import DataError, FormatError
from delf_engine.reranking.candidates import Candidate, RankedCandidate, as_candidates, checked_shortlist
from delf_engine.support.files import replacing, system_errors

__all__ = ["TEXT_ENDINGS", "read_text", "write_text"]

_TAG = "delf-engine"

Lists = dict[str, list[Candidate]]
Rankings = Mapping[str, Sequence[RankedCandidate]]


def read_text(path: Path, *, distinct: bool = False) -> Lists:
    """Return the shortlists of a text file, in its order; with `distinct`, an id that occurs again is refused.

    Raises
    ------
    FormatError
        If the file cannot be read or a line is wrong. It names the file and the line.
    """
    parse, _ = _FORMATS[path.suffix.lower()]
    try:
        with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig", newline="") as lines:
            return parse(path, lines, distinct)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text: {error}") from error


def write_text(path: Path, rankings: Rankings) -> None:
    """Write rankings completely or not at all; see `delf_engine.reranking.write_rankings`.

    Raises
    ------
    DataError
        If an id is one that the format cannot hold.
    FormatError
        If the file cannot be written.
    """
    _, write = _FORMATS[path.suffix.lower()]
    with (
        system_errors(f"{path}: cannot be written"),
        replacing(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        write(path, file, rankings)


# ------------------------------------------------------------------------------------------------------ JSON lines


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


# ------------------------------------------------------------------------------------------------------------- CSV


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


# ------------------------------------------------------------------------------------------------------------ TREC


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


# ---------------------------------------------------------------------------------------------------------- common


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


_Read = Callable[[Path, Iterable[str], bool], Lists]
_Write = Callable[[Path, TextIO, Rankings], None]
#: How each format is read and written, by the ending of the name.
_FORMATS: dict[str, tuple[_Read, _Write]] = {
    ".jsonl": (_read_json_lines, _write_json_lines),
    ".csv": (_read_csv, _write_csv),
    ".run": (_read_trec, _write_trec),
    ".trec": (_read_trec, _write_trec),
}
TEXT_ENDINGS = tuple(_FORMATS)
