"""Text files of shortlists and rankings: JSON lines, CSV and TREC run files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from delf_engine.errors import DataError, FormatError
from delf_engine.reranking.candidates import Candidate, RankedCandidate, checked_shortlist
from delf_engine.support.files import replacing

__all__ = ["TEXT_ENDINGS", "read_text", "write_ranking_text", "write_shortlist_text"]

TEXT_ENDINGS = (".jsonl", ".csv", ".run", ".trec")

_TAG = "delf-engine"

#: The candidates of a query, as `checked_shortlist` returns them.
_Checked = Sequence[tuple[str, float | None]]


def read_text(path: Path, *, distinct: bool = False) -> dict[str, list[Candidate]]:
    """Return the shortlists of a text file, in its order; with `distinct`, an id that occurs again is refused.

    Raises
    ------
    FormatError
        If the file cannot be read or a line is wrong. It names the file and the line.
    """
    parse = {".jsonl": _read_json_lines, ".csv": _read_csv}.get(path.suffix.lower(), _read_trec)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return parse(path, lines, distinct)
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not UTF-8 text: {error}") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_shortlist_text(path: Path, shortlists: Mapping[str, _Checked]) -> None:
    """Write shortlists that `checked_shortlist` has returned, as text.

    Raises
    ------
    DataError
        If an id is one that the format cannot hold.
    FormatError
        If the file cannot be written.
    """

    def json_lines() -> Iterator[str]:
        for query, found in shortlists.items():
            yield _json_line(
                query, [image_id if score is None else [image_id, score] for image_id, score in found]
            )

    def table() -> Iterator[Sequence[Any]]:
        yield ("query", "id", "score")
        for query, found in shortlists.items():
            yield from ((query, image_id, "" if score is None else score) for image_id, score in found)

    def run() -> Iterator[str]:
        for query, found in shortlists.items():
            for rank, (image_id, score) in enumerate(found, start=1):
                yield _trec_line(query, image_id, rank, float(len(found) - rank) if score is None else score)

    _write(path, json_lines, table, run)


def write_ranking_text(path: Path, rankings: Mapping[str, Sequence[RankedCandidate]]) -> None:
    """Write rankings as text; see `delf_engine.reranking.write_rankings`.

    Raises
    ------
    DataError
        If an id is one that the format cannot hold.
    FormatError
        If the file cannot be written.
    """

    def json_lines() -> Iterator[str]:
        for query, ranking in rankings.items():
            yield _json_line(query, [c.to_dict(with_verification=False) for c in ranking])

    def table() -> Iterator[Sequence[Any]]:
        yield ("query", "id", "rank", "first_rank", "score", "inliers", "ranking_score")
        for query, ranking in rankings.items():
            for c in ranking:
                yield (query, c.id, c.rank, c.first_rank, c.score, c.inliers, c.ranking_score)

    def run() -> Iterator[str]:
        for query, ranking in rankings.items():
            for c, score in zip(ranking, _descending(ranking), strict=True):
                yield _trec_line(query, c.id, c.rank, score)

    _write(path, json_lines, table, run)


def _read_json_lines(path: Path, lines: Iterable[str], distinct: bool) -> dict[str, list[Candidate]]:
    out: dict[str, list[Candidate]] = {}
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
        out[record["query"]] = _candidates(path, number, record["query"], _plain(record["candidates"]), distinct)
    return out


def _read_csv(path: Path, lines: Iterable[str], distinct: bool) -> dict[str, list[Candidate]]:
    rows = csv.reader(lines, strict=True)
    out: dict[str, list[Candidate]] = {}
    columns: list[str] = []
    try:
        for row in rows:
            if not row:
                continue
            if not columns:
                columns = [name.strip() for name in row]
                if not {"query", "id"} <= set(columns):
                    raise FormatError(f"{path}, line 1: expected the columns query,id,score, got {','.join(row)}")
                continue
            if len(row) != len(columns):
                raise FormatError(f"{path}, line {rows.line_num}: {len(row)} columns instead of {len(columns)}")
            values = dict(zip(columns, row, strict=True))
            score = values.get("score", "").strip()
            entry = (values["id"], _number(path, rows.line_num, score)) if score else values["id"]
            out.setdefault(values["query"], []).append(entry)
    except csv.Error as error:
        raise FormatError(f"{path}, line {rows.line_num}: {error}") from error
    return {query: _candidates(path, None, query, found, distinct) for query, found in out.items()}


def _read_trec(path: Path, lines: Iterable[str], distinct: bool) -> dict[str, list[Candidate]]:
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
    # Sorting is stable: lines equal in score and rank stay in order.
    ordered = {query: sorted(rows, key=lambda row: row[:2]) for query, rows in found.items()}
    return {
        query: _candidates(path, None, query, [(image_id, -negative) for negative, _, image_id in rows], distinct)
        for query, rows in ordered.items()
    }


def _plain(candidates: Any) -> Any:
    """Return the candidates of a ranking, which are objects with their evidence, as those of a shortlist."""
    if not isinstance(candidates, list) or not all(isinstance(entry, dict) for entry in candidates):
        return candidates
    return [
        entry.get("id") if entry.get("score") is None else (entry.get("id"), entry["score"])
        for entry in candidates
    ]


def _candidates(path: Path, number: int | None, query: str, entries: Any, distinct: bool) -> list[Candidate]:
    try:
        checked = checked_shortlist(entries, query=query, distinct=distinct)
    except DataError as error:
        raise FormatError(f"{path}{'' if number is None else f', line {number}'}: {error}") from error
    return [image_id if score is None else (image_id, score) for image_id, score in checked]


def _number(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FormatError(f"{path}, line {number}: expected a finite number, got {text!r}")
    return value


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


def _json_line(query: str, candidates: list[Any]) -> str:
    return json.dumps({"query": query, "candidates": candidates}, ensure_ascii=False) + "\n"


def _trec_line(query: str, image_id: str, rank: int, score: float) -> str:
    for name in (query, image_id):
        if len(name.split()) != 1 or name != name.strip():
            raise DataError(
                f"a TREC run file cannot hold the id {name!r}: blanks separate its columns; use .jsonl"
            )
    return f"{query} Q0 {image_id} {rank} {score!r} {_TAG}\n"


def _write(
    path: Path,
    json_lines: Callable[[], Iterator[str]],
    table: Callable[[], Iterator[Sequence[Any]]],
    run: Callable[[], Iterator[str]],
) -> None:
    """Write the format of the path's ending to a file beside it, then put that in its place."""
    ending = path.suffix.lower()
    try:
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            if ending == ".csv":
                # All text quoted: an id may hold anything, a lone carriage return too.
                csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(table())
            else:
                file.writelines(json_lines() if ending == ".jsonl" else run())
    except OSError as error:
        raise FormatError(f"{path}: cannot be written: {error.strerror or error}") from error
    except csv.Error as error:  # Python 3.10 cannot write a NUL
        raise DataError(f"{path}: CSV cannot hold one of these ids ({error}); use .jsonl") from error
