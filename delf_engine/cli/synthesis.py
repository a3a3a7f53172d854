"""The command that renders a set of invented landmarks, at the size of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delf_engine.cli.console import print_json, progress_bar, say
from delf_engine.cli.options import JsonOption, WorkersOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add this command to a group of commands."""
    app.command()(synthesize)


def synthesize(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write, empty or of an earlier call.")],
    images: Annotated[int, typer.Option(help="Photographs in the gallery.")] = 5000,
    queries: Annotated[int, typer.Option(help="Queries, besides the gallery.")] = 70,
    landmarks: Annotated[int, typer.Option(help="Buildings that the queries ask for.")] = 14,
    longer_side: Annotated[int, typer.Option(help="Of the largest photographs, in pixels.")] = 640,
    name: Annotated[str, typer.Option(help="Of the ground truth: gnd_NAME.pkl.")] = "synthetic5k",
    seed: Annotated[int, typer.Option(help="Another one gives other landmarks.")] = 0,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Render invented landmarks among other places, in the layout of ROxford, with the ground truth known.

    Needs no files and no network. A call that was interrupted goes on where it was.
    """
    from delf_engine.synthesis import synthesize as render

    with progress_bar("photographs", quiet=as_json) as progress:
        made = render(
            out,
            images=images,
            queries=queries,
            landmarks=landmarks,
            seed=seed,
            longer_side=longer_side,
            name=name,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json(made.to_dict())
        return
    counts = made.counts
    asked = max(1, counts["queries"])
    means = ", ".join(f"{counts[kind] / asked:.1f} {kind}" for kind in ("easy", "hard", "junk"))
    lines = [
        f"{counts['images']} images and {counts['queries']} queries in {made.folder}",
        f"{counts['landmark']} show a landmark, {counts['town']} other places, {counts['scene']} are drawn scenes",
        f"a query has on average {means}",
        f"{made.rendered} rendered in {made.seconds:.0f} s; ground truth {made.ground_truth.name}",
        f"sha256 {made.sha256}",
    ]
    say("\n".join(lines))
