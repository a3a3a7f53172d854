"""Time and memory of a benchmark's stages, with bars."""

from __future__ import annotations

from delf_engine.plotting.report.benchmark_charts import part_svg
from delf_engine.plotting.report.benchmark_result import BenchmarkResult
from delf_engine.plotting.report.benchmark_tables import stages_table
from delf_engine.plotting.report.markup import text

__all__ = ["STAGE_STYLE", "stages_html"]

STAGE_STYLE = """
td.drawn{min-width:5rem;width:11rem;vertical-align:middle}
.stages table{min-width:44rem;width:100%}
""".strip()


def stages_html(read: BenchmarkResult) -> list[str]:
    """Return the stages as a table, with bars for their time and their memory."""
    if not read.stages:
        return []
    told = stages_table(read)
    longest = max(stage.seconds for stage in read.stages)
    largest = max(stage.peak_mb or 0.0 for stage in read.stages)
    rows = []
    for i, cells in enumerate(told.rows):
        if i < len(read.stages):
            stage = read.stages[i]
            rows.append(_row(cells, part_svg(stage.seconds, longest), _memory(stage.peak_mb, largest)))
        else:  # their sum
            rows.append(_row(cells, "", ""))
    name, *columns = map(text, told.head)
    time, *others = (f'<th class="number">{column}</th>' for column in columns)
    head = f"<th>{name}</th>{time}<th></th>{''.join(others)}<th></th>"
    explained = (
        "From before: items that were there already and cost no time here. Throughput is that of the others."
    )
    return [
        "<h2>Time and memory</h2>",
        f'<div class="wide lined stages"><table><tr>{head}</tr>{"".join(rows)}</table></div>',
        f'<p class="quiet">{explained}</p>',
    ]


def _row(cells: tuple[str, ...], time_bar: str, memory_bar: str) -> str:
    name, time, *others = cells
    numbers = "".join(f'<td class="number">{text(cell)}</td>' for cell in others)
    return (
        f'<tr><td>{text(name)}</td><td class="number">{text(time)}</td><td class="drawn">{time_bar}</td>'
        f'{numbers}<td class="drawn">{memory_bar}</td></tr>'
    )


def _memory(peak_mb: float | None, largest: float) -> str:
    return "" if peak_mb is None else part_svg(peak_mb, largest)
