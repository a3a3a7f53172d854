"""The commands on data sets: which are known, getting them, checking a local copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import console, error_console, print_json, say
from delf_engine.cli.options import JsonOption

if TYPE_CHECKING:
    from delf_engine.datasets import Definition
    from delf_engine.datasets.getting import Report

__all__ = ["data_app", "register"]

_HELP = """Get and check the data sets of the published benchmarks.

They are kept in --root, else in $DELF_ENGINE_DATA, else in $DELF_ENGINE_HOME/data, else in
~/.local/share/delf-engine/data (under $XDG_DATA_HOME if that is set; on macOS ~/Library/Application
Support/delf-engine/data), each in a folder of its own: images in jpg/, the ground truth gnd_NAME.pkl beside it.
"""
_REFLOWED = "\n\n".join(" ".join(paragraph.split()) for paragraph in _HELP.split("\n\n"))
_SHOWN = 10  # names of a finding in text; --json has all

RootOption = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that holds the data sets.")]

data_app = typer.Typer(name="data", help=_REFLOWED, no_args_is_help=True, rich_markup_mode="rich")


def register(app: typer.Typer) -> None:
    """Add this group of commands to the application."""
    app.add_typer(data_app, rich_help_panel=None)


@data_app.command("list")
def list_sets(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List the data sets that are known: images, size, and what of them is here."""
    from rich import box
    from rich.filesize import decimal
    from rich.table import Table

    from delf_engine.datasets import KNOWN, data_folder

    rows = [_summary(known, root) for known in KNOWN.values()]
    if as_json:
        return print_json({"datasets": rows, "root": str(data_folder(root))})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "what", "images", "about", "parts", "here"):
        table.add_column(column, justify="right" if column in ("images", "about", "parts") else "left")
    for row in rows:
        first, last = row["parts"]
        parts = f"{first}-{last}" if first < last else str(first)
        size = decimal(row["download_bytes_about"])
        table.add_row(row["name"], row["title"], f"{row['images']:,}", size, parts, row["here"])
    console().print(table)
    say(f"Root: {data_folder(root)}")
    return None


@data_app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="SET", help="See `data list`.")],
    root: RootOption = None,
    parts: Annotated[
        tuple[int, int] | None, typer.Option(metavar="FIRST LAST", help="Only its archives of these numbers.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before large downloads.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Download and unpack a data set; archives that are there stay, one that was interrupted begins anew.

    Without the network: put the files where the error says, and give the same command.
    """
    from rich.filesize import decimal

    from delf_engine.datasets import Dataset, definition
    from delf_engine.datasets import get as get_set

    known = definition(name)
    wanted = known.parts if parts is None else range(parts[0], parts[1] + 1)
    waiting = [part for part in Dataset.of(known, root).missing_parts() if part in wanted]
    say(f"{known.name}: {known.title}, {known.count:,} images\nLicence: {known.licence}", error=True)
    say(f"Please cite: {known.citation}\nSee {known.homepage}", error=True)
    if waiting:
        size = decimal(len(waiting) * known.archive_bytes)
        say(
            f"To come: {len(waiting)} of {len(known.parts)} archives, about {size}, and as much unpacked",
            error=True,
        )
        if not yes:
            typer.confirm("Go on?", abort=True, err=True)
    with _transfers(quiet=as_json) as report:
        dataset = get_set(name, root, parts=wanted, report=report)
    if as_json:
        return print_json(_summary(known, root))
    say(f"{known.name}: {_summary(known, root)['here']}\n{dataset.folder}")
    return None


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="SET", help="A known set, or a folder with jpg/ and gnd_*.pkl.")],
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the files of a local copy, and which images are missing. Exit code 1 if anything is wrong."""
    from delf_engine.datasets import check as check_set

    found = check_set(name, root)
    sound = all(one.ok for one in found)
    if as_json:
        print_json({"name": name, "ok": sound, "checks": [asdict(one) for one in found]})
    else:
        for one in found:
            names = [*one.names[:_SHOWN], *(["..., --json lists all"] if len(one.names) > _SHOWN else [])]
            say("\n      ".join([f"{'ok   ' if one.ok else 'WRONG'} {one.what}: {one.found}", *names]))
    if not sound:
        raise typer.Exit(1)


def _summary(known: Definition, root: Path | None) -> dict[str, Any]:
    """Return one row of the list, as JSON has it."""
    from delf_engine.datasets import Dataset

    dataset = Dataset.of(known, root)
    done, total = len(dataset.parts), len(known.parts)
    here = "complete" if done == total else f"{done} of {total} parts"
    if not done:
        here = "put there by hand" if dataset.images.is_dir() else "no"
    return {
        **known.model_dump(include={"name", "title", "homepage", "licence", "citation"}),
        "images": known.count,
        "parts": [known.first_part, known.last_part],
        "download_bytes_about": total * known.archive_bytes,
        "folder": str(dataset.folder),
        "parts_here": list(dataset.parts),
        "here": here,
    }


@contextmanager
def _transfers(*, quiet: bool) -> Iterator[Report]:
    """Show a bar for what is downloaded or unpacked; yields what is to be called with its state."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(bar_width=20), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console(), disable=quiet) as progress:
        task = progress.add_task("", total=None)  # one bar for all: a hundred parts need no hundred lines
        yield lambda what, done, total: progress.update(
            task, description=what, completed=done, total=total or None
        )
