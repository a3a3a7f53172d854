"""A benchmark run as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from delf_engine.plotting.report.benchmark_parsing import parse_result
from delf_engine.plotting.report.benchmark_tables import (
    Table,
    differences_table,
    methods_table,
    precision_table,
    quoted_table,
    stages_table,
    summary_lines,
)
from delf_engine.plotting.report.benchmark_words import QUOTED, UNITS, restriction

__all__ = ["benchmark_markdown"]

# What Markdown or the HTML inside it would take for something else; an underscore inside a word it leaves alone.
_MARKED = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
# At the beginning of a line: headings, lists, rules.
_BEGINS = re.compile(r"#|[-+](?=\s|$)|--|=|\d+(?=[.)](\s|$))")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def benchmark_markdown(result: Mapping[str, Any]) -> str:
    """Return a benchmark run as Markdown: its figures, quoted ones set apart, stages and notes.

    Parameters
    ----------
    result : mapping
        Plain values, as `write_benchmark_report` takes them.

    Returns
    -------
    str
        Ends in a line break. Names are only ever text in it.

    Raises
    ------
    FormatError
        If a key is missing or holds something else than it should. It names the key.
    """
    read = parse_result(result)
    parts = [f"# {escaped(read.heading)}", *(f"**{escaped(line)}**" for line in restriction(read.dataset)[:1])]
    parts += ["\n".join(f"- {escaped(name)}: {escaped(said)}" for name, said in summary_lines(read))]
    if methods := methods_table(read):
        parts += ["## Mean average precision", UNITS, _table(methods)]
    else:
        parts += ["No method was measured."]
    for heading, table in (
        ("## What re-ranking changes", differences_table(read)),
        ("## Mean precision", precision_table(read)),
    ):
        parts += [heading, _table(table)] if table else []
    if quoted := quoted_table(read):
        parts += ["## Quoted from publications", QUOTED, _table(quoted)]
    if stages := stages_table(read):
        parts += ["## Time and memory", _table(stages)]
    if read.notes:
        parts += ["## Notes", "\n".join(f"- {escaped(note)}" for note in read.notes)]
    return "\n\n".join(parts) + "\n"


def escaped(value: str) -> str:
    """Return a text as one line that is nothing but text in Markdown, in a cell of a table too."""
    line = _BREAKS.sub(" ", value).strip()
    marked = _MARKED.sub(lambda found: "\\" + found.group(), line)
    begins = _BEGINS.match(marked)
    if begins:
        place = begins.end() if begins.group().isdigit() else 0
        marked = f"{marked[:place]}\\{marked[place:]}"
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(table: Table) -> str:
    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = row(["---" if i in table.left else "---:" for i in range(len(table.head))])
    rows = [
        row([_cell(cell, (y, x) in table.strong) for x, cell in enumerate(cells)])
        for y, cells in enumerate(table.rows)
    ]
    return "\n".join([row([_cell(name, False) for name in table.head]), rule, *rows])


def _cell(cell: str, strong: bool) -> str:
    first, *others = (escaped(line) for line in cell.split("\n"))
    whole = f"**{first}**" if strong and first else first
    for line in others:
        whole += f"{' ' if line.startswith('(') else ', '}{line}"
    return whole
