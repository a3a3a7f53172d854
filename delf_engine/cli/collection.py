"""Commands on an engine's directory: add, remove, search, info, compact, reindex, check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import print_failures, print_hits, print_json, progress_bar, say
from delf_engine.cli.options import (
    BoxOption,
    CandidatesOption,
    ConfirmOption,
    Directory,
    ExpandOption,
    GraphOption,
    JsonOption,
    MaxPixelsOption,
    ModelOption,
    PlotOption,
    ProfileOption,
    RootOption,
    SeedOption,
    TopNOption,
    check_outputs,
    parse_box,
    read_ids,
)

if TYPE_CHECKING:
    from delf_engine.engine import Engine, SearchResult


def add(
    directory: Directory,
    photos: Annotated[list[str], typer.Argument(metavar="PHOTOS...", help="Image files and folders.")],
    model: ModelOption = "delf-r18",
    profile: ProfileOption = None,
    index: Annotated[
        str | None, typer.Option(help="asmk, kdtree, ivf, bow, vlad or fisher, for a new engine.")
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(help="File with the visual words of a new engine's index.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode ahead; 0: none. Default: as many as pay.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images computed together. Default: 1 on a CPU, 8 on a GPU.")
    ] = None,
    max_pixels: MaxPixelsOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Extract photographs that are there already once more.")
    ] = False,
    fine: Annotated[
        bool, typer.Option("--fine", help="Keep fine features in a new engine, so that searches take less time.")
    ] = False,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add photographs to an engine; the first call makes it. Photographs that are there are skipped, or replaced.

    Interrupted or killed, it goes on where it was when called again. Photographs that cannot be read are listed
    with their reasons at the end; the exit code is then 1, and 0 if all were added or there already.
    """
    from delf_engine.engine import Engine
    from delf_engine.engine.manifest import MANIFEST
    from delf_engine.errors import ConfigError

    if (directory / MANIFEST).exists():
        if profile or index or codebook or fine or model != "delf-r18":
            raise ConfigError(
                f"{directory} exists: its model, profile, index, codebook and fine features were chosen when it "
                "was made; leave those options out, choose a new directory, or give it another index with reindex"
            )
        engine = Engine.open(directory, root=root)
    else:
        chosen: dict[str, Any] = {"profile": profile, "index": index, "codebook": codebook, "fine": fine}
        engine = Engine.create(directory, model=model, root=root, **chosen)
    with engine, progress_bar("adding", quiet=as_json) as progress:
        report = engine.add(
            photos, replace=replace, workers=workers, batch=batch, max_pixels=max_pixels, progress=progress
        )
        total = len(engine)
    if as_json:
        print_json(report.to_dict())
    else:
        print_failures(report.failed)
        say(f"{report.summary}; {total} images in {directory}")
    if report.failed:
        raise typer.Exit(1)


def search(
    directory: Directory,
    query: Annotated[str, typer.Argument(help="A photograph, or the id of one in the engine.")],
    top_k: Annotated[int, typer.Option(help="Hits to show.")] = 10,
    top_n: TopNOption = None,
    box: BoxOption = None,
    among: Annotated[
        Path | None, typer.Option(help="Search among the ids of this text file only, one a line.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Leave this photograph out; may be repeated.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="Leave out candidates with a lower score in the index.")
    ] = None,
    candidates: CandidatesOption = None,
    expand: ExpandOption = False,
    graph: GraphOption = False,
    confirm: ConfirmOption = None,
    max_pixels: MaxPixelsOption = None,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the photographs that show what the query shows, re-ranked by geometric verification."""
    from delf_engine.engine import Engine

    check_outputs(pictures=(plot,))
    with Engine.open(directory, readonly=True, root=root) as engine:
        if max_pixels:
            engine.extractor.max_pixels = max_pixels
        result = engine.search(
            query,
            top_k=top_k,
            top_n=top_n,
            box=parse_box(box),
            among=None if among is None else read_ids(among),
            exclude=exclude or (),
            min_score=min_score,
            expand=expand,
            graph=graph,
            confirm=confirm,
            seed=seed,
            candidates=candidates,  # type: ignore[arg-type]  # checked there
        )
        if as_json:
            print_json(result.to_dict())
        else:
            print_hits(result)
        if plot:
            _plot_best(engine, query, result, plot)


def remove(
    directory: Directory,
    ids: Annotated[list[str], typer.Argument(help="Ids of images, as `search` shows them.")],
    as_json: JsonOption = False,
) -> None:
    """Remove photographs from an engine."""
    from delf_engine.engine import Engine

    with Engine.open(directory) as engine:
        engine.remove(ids)
        left = len(engine)
    if as_json:
        print_json({"removed": ids, "images": left})
    else:
        say(f"{len(ids)} removed; {left} images in {directory}")


def info(directory: Directory, as_json: JsonOption = False) -> None:
    """Show what an engine holds: images, model, options, index, and what would serve it better."""
    from delf_engine.engine import Engine

    with Engine.open(directory, readonly=True) as engine:
        found = engine.info()
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(str(found))


def compact(directory: Directory, as_json: JsonOption = False) -> None:
    """Merge the parts of an engine's index into one without removed photographs; searches give the same."""
    from delf_engine.engine import Engine

    with Engine.open(directory) as engine:
        before = engine.info().index
        engine.compact()
        after = engine.info().index
    if as_json:
        print_json({"before": before, "after": after})
    else:
        for what in ("segments", "removed", "bytes"):
            say(f"{what:<18} {before[what]:,} -> {after[what]:,}")


def reindex(
    directory: Directory,
    index: Annotated[
        str | None, typer.Option(help="asmk, kdtree, ivf, bow, vlad or fisher. Default: the kind that it has.")
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(help="File with the visual words. Default: those it has, or the checkpoint's.")
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Take the options of indexes from this profile. Default: they stay.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give an engine another index, made from the features that it holds; the old one serves until then."""
    from delf_engine.engine import Engine

    with Engine.open(directory) as engine, progress_bar("indexing", quiet=as_json) as progress:
        engine.reindex(index, codebook=codebook, profile=profile, progress=progress)  # type: ignore[arg-type]
        after = engine.info().index
    if as_json:
        print_json(after)
    else:
        say(f"{after['images']} images in an index of kind {after['kind']}, {after['bytes']:,} bytes")


def check(
    directory: Directory,
    repair: Annotated[
        bool, typer.Option("--repair", help="Index again, from the features, what is damaged in the index.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare everything an engine has on disk with its checksums; the exit code is 1 if something is damaged."""
    from delf_engine.engine import Engine
    from delf_engine.engine.directory import check_directory

    if repair:
        Engine.open(directory, check=True).close()
    report = check_directory(directory)
    if as_json:
        print_json(report.to_dict())
    else:
        typer.echo(str(report))
    if not report.whole:
        raise typer.Exit(1)


def _plot_best(engine: Engine, query: str, result: SearchResult, plot: Path) -> None:
    """Draw the query beside the best hit, with the matches that agree."""
    from delf_engine.plotting import save_matches

    best = result[0] if len(result) else None
    if best is None or best.verification is None or result.features is None:
        say("nothing verified, so there is nothing to draw", error=True)
        return
    save_matches(
        plot,
        engine.path_of(query),
        engine.path_of(best.id),
        result.features,
        engine.get(best.id),
        best.verification,
        labels=(Path(query).name, Path(best.id).name),
    )
