"""Commands on shortlists of any search: re-rank them, and look at them on a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import print_failures, print_hits, print_json, say, staged_progress
from delf_engine.cli.options import (
    ConfirmOption,
    Directory,
    DistancesOption,
    ExpandOption,
    GraphOption,
    JsonOption,
    MaxPixelsOption,
    RootOption,
    SeedOption,
    TopNOption,
    WorkersOption,
    read_ids,
)

if TYPE_CHECKING:
    from delf_engine.engine import Engine, RerankedBatch
    from delf_engine.reranking.candidates import Shortlist

ShortlistsArgument = Annotated[
    Path,
    typer.Argument(help="Shortlists of any system: .jsonl, .csv, TREC .run, hloc's pairs .txt, .npy or .npz."),
]
NamesOption = Annotated[
    Path | None, typer.Option(help="Text file of ids, one a line: what row numbers of .npy and .npz stand for.")
]
QueriesOption = Annotated[
    Path | None, typer.Option(help="Text file of queries, one a line: what rows of .npy and .npz are of.")
]


def rerank(
    directory: Directory,
    shortlists: ShortlistsArgument,
    out: Annotated[
        Path | None, typer.Option(help="Write the re-ranked lists here, in the format of its ending.")
    ] = None,
    names: NamesOption = None,
    queries: QueriesOption = None,
    distances: DistancesOption = False,
    top_n: TopNOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="Only so many first places matter: stop a query when they cannot change (needs a cap)."),
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Time for each query.")] = None,
    expand: ExpandOption = False,
    graph: GraphOption = False,
    confirm: ConfirmOption = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File that keeps finished queries: the same command goes on from there.")
    ] = None,
    max_pixels: MaxPixelsOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Re-rank the shortlists of any global search by geometric verification.

    Queries are ids of the engine or image files, candidates are ids of the engine.
    """
    from delf_engine.engine import Engine, SearchResult
    from delf_engine.reranking.shortlists import check_rankings_file, write_rankings

    rows = _ids(names)
    if out:
        check_rankings_file(out, rows)
    lists = _read(shortlists, rows, queries, distances)
    with Engine.open(directory, readonly=True) as engine:
        if max_pixels:
            engine.extractor.max_pixels = max_pixels
        done = _reranked(
            engine,
            lists,
            quiet=as_json,
            top_n=top_n,
            top_k=top_k,
            seconds=seconds,
            expand=expand,
            graph=graph,
            confirm=confirm,
            checkpoint=checkpoint,
            seed=seed,
            workers=workers,
        )
    if out:
        write_rankings(out, done.rankings, names=rows)
    if as_json:
        values = {
            name: [hit.to_dict(with_verification=False) for hit in hits] for name, hits in done.rankings.items()
        }
        print_json({"rankings": values, "failed": done.failed})
    elif out:
        say(f"{len(done.rankings)} shortlists re-ranked; wrote {out}")
    else:
        for name, hits in done.rankings.items():
            print_hits(SearchResult(name, tuple(hits)))
    if done.failed:
        raise typer.Exit(1)


def report(
    directory: Directory,
    shortlists: ShortlistsArgument,
    out: Annotated[Path, typer.Option(metavar="HTML", help="The page to write.")],
    names: NamesOption = None,
    query_names: Annotated[Path | None, typer.Option(help="As --queries of rerank.")] = None,
    distances: DistancesOption = False,
    top_n: TopNOption = None,
    queries: Annotated[int, typer.Option(min=1, help="Queries to show: the first ones of the file.")] = 20,
    shown: Annotated[int, typer.Option(min=1, help="Images of each shortlist to show, before and after.")] = 8,
    lines: Annotated[int, typer.Option(min=0, help="Pictures of inliers to show for each query.")] = 2,
    all_queries: Annotated[
        bool, typer.Option("--all", help="Verify the shortlists too that are not shown, and count them.")
    ] = False,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Re-ranked shortlists",
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Re-rank shortlists and write a page about them: pictures before and after, inliers, moves.

    Queries are ids of the engine or image files, candidates are ids of the engine; photographs are read from the
    files that they were added from. The page is one HTML file that needs nothing else.
    """
    from delf_engine.engine import Engine
    from delf_engine.plotting.report import check_path, write_report

    check_path(out)  # before minutes of work
    lists = _read(shortlists, _ids(names), query_names, distances)
    taken = lists if all_queries else dict(list(lists.items())[:queries])
    with Engine.open(directory, readonly=True, root=root) as engine:
        done = _reranked(engine, taken, quiet=as_json, top_n=top_n, seed=seed, workers=workers)
        written = write_report(
            out,
            done.rankings,
            images=engine.path_of,
            query_features=done.features,
            features=engine.store.get,
            failed=done.failed,
            title=title,
            max_queries=queries,
            shown=shown,
            lines=lines,
        )
    if as_json:
        print_json({"out": str(out), **vars(written), "in_file": len(lists), "failed": done.failed})
    else:
        say(f"{written.queries} of {len(lists)} shortlists shown; wrote {out}, {written.bytes:,} bytes")
    if done.failed:
        raise typer.Exit(1)


def _ids(path: Path | None) -> list[str] | None:
    return None if path is None else read_ids(path)


def _read(
    shortlists: Path, names: list[str] | None, queries: Path | None, distances: bool
) -> dict[str, Shortlist]:
    from delf_engine.reranking import read_shortlists

    return dict(read_shortlists(shortlists, names=names, queries=_ids(queries), distances=distances))


def _reranked(engine: Engine, lists: dict[str, Shortlist], *, quiet: bool, **options: Any) -> RerankedBatch:
    with staged_progress(quiet=quiet) as progress:
        done = engine.rerank_many(lists, progress=progress, **options)
    print_failures((f"query {name}", reason) for name, reason in done.failed.items())
    return done
