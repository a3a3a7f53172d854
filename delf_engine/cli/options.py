"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from delf_engine.errors import ConfigError
from delf_engine.support.files import check_target, system_errors

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The engine's directory.")]
DistancesOption = Annotated[
    bool, typer.Option("--distances", help="Scores of the file are distances: lower is better. Never guessed.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text.")]
KeptEngineOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Keep the features there: an interrupted call goes on. Default: thrown away."
    ),
]
KeptModelOption = Annotated[
    str | None, typer.Option(help="Checkpoint: a name or a path. Default: the engine's, for a new one delf-r18.")
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Refuse photographs of which more pixels would have to be decoded. Default: the profile's, or "
        "89 million.",
    ),
]
ModelOption = Annotated[str, typer.Option(help="Checkpoint: a name (`model list`) or a path.")]
ProfileOption = Annotated[str | None, typer.Option(help="Profile: a shipped name, or the path of a .toml file.")]
PlotOption = Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the result into this picture.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder that the paths in ids start from: where it is now, if it was moved.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the sampling, where an estimator draws samples.")]
TopNOption = Annotated[int | None, typer.Option(help="Candidates to verify. Default: the profile's.")]
CandidatesOption = Annotated[
    str | None,
    typer.Option(help="What gathers candidates: global (one vector an image), fused (both). Default: the index."),
]
ExpandOption = Annotated[
    bool, typer.Option("--expand", help="A second round, with the features of the images that were verified, too.")
]
GraphOption = Annotated[
    bool, typer.Option("--graph", help="Verify the best hits with each other, too: find images through others.")
]
ConfirmOption = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="First hits of each query that are looked at in detail, and so ordered."
    ),
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Parallel workers. Default: all cores.")]
BoxOption = Annotated[str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Region of interest in pixels.")]


def parse_box(text: str | None) -> tuple[float, ...] | None:
    """Parse ``x0,y0,x1,y1``; a `ConfigError` if it is not four numbers."""
    if text is None:
        return None
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ConfigError(f"a box is four numbers x0,y0,x1,y1 in pixels, got {text!r}")
    return box


def read_ids(path: Path) -> list[str]:
    """Read image ids from a text file in UTF-8, one a line; empty lines are ignored.

    A `FormatError` if the file cannot be read.
    """
    with system_errors(f"{path}: the list of ids cannot be read"):
        # As the system gives file names that are not UTF-8, which are ids too.
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return [line for line in text.split("\n") if line]


def check_outputs(*paths: Path | None, pictures: Iterable[Path | None] = ()) -> None:
    """Raise `ConfigError` where a file, or a picture, cannot be written: before the work, not after."""
    for path in filter(None, paths):
        check_target(path, ConfigError)
    for picture in filter(None, pictures):
        from delf_engine.plotting.canvas import check_picture  # which needs matplotlib

        check_picture(picture)
