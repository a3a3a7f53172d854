"""The command that shows what the engine does, without any files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.console import console, print_json, staged_progress
from delf_engine.cli.options import JsonOption

if TYPE_CHECKING:
    from delf_engine.demo.run import DemoSearch


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the photographs, the engine and the pictures.")] = Path(
        "demo"
    ),
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take the photographs of this folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the rendering and of RANSAC.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Render views of photographs among clutter, index them, search them, and draw the matches.

    Exit code 1 if a ranking is not correct.
    """
    from delf_engine.demo.run import run_demo

    with staged_progress(quiet=as_json) as progress:
        report = run_demo(out, photos=photos, seed=seed, progress=progress)
    if as_json:
        print_json(report.to_dict())
    else:
        for search in report.searches:
            _print(search)
        console().print(
            f"{report.images} photographs in {report.engine}. Try: delf-engine search {report.engine} PHOTO",
            highlight=False,
            soft_wrap=True,
        )
    if not report.correct:
        raise typer.Exit(1)


def _print(search: DemoSearch) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"query: another view of {escape(str(search.query.place))}", title_justify="left")
    for column in ("rank", "inliers"):
        table.add_column(column, justify="right")
    for column in ("verdict", "in truth it shows", "photograph"):
        table.add_column(column, overflow="fold")
    for hit in search.result:
        place = search.shows[hit.id]
        style = "green" if place == search.query.place else ""
        inliers = "" if hit.inliers is None else str(hit.inliers)
        table.add_row(
            str(hit.rank), inliers, hit.verdict or "", place or "something else", Path(hit.id).name, style=style
        )
    console().print(table)
    verdict = "correct" if search.correct else "NOT correct"
    mistaken = f", {search.mistaken} wrong one(s) taken for the same place" if search.mistaken else ""
    first = min(search.found_first, search.right)
    console().print(
        f"{verdict}: {first} of {search.right} right photographs stand first{mistaken}. "
        f"Pictures: {', '.join(str(p) for p in search.pictures)}\n",
        highlight=False,
        soft_wrap=True,
    )
