"""Reading the plain values of a benchmark run into records; whatever is wrong is named by its key."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from delf_engine.errors import FormatError
from delf_engine.plotting.report.benchmark_result import (
    BenchmarkResult,
    Dataset,
    Difference,
    Figures,
    Found,
    Label,
    Method,
    Missed,
    Quoted,
    Stage,
)
from delf_engine.plotting.report.entry import Entry

__all__ = ["parse_result", "read_benchmark_result"]

Read = TypeVar("Read")

_PER_CENT = 100.0 + 1e-6  # a mean of many 100s may lie above it by rounding
_KNOWN = ("easy", "medium", "hard")  # set-ups in the order of the revisited protocol; others come after
_DEEPEST = 20  # levels of a configuration


def read_benchmark_result(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON that a benchmark run has written.

    Raises
    ------
    FormatError
        If the file cannot be read, is no JSON, or is no result of a benchmark run. It names the key.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: is no JSON of a benchmark run: {error}") from error
    try:
        parse_result(value)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    return dict(value)


def parse_result(value: Mapping[str, Any]) -> BenchmarkResult:
    """Check the plain values of a benchmark run.

    Raises
    ------
    FormatError
        If a key is missing or holds something else than it should. It names the key.
    """
    whole = Entry(value)
    methods = _methods(whole["methods"])
    setups = {setup: None for method in methods for setup in method.setups}
    queries = _part(whole, "queries")
    configuration = _flat(whole.get("configuration"))
    return BenchmarkResult(
        title=whole["title"].text(),
        command=_text(whole, "command"),
        date=_text(whole, "date"),
        machine=_flat(whole.get("machine")),
        dataset=_dataset(whole["dataset"]),
        configuration=configuration,
        threshold=_threshold(configuration),
        setups=tuple(sorted(setups, key=lambda name: _KNOWN.index(name) if name in _KNOWN else len(_KNOWN))),
        methods=methods,
        details=_by_query(whole, "details", methods, lambda entry: tuple(map(_found, entry.elements()))),
        missed=_by_query(whole, "missed", methods, _missed),
        boxes={name: _box(box) for name, entry in queries for box in [entry.get("box")] if box is not None},
        positives={
            name: {setup: count.count() for setup, count in _part(entry, "positives")} for name, entry in queries
        },
        inliers={
            _listed(name, methods, entry): (_counts(entry, "positives"), _counts(entry, "negatives"))
            for name, entry in _part(whole, "inliers")
        },
        stages=tuple(_stage(entry) for entry in _elements(whole, "stages")),
        published=tuple(_quoted(entry) for entry in _elements(whole, "published")),
        notes=tuple(entry.text() for entry in _elements(whole, "notes")),
    )


def _part(entry: Entry, name: str) -> list[tuple[str, Entry]]:
    found = entry.get(name)
    return [] if found is None else list(found.items())


def _elements(entry: Entry, name: str) -> list[Entry]:
    found = entry.get(name)
    return [] if found is None else found.elements()


def _text(entry: Entry, name: str) -> str:
    found = entry.get(name)
    return "" if found is None else found.text()


def _number(entry: Entry, name: str, most: float = float("inf")) -> float | None:
    found = entry.get(name)
    return None if found is None else found.number(0, most)


def _count(entry: Entry, name: str) -> int | None:
    found = entry.get(name)
    return None if found is None else found.count()


def _dataset(entry: Entry) -> Dataset:
    missing = entry.get("missing") or Entry({}, "")
    return Dataset(
        entry["name"].text(),
        entry["queries"].count(),
        entry["images"].count(),
        _count(entry, "distractors") or 0,
        _flat(entry.get("ground_truth")),
        tuple(each.text() for each in _elements(missing, "images")),
        tuple(each.text() for each in _elements(missing, "queries")),
    )


def _methods(entry: Entry) -> tuple[Method, ...]:
    methods: dict[str, Method] = {}
    parents: list[tuple[Entry, str]] = []
    for each in entry.elements():
        name, parent = each["name"].text(), each.get("parent")
        if name in methods:
            each["name"].wrong("stands twice")
        if parent is not None:
            parents.append((parent, name))
        methods[name] = Method(
            name,
            None if parent is None else parent.text(),
            _number(each, "seconds_per_query"),
            {setup: _figures(figures) for setup, figures in each["setups"].items()},
            {
                setup: _difference(found)
                for setup, found in _part(each, "against_parent")
                if found.value is not None
            },
        )
    for parent, name in parents:
        if parent.text() not in methods or parent.text() == name:
            parent.wrong("must be the name of another method")
    return tuple(methods.values())


def _figures(entry: Entry) -> Figures:
    interval = entry.get("interval_95")
    return Figures(
        _number(entry, "mean_ap", _PER_CENT),
        None if interval is None else _interval(interval),
        _count(entry, "queries"),
        {k: value.optional_number(0, _PER_CENT) for k, value in _part(entry, "mean_precision")},
        {query: value.optional_number(0, _PER_CENT) for query, value in _part(entry, "average_precision")},
    )


def _interval(entry: Entry) -> tuple[float, float]:
    ends = [each.number() for each in entry.elements()]
    if len(ends) != 2 or ends[0] > ends[1]:
        entry.wrong("must be two numbers, the lower one first")
    return ends[0], ends[1]


def _difference(entry: Entry) -> Difference:
    found = Difference(*(entry[name].number() for name in ("difference", "low", "high")))
    if found.low > found.high:
        entry["low"].wrong("must not lie above high")
    return found


def _by_query(
    whole: Entry, part: str, methods: tuple[Method, ...], read: Callable[[Entry], Read]
) -> dict[str, dict[str, dict[str, Read]]]:
    return {
        _listed(name, methods, entry): {
            setup: {query: read(each) for query, each in queries.items()} for setup, queries in entry.items()
        }
        for name, entry in _part(whole, part)
    }


def _listed(name: str, methods: tuple[Method, ...], entry: Entry) -> str:
    if all(name != method.name for method in methods):
        raise FormatError(f"benchmark result: {entry.key} is of a method that is not among methods")
    return name


def _found(entry: Entry) -> Found:
    label = entry["label"].text()
    if label not in get_args(Label):
        entry["label"].wrong(f"must be one of {', '.join(get_args(Label))}")
    score = entry.get("score")
    return Found(
        entry["id"].text(),
        label,  # type: ignore[arg-type]
        None if score is None else score.number(),
        _count(entry, "inliers"),
    )


def _missed(entry: Entry) -> Missed:
    place = _count(entry, "rank")
    if place == 0:
        entry["rank"].wrong("must be 1 or more: places count from 1")
    return Missed(entry["id"].text(), place)


def _box(entry: Entry) -> tuple[float, float, float, float]:
    numbers = [each.number() for each in entry.elements()]
    if len(numbers) != 4:
        entry.wrong("must be four numbers x0, y0, x1, y1 in pixels")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _counts(entry: Entry, name: str) -> Counter[int]:
    found = entry.get(name)
    if found is None:
        return Counter()
    if not isinstance(found.value, Mapping):
        return Counter(each.count() for each in found.elements())
    values, counts = (found[key].elements() for key in ("values", "counts"))
    if len(values) != len(counts):
        found.wrong(f"must have as many values as counts ({len(values)} and {len(counts)})")
    total: Counter[int] = Counter()
    for value, count in zip(values, counts, strict=True):
        total[value.count()] += count.count()
    return total


def _stage(entry: Entry) -> Stage:
    stage = Stage(
        entry["name"].text(),
        entry["seconds"].number(0),
        _count(entry, "items"),
        _count(entry, "cached"),
        _number(entry, "peak_mb"),
        _count(entry, "timed"),
    )
    if stage.items is not None and stage.cached is not None and stage.cached > stage.items:
        entry["cached"].wrong(f"must be at most the {stage.items} items")
    return stage


def _quoted(entry: Entry) -> Quoted:
    return Quoted(
        entry["system"].text(),
        _text(entry, "dataset"),
        _number(entry, "medium", _PER_CENT),
        _number(entry, "hard", _PER_CENT),
        entry["source"].text(),
    )


def _flat(entry: Entry | None, level: int = 0) -> tuple[tuple[str, str], ...]:
    """Return nested plain values as dotted names and texts, in their order."""
    if entry is None:
        return ()
    if level > _DEEPEST:
        raise FormatError(f"benchmark result: {entry.key[:60]}... lies more than {_DEEPEST} levels deep")
    rows: list[tuple[str, str]] = []
    for name, value in entry.items():
        if isinstance(value.value, Mapping):
            rows += [(f"{name}.{inner}", said) for inner, said in _flat(value, level + 1)]
        else:
            rows.append((name, _plain(value.value)))
    return tuple(rows)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_plain, value)) if isinstance(value, (list, tuple)) else str(value)


def _threshold(configuration: tuple[tuple[str, str], ...]) -> int | None:
    """Return the number of inliers that counts as the same place: verification's, not that of a second round."""
    stated = [(name, said) for name, said in configuration if name.rpartition(".")[2] == "min_inliers"]
    own = [said for name, said in stated if name.split(".")[-2:-1] in ([], ["verification"])]
    distinct = {said for said in own or [said for _, said in stated] if said.isdecimal() and len(said) < 10}
    return int(distinct.pop()) if len(distinct) == 1 else None
