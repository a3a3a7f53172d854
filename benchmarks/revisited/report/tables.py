"""Tables of a benchmark run, the same for its page and for its Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from benchmarks.revisited.report.result import BenchmarkResult, Difference, Figures, flat
from delf_engine.evaluation import SETUPS
from delf_engine.plotting.report.page import counted

__all__ = ["Cell", "Table", "duration", "summary", "tables"]

_NOTHING = "–"  # noqa: RUF001 - the field's sign for a figure that there is not


class Cell(NamedTuple):
    """A text, what is said below it with less weight, and whether it is the best of its column."""

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """Cells; those of the columns `left` are names, all others numbers."""

    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    left: tuple[int, ...] = (0,)

    def __bool__(self) -> bool:
        return bool(self.rows)


def summary(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return what was measured on what, as names and values; those that are not known are left out."""
    data = result.dataset
    parts = [counted(data.queries, "query"), counted(data.images, "image")]
    if data.distractors:
        parts.append(counted(data.distractors, "distractor"))
    lines = [("data", f"{data.name}: {', '.join(parts)}")]
    lines += [(f"ground truth, {name}", said) for name, said in flat(data.ground_truth)]
    lines += [("command", result.command), ("date", result.date)]
    lines += [(f"machine, {name}", said) for name, said in flat(result.machine)]
    return [(name, said) for name, said in lines if said]


def tables(result: BenchmarkResult) -> dict[str, Table]:
    """Return all tables of a run by their names in the templates; one without a row is false."""
    return {
        "methods": _methods(result),
        "differences": _differences(result),
        "precision": _precision(result),
        "quoted": _quoted(result),
        "stages": _stages(result),
    }


def _methods(result: BenchmarkResult) -> Table:
    """Show mean average precision with its interval, a row for each method."""
    columns = {setup: [method.setups[setup] for method in result.methods] for setup in SETUPS}
    highest = {
        s: max((f.mean_ap for f in column if f.mean_ap is not None), default=0) for s, column in columns.items()
    }
    rows = [
        [
            Cell(method.name, "" if method.parent is None else f"re-ranks {method.parent}"),
            *(_mean_ap(method.setups[setup], highest[setup]) for setup in SETUPS),
            Cell(duration(method.seconds_per_query)),
        ]
        for method in result.methods
    ]
    counts = [counted(figures[0].queries, "query") for figures in columns.values() if figures]
    head = [Cell(setup.capitalize(), count) for setup, count in zip(SETUPS, counts, strict=False)]
    return Table([Cell("method"), *head, Cell("time a query")], rows)


def _mean_ap(figures: Figures, highest: float) -> Cell:
    interval = figures.interval_95
    note = "" if interval is None else f"({interval[0]:.1f} to {interval[1]:.1f})"
    return _number(figures.mean_ap, 2)._replace(note=note, strong=figures.mean_ap == highest)


def _number(value: float | None, digits: int) -> Cell:
    return Cell(_NOTHING if value is None else f"{value:.{digits}f}")


def _differences(result: BenchmarkResult) -> Table:
    """Show what each re-ranking changes, and whether the interval shows a difference at all."""
    rows = [
        [Cell(method.name), Cell(method.parent), *(_difference(method.against_parent[setup]) for setup in SETUPS)]
        for method in result.methods
        if method.parent is not None and method.against_parent is not None
    ]
    return Table([*map(Cell, ("method", "against", "Easy", "Medium", "Hard"))], rows, (0, 1))


def _difference(found: Difference | None) -> Cell:
    if found is None:
        return Cell(_NOTHING)
    note = f"({found.low:+.2f} to {found.high:+.2f})"
    shown = found.low > 0 or found.high < 0
    return Cell(f"{found.difference:+.2f}", note if shown else f"{note}, no difference shown")


def _precision(result: BenchmarkResult) -> Table:
    """Show mean precision at a few ranks, a row for each method."""
    ranks = list(result.methods[0].setups.medium.mean_precision) if result.methods else []
    rows = [
        [
            Cell(method.name),
            *(_number(method.setups[setup].mean_precision.get(k), 2) for setup in SETUPS for k in ranks),
        ]
        for method in result.methods
    ]
    return Table([Cell("method"), *(Cell(s.capitalize(), f"mP@{k}") for s in SETUPS for k in ranks)], rows)


def _quoted(result: BenchmarkResult) -> Table:
    """Show figures of publications."""
    rows = [
        [Cell(each.system), Cell(each.dataset), _number(each.medium, 1), _number(each.hard, 1), Cell(each.source)]
        for each in result.published
    ]
    return Table([*map(Cell, ("system (quoted)", "data", "Medium", "Hard", "source"))], rows, (0, 1, 4))


def _stages(result: BenchmarkResult) -> Table:
    """Show time and memory of each stage, and of all."""
    rows = [
        [
            Cell(stage.name),
            Cell(duration(stage.seconds)),
            Cell(f"{stage.items:,}"),
            Cell(f"{stage.cached:,}"),
            Cell(f"{stage.timed / stage.seconds:.3g}/s" if stage.timed and stage.seconds else _NOTHING),
            Cell(_memory(stage.peak_mb)),
        ]
        for stage in result.stages
    ]
    if rows:
        whole = duration(sum(stage.seconds for stage in result.stages))
        peak = max((stage.peak_mb for stage in result.stages if stage.peak_mb is not None), default=None)
        rows.append([Cell("all stages"), Cell(whole), *[Cell(_NOTHING)] * 3, Cell(_memory(peak))])
    return Table([*map(Cell, ("stage", "time", "items", "from before", "throughput", "peak memory"))], rows)


def _memory(megabytes: float | None) -> str:
    return _NOTHING if megabytes is None else f"{megabytes:,.0f} MB"


def duration(seconds: float | None) -> str:
    """Return a time in words: seconds, or h:mm:ss from 100 of them on."""
    if seconds is None:
        return _NOTHING
    return f"{seconds:.3g} s" if seconds < 99.95 else str(timedelta(seconds=round(seconds)))
