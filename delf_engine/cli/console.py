"""What all commands print with: lines, progress bars, JSON, the table of a search."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from delf_engine.engine import SearchResult


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Return text with its control characters, but line breaks, as escapes: names of files may hold any."""
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def console(*, error: bool = False) -> Console:
    """Return a console on standard output or on standard error."""
    from rich.console import Console

    return Console(stderr=error)


def say(text: str, *, error: bool = False) -> None:
    """Print plain text, no markup, on standard output or on standard error; the terminal wraps it."""
    console(error=error).print(harmless(text), highlight=False, markup=False, soft_wrap=True)


def complain(what: str, text: str, style: str = "yellow") -> None:
    """Print on standard error what is wrong, its kind in colour before it."""
    from rich.text import Text

    console(error=True).print(Text.assemble((f"{what}:", style), f" {harmless(text)}"), soft_wrap=True)


def print_json(value: Any) -> None:
    r"""Print a value as JSON on standard output, untouched by colours and line breaks: UTF-8 in any locale.

    Names of files may hold bytes that are not UTF-8, which Python reads as surrogates: each is written as its
    escape ``\udcXX``, and `os.fsencode` makes the name of what `json.loads` returns. NaN and infinity are null.
    """
    plain = json.loads(json.dumps(value, ensure_ascii=False), parse_constant=lambda _: None)
    typer.echo(json.dumps(plain, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace"))


@contextmanager
def progress_bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error; yields what is to be called with (done, total)."""
    with staged_progress(quiet=quiet) as report:
        yield partial(report, what)


@contextmanager
def staged_progress(*, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show one progress bar a stage; yields what is to be called with (stage, done, total), and a loss if any."""
    from rich.progress import MofNCompleteColumn, Progress, TaskID, TextColumn

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console(error=True), disable=quiet) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, loss: float | None = None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total, note="")
            note = "" if loss is None else f"loss {loss:.4f}"
            progress.update(tasks[stage], completed=done, total=total, note=note)

        yield report


def print_failures(failed: Iterable[tuple[str, str]]) -> None:
    """Print on standard error what was left out and why."""
    for name, reason in failed:
        complain("left out", f"{name}: {reason}")


@contextmanager
def unreadable() -> Iterator[dict[str, str]]:
    """Take photographs that cannot be read, with reasons, and print them at the end, come what may."""
    failed: dict[str, str] = {}
    try:
        yield failed
    finally:
        print_failures(failed.items())
        if failed:
            say(f"{len(failed)} photographs could not be read", error=True)


#: Of verdicts; different places are what most hits are, and stay plain.
_COLOURS = {"same": "green", "unsure": "yellow"}


def print_hits(result: SearchResult) -> None:
    """Print the hits of a search as a table."""
    from rich.markup import escape
    from rich.table import Table

    if not len(result):
        say(f"{result.query}: nothing found")
        return
    names, *rows = result.table()
    turned = f", turned by {result.rotation} degrees" if result.rotation else ""
    table = Table(title=f"hits for {escape(harmless(result.query))}{turned}", title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in ("place", "image") else "right", overflow="fold")
    for row in rows:
        table.add_row(
            *(f"[{_COLOURS[cell]}]{cell}[/]" if cell in _COLOURS else escape(harmless(cell)) for cell in row)
        )
    console().print(table)
