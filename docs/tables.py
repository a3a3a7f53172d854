"""Write the tables of `results/NAME.json`, as benchmarks left them, into the pages of `benchmarks/`.

    python docs/tables.py           # writes
    python docs/tables.py --check   # exit code 1 if a page would change

A page says where: everything between these two lines is replaced.

    <!-- results: NAME TABLES | COMMAND -->
    <!-- end of results -->

TABLES are numbers, from 1 on, of those in the file; without any, all are shown. COMMAND makes the file: it is all
that a page shows as long as there is none.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES, RESULTS = HERE / "benchmarks", HERE / "results"

_BLOCK = re.compile(
    r"(?P<begin><!-- results: (?P<name>\w+)(?P<which>( \d+)*) \| (?P<command>[^\n]*?) -->\n)"
    r"(?P<body>.*?)(?P<end><!-- end of results -->\n)",
    re.DOTALL,
)


def renewed(text: str, results: Path = RESULTS) -> str:
    """Return a page with the tables that its results have now."""
    return _BLOCK.sub(lambda block: f"{block['begin']}\n{_shown(block, results)}\n{block['end']}", text)


def result_names(text: str) -> list[str]:
    """Return the names of the results that a page shows."""
    return [block["name"] for block in _BLOCK.finditer(text)]


def _shown(block: re.Match[str], results: Path) -> str:
    path = results / f"{block['name']}.json"
    if not path.is_file():
        return (
            "*Not measured with this version yet. This command prints the tables:*\n\n"
            f"```bash\n{_wrapped(block['command'])}\n```\n"
        )
    result = json.loads(path.read_text(encoding="utf-8"))
    tables = list(_tables(result, path))
    which = [int(number) for number in block["which"].split()] or range(1, len(tables) + 1)
    parts = [_markdown(tables[number - 1]) for number in which]
    machine = result["machine"]
    parts.append(
        f"*Measured on {result['date']}, on {machine['cores']} cores of {_processor(machine['processor'])}, with "
        f"delf-engine {machine['delf_engine']} and Python {machine['python']}, by*\n\n"
        f"```bash\n{_wrapped(result['command'])}\n```\n"
    )
    return "\n".join(parts)


def _tables(result: Mapping[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """Yield title, columns and rows of each table of a result."""
    yield from result.get("tables", ())
    if "methods" not in result or "dataset" not in result:
        return
    from benchmarks.revisited.report.result import read_result  # of roxford.py and rparis.py
    from benchmarks.revisited.report.tables import Cell, tables

    def text(cell: Cell) -> str:
        shown = f"**{cell.text}**" if cell.strong else cell.text
        return f"{shown}{'' if not cell.note or cell.note[0] == '(' else ','} {cell.note}".strip()

    for name, table in tables(read_result(path)).items():
        rows = [list(map(text, row)) for row in table.rows]
        if rows:
            title = f"{result['title']}: {name}"
            yield {"title": title, "columns": list(map(text, table.head)), "rows": rows, "left": table.left}


def _markdown(table: Mapping[str, Any]) -> str:
    left = table.get("left", (0,))
    rule = ["---" if i in left else "---:" for i in range(len(table["columns"]))]
    # Of sets without pairs of one kind there is nothing to say.
    rows = [
        ["" if "nan" in c.split() or "+nan" in c else _escaped(c) for c in r]
        for r in (table["columns"], *table["rows"])
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
    return "\n".join([f"**{_escaped(table['title'])}**", "", *lines, ""])


def _wrapped(command: str) -> str:
    """Return a command in lines of about 90 characters, broken before options."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) > 90:
            lines.append(f"   {part}")
        else:
            lines[-1] = f"{lines[-1]} {part}".strip() if len(lines) == 1 else f"{lines[-1]} {part}"
    return " \\\n ".join(lines)


def _escaped(cell: str) -> str:
    return " ".join(re.sub(r"([|<`_\\])", r"\\\1", cell).split())


def _processor(name: str) -> str:
    """Return the name of a processor without what tells its cores and clock."""
    plain = re.sub(r"\s+(\d+-Core )?Processor.*|\(R\)|\(TM\)|\s+(CPU )?@.*", "", name).strip()
    return plain or "an unknown processor"


def main(arguments: list[str]) -> int:
    """Renew all pages; return the exit code."""
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    stale = []
    for page in sorted(PAGES.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            stale.append(page.name)
            if not arguments:
                page.write_text(new, encoding="utf-8")
    print("stale:" if arguments else "written:", ", ".join(stale) or "nothing")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))  # the benchmarks, which are not installed
    sys.exit(main(sys.argv[1:]))
