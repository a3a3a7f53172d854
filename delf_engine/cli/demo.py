"""The command that shows what the engine does, without any files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.console import print_hits, print_json, say, staged_progress
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
        say(f"{report.images} photographs in {report.engine}. Try: delf-engine search {report.engine} PHOTO")
    if not report.correct:
        raise typer.Exit(1)


def _print(search: DemoSearch) -> None:
    print_hits(search.result)
    verdict = "correct" if search.correct else "NOT correct"
    mistaken = f", {search.mistaken} wrong one(s) taken for the same place" if search.mistaken else ""
    first = min(search.found_first, search.right)
    say(f"{verdict}: {first} of {search.right} right photographs stand first{mistaken}.")
    say(f"Pictures: {', '.join(map(str, search.pictures))}\n")
