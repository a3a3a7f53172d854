"""The commands on data sets: which are known, getting them, checking a local copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import console, error_console, print_json, say
from delf_engine.cli.download import transfer_columns
from delf_engine.cli.options import JsonOption

if TYPE_CHECKING:
    from delf_engine.datasets import Checked, Definition, Plan
    from delf_engine.datasets.getting import Report

__all__ = ["data_app", "register"]

_HELP = """Get and check the data sets of the published benchmarks.

They are kept in --root, else in $DELF_ENGINE_DATA, else in $DELF_ENGINE_HOME/data, else in
~/.local/share/delf-engine/data (under $XDG_DATA_HOME if that is set; on macOS ~/Library/Application
Support/delf-engine/data), each in a folder of its own: images in jpg/, the ground truth gnd_NAME.pkl beside it.
"""
_REFLOWED = "\n\n".join(" ".join(paragraph.split()) for paragraph in _HELP.split("\n\n"))
_SHOWN = 10  # names of a check in text; --json has all

RootOption = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that holds the data sets.")]

data_app = typer.Typer(name="data", help=_REFLOWED, no_args_is_help=True, rich_markup_mode="rich")


def register(app: typer.Typer) -> None:
    """Add this group of commands to the application."""
    app.add_typer(data_app, rich_help_panel=None)


@data_app.command("list")
def list_sets(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List the data sets that are known: images, size, and what of them is here."""
    from delf_engine.datasets import KNOWN, data_folder

    rows = [_summary(known, root) for known in KNOWN.values()]
    if as_json:
        return print_json({"datasets": rows, "root": str(data_folder(root))})
    _print_sets(rows)
    say(f"Root: {data_folder(root)}")
    return None


@data_app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="SET", help="See `data list`.")],
    root: RootOption = None,
    parts: Annotated[
        str | None, typer.Option(metavar="N-M,...", help="Some of its archives only, by their numbers.")
    ] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep archives once unpacked.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before large downloads.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download and unpack a data set; what was interrupted goes on, what is there stays.

    Without the network: put the archives where the error says, and give the same command.
    """
    from delf_engine.datasets import definition, parse_parts, plan
    from delf_engine.datasets import get as get_set

    known = definition(name)
    wanted = None if parts is None else parse_parts(parts, known)
    todo = plan(known, root, parts=wanted, keep_archives=keep_archives)
    _announce(todo)
    if todo.parts and not yes:
        typer.confirm("Go on?", abort=True, err=True)
    with _transfers(quiet=as_json) as report:
        dataset = get_set(known, root, parts=wanted, keep_archives=keep_archives, report=report)
    if as_json:
        print_json(_summary(known, root))
    else:
        state = _state(known, dataset.folder)
        console().print(f"{known.name}: {state}", highlight=False, markup=False)
        say(str(dataset.folder))


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="SET", help="A known set, or a folder with jpg/ and gnd_*.pkl.")],
    root: RootOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image and compare its SHA-256.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read images.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Check files, ground truth, names and images of a local copy. Exit code 1 if anything is wrong."""
    from delf_engine.cli.console import progress_bar
    from delf_engine.datasets import check as check_set

    with progress_bar("images", quiet=as_json) as progress:
        found = check_set(name, root, deep=deep, workers=workers, progress=progress)
    if as_json:
        print_json(found.to_dict())
    else:
        _print_checks(found)
    if not found.ok:
        raise typer.Exit(1)


# ---------------------------------------------------------------------------------------------------- what is here


def _summary(known: Definition, root: Path | None) -> dict[str, Any]:
    """Return one row of the list, as JSON has it."""
    from delf_engine.datasets import Dataset, data_folder
    from delf_engine.errors import FormatError

    folder = data_folder(root) / known.folder
    row: dict[str, Any] = {
        "name": known.name,
        "title": known.title,
        "images": known.count,
        "parts": [known.numbers[0], known.numbers[-1]],
        "download_bytes_about": sum(archive.about for archive in known.archives),
        "homepage": known.homepage,
        "licence": known.licence,
        "citation": known.citation,
        "folder": str(folder),
        "parts_here": [],
        "here": _state(known, folder),
        "error": None,
    }
    try:
        row["parts_here"] = list(Dataset.of(known, folder).parts)
    except FormatError as error:
        row["error"] = str(error)
    return row


def _state(known: Definition, folder: Path) -> str:
    """Say in a few words what of a set is in its folder."""
    from delf_engine.datasets import Dataset
    from delf_engine.errors import FormatError

    try:
        done = len(Dataset.of(known, folder).parts)
    except FormatError:
        return "damaged record"
    if done:
        return "complete" if done == len(known.archives) else f"{done} of {len(known.archives)} parts"
    return "put there by hand" if (folder / known.images).is_dir() else "no"


def _announce(todo: Plan) -> None:
    """Say what is about to happen, whose it is and what may be done with it, before anything does."""
    from rich.filesize import decimal

    known = todo.definition
    lines = [f"{known.name}: {known.title}, {known.count:,} images", f"Licence: {known.licence}"]
    lines += [f"Please cite: {known.citation}", f"See {known.homepage}"]
    if todo.parts:
        whole = len(todo.parts) == len(known.archives)
        share = (
            f"{len(todo.parts)} archive{'s' * (len(todo.parts) != 1)}"
            if whole
            else f"{len(todo.parts)} of {len(known.archives)} archives"
        )
        lines.append(
            f"To come: about {decimal(todo.download)} in {share}; the images take about {decimal(todo.unpacked)}, "
            f"{decimal(todo.room)} must be free meanwhile in {todo.folder}"
        )
    elif not todo.files:
        lines.append("All of it is there")
    for line in lines:
        say(line, error=True)


@contextmanager
def _transfers(*, quiet: bool) -> Iterator[Report]:
    """Show a bar for what is downloaded or unpacked; yields what is to be called with its state."""
    from rich.progress import Progress, TaskID, TextColumn

    columns = (*transfer_columns(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=error_console(), disable=quiet) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int, images: int | None) -> None:
            if what not in tasks:
                for earlier in tasks.values():  # one at a time: a hundred parts need no hundred lines
                    progress.remove_task(earlier)
                tasks.clear()
                tasks[what] = progress.add_task(what, total=None, note="")
            note = "" if images is None else f"{images:,} images"
            progress.update(tasks[what], completed=done, total=total or None, note=note)

        yield report


# ------------------------------------------------------------------------------------------------------------ text


def _print_sets(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "what", "images", "about", "parts", "here"):
        table.add_column(column, justify="right" if column in ("images", "about", "parts") else "left")
    for row in rows:
        first, last = row["parts"]
        size, parts = decimal(row["download_bytes_about"]), f"{first}-{last}" if first < last else str(first)
        table.add_row(row["name"], row["title"], f"{row['images']:,}", size, parts, row["here"])
    console().print(table)


def _print_checks(found: Checked) -> None:
    from rich.markup import escape

    def say(text: str) -> None:
        console().print(text, highlight=False, soft_wrap=True)

    say(f"{escape(found.name)} in {escape(str(found.folder))}")
    for check in found.checks:
        mark = "[green]ok[/]   " if check.ok else "[bold red]wrong[/]"
        say(f"{mark} {escape(check.what)}: {escape(check.found)}")
        for name in check.names[:_SHOWN]:
            say(f"      {escape(name)}")
        if len(check.names) > _SHOWN:
            say(f"      ... and {len(check.names) - _SHOWN:,} more; --json lists all")
