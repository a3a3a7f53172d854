"""The command that mines pairs of photographs of one place, to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delf_engine.cli.console import print_json, say, staged_progress, unreadable
from delf_engine.cli.options import JsonOption, KeptEngineOption, KeptModelOption, MaxPixelsOption, SeedOption


def mine(
    photos: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Folders and image files.")],
    out: Annotated[Path, typer.Option(help="File to write: JSON lines, paths relative to it.")] = Path(
        "pairs.jsonl"
    ),
    engine: KeptEngineOption = None,
    model: KeptModelOption = None,
    max_pairs: Annotated[int, typer.Option(min=1, help="Pairs to keep; each photograph's best go first.")] = 1000,
    per_photo: Annotated[int, typer.Option(min=1, help="Candidates to verify for each photograph.")] = 20,
    keep_duplicates: Annotated[
        bool, typer.Option("--keep-duplicates", help="Keep pairs of a photograph and its resized copy.")
    ] = False,
    max_pixels: MaxPixelsOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that verify. Default: all cores.")] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Find pairs of photographs of one place in your own folder, to train on them.

    Every photograph is searched for among the others and verified, details decide. Then:
    delf-engine train FOLDER --recipe delf_self --pairs pairs.jsonl
    """
    from delf_engine.mining.folder import mine_folder

    with unreadable() as failed, staged_progress(quiet=as_json) as progress:
        found = mine_folder(
            photos,
            out,
            engine=engine,
            model=model,
            per_photo=per_photo,
            max_pairs=max_pairs,
            keep_duplicates=keep_duplicates,
            max_pixels=max_pixels,
            seed=seed,
            workers=workers,
            on_error=failed.__setitem__,
            progress=progress,
        )
    if as_json:
        left_out = [{"id": name, "reason": reason} for name, reason in failed.items()]
        print_json({"out": str(out), **found.to_dict(), "failed": left_out})
    else:
        say(f"{found}\nwrote {out}")
    if failed:
        raise typer.Exit(1)
