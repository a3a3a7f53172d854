"""Tables of a benchmark run, the same words for its page and for its Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from delf_engine.plotting.report.benchmark_result import BenchmarkResult, Difference, Figures, Stage
from delf_engine.plotting.report.evidence import counted
from delf_engine.plotting.report.markup import text

__all__ = [
    "NOTHING",
    "Table",
    "caption",
    "differences_table",
    "duration",
    "lined_html",
    "methods_table",
    "precision_table",
    "quoted_table",
    "stage_cells",
    "stages_table",
    "summary_lines",
]

#: In the place of a figure that there is not.
NOTHING = "–"  # noqa: RUF001 - the field's sign for it


@dataclass(frozen=True)
class Table:
    """A table of texts; a cell's second line is of less weight, `strong` are the best cells as (row, column)."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[int, ...] = (0,)
    strong: frozenset[tuple[int, int]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.rows)


def lined_html(table: Table) -> str:
    """Return a table as HTML, a cell's lines below each other."""
    head = "".join(_cell(name, "th", i, table) for i, name in enumerate(table.head))
    rows = "".join(
        "<tr>" + "".join(_cell(cell, "td", i, table, row) for i, cell in enumerate(cells)) + "</tr>"
        for row, cells in enumerate(table.rows)
    )
    return f'<div class="wide lined"><table><tr>{head}</tr>{rows}</table></div>'


def _cell(cell: str, tag: str, column: int, table: Table, row: int = -1) -> str:
    first, *others = cell.split("\n")
    inside = f"<b>{text(first)}</b>" if (row, column) in table.strong else text(first)
    inside += "".join(f'<br><span class="quiet">{text(line)}</span>' for line in others)
    kind = "" if column in table.left else ' class="number"'
    return f"<{tag}{kind}>{inside}</{tag}>"


def caption(setup: str) -> str:
    """Return the name of a set-up as a heading."""
    return setup[:1].upper() + setup[1:]


def summary_lines(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return what was measured on what, as names and values; those that are not known are left out."""
    data = result.dataset
    parts = [counted(data.queries, "query"), counted(data.images, "image")]
    if data.distractors:
        parts.append(counted(data.distractors, "distractor"))
    lines = [("data", f"{data.name}: {', '.join(parts)}")]
    lines += [(f"ground truth, {name}", said) for name, said in data.ground_truth]
    lines += [("command", result.command), ("date", result.date)]
    lines += [(f"machine, {name}", said) for name, said in result.machine]
    return [(name, said) for name, said in lines if said]


def methods_table(result: BenchmarkResult) -> Table:
    """Return mean average precision with its interval, a row for each method."""
    setups = result.setups
    timed = any(method.seconds_per_query is not None for method in result.methods)
    rows = []
    for method in result.methods:
        figures = [_mean_ap(method.setups.get(setup)) for setup in setups]
        name = method.name if method.parent is None else f"{method.name}\nre-ranks {method.parent}"
        rows.append((name, *figures, *([duration(method.seconds_per_query)] if timed else [])))
    head = ("method", *(_headed(result, setup) for setup in setups), *(["time a query"] if timed else []))
    best = {
        (row, column)
        for column, setup in enumerate(setups, start=1)
        for row, method in enumerate(result.methods)
        if (ap := method.mean_ap(setup)) is not None
        and ap == max(value for m in result.methods if (value := m.mean_ap(setup)) is not None)
    }
    return Table(head, tuple(rows), strong=frozenset(best))


def _headed(result: BenchmarkResult, setup: str) -> str:
    counts = {method.setups[setup].queries for method in result.methods if setup in method.setups}
    (count,) = counts if len(counts) == 1 else (None,)
    return caption(setup) if count is None else f"{caption(setup)}\n{counted(count, 'query')}"


def _mean_ap(figures: Figures | None) -> str:
    if figures is None or figures.mean_ap is None:
        return NOTHING
    if figures.interval is None:
        return f"{figures.mean_ap:.2f}"
    return f"{figures.mean_ap:.2f}\n({figures.interval[0]:.1f} to {figures.interval[1]:.1f})"


def differences_table(result: BenchmarkResult) -> Table:
    """Return what each re-ranking changes, and whether the interval shows a difference at all."""
    rows = [
        (
            method.name,
            method.parent or "",
            *(_difference(method.against_parent.get(setup)) for setup in result.setups),
        )
        for method in result.methods
        if method.against_parent
    ]
    return Table(("method", "against", *map(caption, result.setups)), tuple(rows), left=(0, 1))


def _difference(found: Difference | None) -> str:
    if found is None:
        return NOTHING
    lines = [f"{found.difference:+.2f}", f"({found.low:+.2f} to {found.high:+.2f})"]
    return "\n".join(lines if found.shown else [*lines, "no difference shown"])


def precision_table(result: BenchmarkResult) -> Table:
    """Return mean precision at a few ranks, a row for each method."""
    columns = [(setup, k) for setup in result.setups for k in _ranks(result, setup)]
    rows = [
        (
            method.name,
            *(
                _two(figures.mean_precision.get(k)) if (figures := method.setups.get(setup)) else NOTHING
                for setup, k in columns
            ),
        )
        for method in result.methods
    ]
    return Table(
        ("method", *(f"{caption(setup)}\nmP@{k}" for setup, k in columns)), tuple(rows) if columns else ()
    )


def _ranks(result: BenchmarkResult, setup: str) -> list[str]:
    ranks = {k for method in result.methods if setup in method.setups for k in method.setups[setup].mean_precision}
    return sorted(ranks, key=lambda k: (not k.isdecimal(), len(k), k))


def _two(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def quoted_table(result: BenchmarkResult) -> Table:
    """Return the figures of publications."""
    rows = [
        (each.system, each.dataset, _one(each.medium), _one(each.hard), each.source) for each in result.published
    ]
    return Table(("system (quoted)", "data", "Medium", "Hard", "source"), tuple(rows), left=(0, 1, 4))


def _one(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def stages_table(result: BenchmarkResult) -> Table:
    """Return time and memory of each stage, and of all."""
    rows = [(stage.name, *stage_cells(stage)) for stage in result.stages]
    if len(result.stages) > 1:
        peaks = [stage.peak_mb for stage in result.stages if stage.peak_mb is not None]
        whole = Stage("", sum(s.seconds for s in result.stages), None, None, max(peaks, default=None))
        rows.append(("all stages", *stage_cells(whole)))
    return Table(("stage", "time", "items", "from before", "throughput", "peak memory"), tuple(rows))


def stage_cells(stage: Stage) -> tuple[str, str, str, str, str]:
    """Return time, items, those of them that were there before, throughput and peak memory in words."""
    rate = stage.throughput
    return (
        duration(stage.seconds),
        NOTHING if stage.items is None else f"{stage.items:,}",
        NOTHING if stage.cached is None else f"{stage.cached:,}",
        NOTHING if rate is None else f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s",
        NOTHING if stage.peak_mb is None else f"{stage.peak_mb:,.0f} MB",
    )


def duration(seconds: float | None) -> str:
    """Return a time in words, in the units that fit it."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
