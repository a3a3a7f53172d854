"""Lists of labelled pairs of photographs: CSV or JSON lines of a, b and label (1: the same place, 0: not)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from delf_engine.errors import FormatError
from delf_engine.support.files import system_errors

__all__ = ["LabelledPair", "read_labelled_pairs"]


class LabelledPair(NamedTuple):
    """Two images as they are named in the list, and whether they show the same place."""

    a: str
    b: str
    label: int


def read_labelled_pairs(path: Path) -> list[LabelledPair]:
    """Read labelled pairs in the order of the file; a pair that is listed again, either way round, counts once.

    Parameters
    ----------
    path : path
        ``.csv`` with the columns ``a,b,label`` (others are passed over), or ``.jsonl`` with one object
        ``{"a": image, "b": image, "label": 0 or 1}`` a line.

    Raises
    ------
    FormatError
        If the file cannot be read or holds no pair, a line is wrong, pairs an image with itself, or gives a pair
        another label than an earlier line. It names the file and the line.
    """
    rows = {".csv": _csv_rows, ".jsonl": _json_rows}.get(path.suffix.lower())
    if rows is None:
        raise FormatError(f"{path}: the ending must be .csv or .jsonl")
    found: dict[tuple[str, str], tuple[LabelledPair, int]] = {}
    try:
        with system_errors(f"{path}: cannot be read"), path.open(encoding="utf-8-sig", newline="") as lines:
            for number, values in rows(path, lines):
                pair = _parsed(f"{path}, line {number}", values)
                first, line = found.setdefault((min(pair[:2]), max(pair[:2])), (pair, number))
                if first.label != pair.label:
                    raise FormatError(
                        f"{path}, line {number}: {pair.a!r} and {pair.b!r} have label {pair.label} here and "
                        f"{first.label} in line {line}; keep one of them"
                    )
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: cannot be read: {error}") from error
    if not found:
        raise FormatError(f"{path}: holds no pair; one a line is needed, with the columns a, b and label")
    return [pair for pair, _ in found.values()]


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(lines, strict=True)
    try:
        header: list[str] = next(filter(None, reader), [])
        columns = [name.strip() for name in header]
        if columns and not {"a", "b", "label"} <= set(columns):
            raise FormatError(f"{path}, line 1: expected the columns a,b,label, got {','.join(columns)}")
        for row in reader:
            if row and len(row) != len(columns):
                raise FormatError(f"{path}, line {reader.line_num}: {len(row)} columns instead of {len(columns)}")
            if row:
                yield reader.line_num, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        raise FormatError(f"{path}, line {reader.line_num}: {error}") from error


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{path}, line {number}: is not JSON: {error}") from error
        if not isinstance(values, dict) or not {"a", "b", "label"} <= set(values):
            raise FormatError(f'{path}, line {number}: expected {{"a": image, "b": image, "label": 0 or 1}}')
        yield number, values


def _parsed(where: str, values: dict[str, Any]) -> LabelledPair:
    a, b, label = values["a"], values["b"], values["label"]
    if not all(isinstance(name, str) and name for name in (a, b)):
        raise FormatError(f"{where}: a and b must be ids or paths of images, got {a!r} and {b!r}")
    text = label.strip() if isinstance(label, str) else label
    if text not in ("0", "1", 0, 1):
        raise FormatError(f"{where}: the label must be 1 (the same place) or 0 (different places), got {label!r}")
    if a == b:
        raise FormatError(f"{where}: pairs {a!r} with itself; leave that line out")
    return LabelledPair(a, b, int(text))
