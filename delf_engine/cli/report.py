"""Command report: shortlists re-ranked, as one page to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delf_engine.cli.output import (
    Directory,
    JsonOption,
    SeedOption,
    console,
    print_failures,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from delf_engine.engine import Engine
    from delf_engine.features import LocalFeatures
    from delf_engine.reranking import RankedCandidate
    from delf_engine.reranking.candidates import Shortlist

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(report)


def report(
    directory: Directory,
    shortlists: Annotated[Path, typer.Argument(help="Shortlists of any system: .jsonl, .csv or TREC .run.")],
    out: Annotated[Path, typer.Option(metavar="HTML", help="The page to write.")],
    top_n: Annotated[int | None, typer.Option(help="Candidates to verify. Default: the profile's.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Queries to show: the first ones of the file.")] = 20,
    shown: Annotated[int, typer.Option(min=1, help="Images of each shortlist to show, before and after.")] = 8,
    lines: Annotated[int, typer.Option(min=0, help="Pictures of inliers to show for each query.")] = 2,
    all_queries: Annotated[
        bool, typer.Option("--all", help="Verify the shortlists too that are not shown, and count them.")
    ] = False,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Re-ranked shortlists",
    seed: SeedOption = 0,
    workers: Annotated[int | None, typer.Option(help="Parallel workers. Default: all cores.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Re-rank shortlists and write a page about them: pictures before and after, inliers, moves.

    Queries are ids of the engine or image files, candidates are ids of the engine; photographs are read from the
    paths that they were added under. The page is one HTML file that needs nothing else.
    """
    from delf_engine.engine import Engine
    from delf_engine.plotting.report import write_report
    from delf_engine.plotting.report.markup import check_path
    from delf_engine.reranking import read_shortlists

    check_path(out)  # before minutes of work
    lists = read_shortlists(shortlists)
    taken = lists if all_queries else dict(list(lists.items())[:queries])
    with Engine.open(directory, readonly=True) as engine:
        features, failed = _queries(engine, taken)
        rankings = _reranked(engine, features, taken, top_n, seed, workers, quiet=as_json)
        written = write_report(
            out,
            rankings,
            query_features=features,
            features=engine.store.get,
            failed=failed,
            title=title,
            max_queries=queries,
            shown=shown,
            lines=lines,
        )
    print_failures((f"query {name}", reason) for name, reason in failed.items())
    if as_json:
        print_json({"out": str(out), **vars(written), "in_file": len(lists), "failed": failed})
    else:
        text = f"{written.queries} of {len(lists)} shortlists shown; wrote {out}, {written.bytes:,} bytes"
        console().print(text, highlight=False, markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _queries(engine: Engine, names: Iterable[str]) -> tuple[dict[str, LocalFeatures], dict[str, str]]:
    """Return the features of the queries that can be read, and why others cannot."""
    from delf_engine.errors import ImageError

    features: dict[str, LocalFeatures] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            features[name] = engine.get(name) if name in engine else engine.extractor(name)
        except ImageError as error:
            failed[name] = error.reason
    return features, failed


def _reranked(
    engine: Engine,
    queries: dict[str, LocalFeatures],
    lists: Mapping[str, Shortlist],
    top_n: int | None,
    seed: int,
    workers: int | None,
    *,
    quiet: bool,
) -> dict[str, list[RankedCandidate]]:
    from delf_engine.config import RerankingConfig
    from delf_engine.reranking import rerank_batch

    options = engine.manifest.profile
    with progress_bar("verifying", quiet=quiet) as progress:
        return rerank_batch(
            queries,
            {name: entries for name, entries in lists.items() if name in queries},
            engine.store,
            config=options.reranking if top_n is None else RerankingConfig(top_n=top_n),
            verification=options.verification,
            ranking=options.ranking,
            seed=seed,
            workers=workers,
            progress=progress,
        )
