"""Command codebook: visual words of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delf_engine.cli.console import print_failures, print_json, say, staged_progress
from delf_engine.cli.options import JsonOption, MaxPixelsOption, check_outputs


def codebook(
    source: Annotated[
        list[Path], typer.Argument(help="An engine, or a folder of photographs; or several feature stores.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors file to write.")],
    words: Annotated[int, typer.Option(help="Visual words: at most a tenth of the descriptors is a good choice.")],
    per_image: Annotated[int, typer.Option(help="Features of each image, the best by attention.")] = 300,
    mixture: Annotated[
        bool, typer.Option("--mixture", help="Fit a mixture of so many Gaussians instead, for Fisher vectors.")
    ] = False,
    iterations: Annotated[
        int | None, typer.Option(help="Iterations: of k-means, default 10; of a mixture at most, default 100.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first choice of words.")] = 0,
    model: Annotated[str, typer.Option(help="Checkpoint that extracts photographs.")] = "delf-r18",
    max_pixels: MaxPixelsOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train visual words for an index on an engine's features or on photographs.

    Use them for a new engine (add --codebook OUT) or for one that exists (reindex --codebook OUT).
    """
    from delf_engine.engine.vocabulary import train_words
    from delf_engine.errors import ConfigError

    if out.exists() and not replace:
        raise ConfigError(f"{out}: exists; say --replace to replace it")
    check_outputs(out)
    failed: list[tuple[str, str]] = []
    with staged_progress(quiet=as_json) as report:
        trained = train_words(
            source[0] if len(source) == 1 else source,
            words,
            mixture=mixture,
            per_image=per_image,
            iterations=iterations,
            seed=seed,
            model=model,
            max_pixels=max_pixels,
            on_error=lambda image, error: failed.append((str(image), str(error))),
            progress=report,
        )
    trained.save(out)
    what = "Gaussians" if mixture else "words"
    print_failures(failed)
    if as_json:
        print_json({"codebook": str(out), "words": words, "dim": trained.dim, "hash": trained.hash})
    else:
        say(f"{words:,} {what} of {trained.dim} dimensions written to {out}")
    if failed:
        raise typer.Exit(1)
