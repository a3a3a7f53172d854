"""The commands on data sets: which are known, getting them, checking a local copy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import console, print_json, say
from delf_engine.cli.options import JsonOption

if TYPE_CHECKING:
    from delf_engine.datasets import Definition

_SHOWN = 10  # names of a finding in text; --json has all

RootOption = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that holds the data sets.")]

data_app = typer.Typer(
    name="data",
    help="Get and check the data sets of the published benchmarks.\n\n"
    "They are kept in --root, else in $DELF_ENGINE_DATA, else in $DELF_ENGINE_HOME/data, else where the system "
    "keeps data (`data list` says where): images in jpg/ of a folder of their own, the ground truth beside it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@data_app.command("list")
def list_sets(root: RootOption = None, as_json: JsonOption = False) -> None:
    """List the data sets that are known: images, size, and what of them is here."""
    from rich.filesize import decimal

    from delf_engine.datasets import KNOWN, data_folder

    folder, rows = str(data_folder(root)), [_summary(known, root) for known in KNOWN.values()]
    if as_json:
        return print_json({"datasets": rows, "root": folder})
    for row in rows:
        first, last = row["parts"]
        size = f"{row['images']:,} images, {decimal(row['download_bytes_about'])} in parts {first} to {last}"
        say(f"{row['name']:<11} {row['title']}: {size}; here: {row['here']}")
    say(f"Root: {folder}")
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
    from rich.progress import DownloadColumn, Progress

    from delf_engine import datasets

    known = datasets.definition(name)
    wanted = known.parts if parts is None else range(parts[0], parts[1] + 1)
    waiting = [part for part in datasets.Dataset.of(known, root).missing_parts() if part in wanted]
    say(f"{known.name}: {known.title}, {known.count:,} images\nLicence: {known.licence}", error=True)
    say(f"Please cite: {known.citation}\nSee {known.homepage}", error=True)
    if waiting:
        archives = f"{len(waiting)} of {len(known.parts)} archives"
        size = decimal(len(waiting) * known.archive_bytes)
        say(f"To come: {archives}, about {size}, and as much unpacked", error=True)
        if not yes:
            typer.confirm("Go on?", abort=True, err=True)
    columns = (*Progress.get_default_columns(), DownloadColumn())
    with Progress(*columns, console=console(error=True), disable=as_json) as progress:
        task = progress.add_task("", total=None)  # one bar for all: a hundred parts need no hundred lines

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        datasets.get(name, root, parts=wanted, report=report)
    found = _summary(known, root)
    if as_json:
        print_json(found)
    else:
        say(f"{known.name}: {found['here']}\n{found['folder']}")


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
