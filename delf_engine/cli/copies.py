"""Commands that find copies: in a folder, and between two of them; and what is remembered not to be one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.console import print_failures, print_json, say, staged_progress
from delf_engine.cli.options import (
    JsonOption,
    KeptEngineOption,
    KeptModelOption,
    MaxPixelsOption,
    WorkersOption,
    check_outputs,
)

if TYPE_CHECKING:
    from delf_engine.copies import Copies

PerPhotoOption = Annotated[int, typer.Option(min=1, help="Candidates to verify for each photograph.")]
DismissedOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Pairs that are no copies, as `not-copies` remembers them.")
]
ReportOption = Annotated[
    Path | None, typer.Option(metavar="HTML", help="Write a page with both photographs of each pair, outlined.")
]


def duplicates(
    photos: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Folders and image files.")],
    engine: KeptEngineOption = None,
    model: KeptModelOption = None,
    per_photo: PerPhotoOption = 60,
    dismissed: DismissedOption = None,
    report: ReportOption = None,
    keep: Annotated[
        str, typer.Option(help="What to keep of copies: the largest, the oldest, or the first by path.")
    ] = "largest",
    superfluous: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="List what `--keep` does not keep, a path a line. Nothing is deleted."),
    ] = None,
    max_pixels: MaxPixelsOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find copies in a folder: exact and near ones, crops, framed, edited, turned and embedded ones.

    Photographs of the same place are no copies. Nothing is ever changed or deleted.
    """
    from delf_engine.copies import Copies
    from delf_engine.support.files import replacing, system_errors

    Copies({}, ()).superfluous(keep)  # better to know before the work
    check_outputs(superfluous)
    found = _found(
        photos,
        None,
        report,
        as_json,
        engine=engine,
        model=model,
        per_photo=per_photo,
        dismissed=dismissed,
        max_pixels=max_pixels,
        workers=workers,
    )
    if superfluous is not None:
        listed = [name for name, _ in found.superfluous(keep)]
        names = [name for name in listed if "\n" not in name]  # half a name may be another's
        print_failures((repr(name), "a name of two lines cannot be listed") for name in listed if "\n" in name)
        with system_errors(f"{superfluous}: cannot be written"), replacing(superfluous) as partial:
            partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8", errors="surrogateescape")
    _said(found, report, as_json)


def overlap(
    train: Annotated[str, typer.Argument(metavar="TRAIN", help="Folder to search in, such as a training set.")],
    test: Annotated[str, typer.Argument(metavar="TEST", help="Folder to look for, such as a test set.")],
    engine: KeptEngineOption = None,
    model: KeptModelOption = None,
    per_photo: PerPhotoOption = 60,
    dismissed: DismissedOption = None,
    report: ReportOption = None,
    max_pixels: MaxPixelsOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find copies and places of a test set in a training set: the leak check.

    The exit code is 0 whether or not there are any.
    """
    found = _found(
        [test],
        [train],
        report,
        as_json,
        engine=engine,
        model=model,
        per_photo=per_photo,
        dismissed=dismissed,
        max_pixels=max_pixels,
        workers=workers,
    )
    _said(found, report, as_json)


def not_copies(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to remember it; made if it is not there.")],
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Two photographs or more.")],
) -> None:
    """Remember that photographs are no copies of each other: `duplicates --dismissed FILE` leaves them out."""
    from delf_engine.copies import dismiss

    say(f"{file}: {dismiss(file, photos)} pairs that are no copies")


def _found(
    photos: Sequence[str], within: Sequence[str] | None, report: Path | None, as_json: bool, **options: object
) -> Copies:
    from delf_engine.copies import find_copies
    from delf_engine.plotting.report import check_path

    if report is not None:
        check_path(report)  # better to know before the work
    with staged_progress(quiet=as_json) as progress:
        return find_copies(photos, within=within, progress=progress, **options)  # type: ignore[arg-type]


def _said(found: Copies, report: Path | None, as_json: bool) -> None:
    from delf_engine.copies import write_copies_report

    if report is not None:
        write_copies_report(report, found)
    if as_json:
        print_json(found.to_dict())
    else:
        print_failures(found.failed)
        say(str(found))
    if found.failed:
        raise typer.Exit(1)
