"""The command that measures rankings against a ground truth, and against those of another system."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import console, error_console, print_json, say
from delf_engine.cli.options import JsonOption, read_ids
from delf_engine.cli.protocols import PROTOCOLS, Measured, Request, Run, run_protocol

if TYPE_CHECKING:
    from delf_engine.evaluation import Comparison, QueryDifference

__all__ = ["register"]

_WORDS = {"first is better": "better than the baseline", "second is better": "worse than the baseline"}


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command()(evaluate)


def evaluate(
    rankings: Annotated[
        Path,
        typer.Argument(help="Rankings of any system: .jsonl, .csv, TREC .run, .npy, .npz or .h5; submissions."),
    ],
    ground_truth: Annotated[
        Path, typer.Option(help="gnd_*.pkl, a solution of Google Landmarks, or a folder of classes.")
    ],
    protocol: Annotated[str, typer.Option(help=f"One of {', '.join(PROTOCOLS)}.")] = "revisited",
    baseline: Annotated[Path | None, typer.Option(help="Rankings of another system to compare with.")] = None,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="Every query by itself, the worst first.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out queries without a ranking, and say so.")
    ] = False,
    names: Annotated[
        Path | None,
        typer.Option(help="Text file of ids: what row numbers stand for. Default: the ground truth's."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Text file of queries: what rows are of. Default: the ground truth's.")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="Arrays hold one column a query, as published rank matrices do.")
    ] = False,
    query_folder: Annotated[
        Path | None, typer.Option(help="Folder of classes of the queries; for the protocol classes.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Resamples of the queries for the interval of a difference.")
    ] = 2000,
    as_json: JsonOption = False,
) -> None:
    """Measure rankings by a benchmark's protocol, and say whether they are better than others.

    Unknown images, doubled ones and scores that are NaN are refused. All figures are in per cent. The interval of
    a difference is that of a paired bootstrap over queries, at 95 %.
    """
    run = run_protocol(
        protocol,
        Request(
            files=(rankings,) if baseline is None else (rankings, baseline),
            ground_truth=ground_truth,
            names=None if names is None else read_ids(names),
            queries=None if queries is None else read_ids(queries),
            columns=columns,
            query_folder=query_folder,
            allow_missing=allow_missing,
        ),
    )
    differences = {} if baseline is None else _differences(run, samples)
    if as_json:
        print_json(_values(protocol, run, differences, per_query))
        return
    if run.left_out:
        left_out = ", ".join(run.left_out[:5]) + (", ..." if len(run.left_out) > 5 else "")
        error_console().print(f"left out, without a ranking: {left_out}", markup=False, soft_wrap=True)
    _print_figures(run)
    _print_differences(differences)
    if per_query:
        for i, measured in enumerate(run.measured[0]):
            _print_queries(measured, run.measured[1][i] if baseline is not None else None)


def _differences(run: Run, samples: int) -> dict[str, Comparison]:
    from delf_engine.evaluation import RecognitionFigures, paired_bootstrap, recognition_bootstrap

    first, second = run.measured
    out = {}
    for one, other in zip(first, second, strict=True):
        if one.queries == 0 or math.isnan(next(iter(one.figures.values()))):
            continue  # a set-up without a positive has nothing to compare
        if isinstance(one.whole, RecognitionFigures):
            out[one.name] = recognition_bootstrap(one.whole, other.whole, samples=samples)
        else:
            out[one.name] = paired_bootstrap(one.values, other.values, samples=samples)
    return out


def _rows(measured: Measured, baseline: Measured | None) -> list[QueryDifference]:
    from delf_engine.evaluation import query_differences

    # Without a baseline, the differences from nothing: sorted by the figure itself.
    other = measured.values * 0 if baseline is None else baseline.values
    return query_differences(measured.query_names, measured.values, other, positives=measured.positives)


def _values(protocol: str, run: Run, differences: dict[str, Comparison], per_query: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"protocol": protocol, "title": run.title, "left_out": run.left_out}
    for name, all_measured in zip(("results", "baseline"), run.measured, strict=False):
        out[name] = {
            each.name: {
                "queries": each.queries,
                **{figure: None if math.isnan(value) else value for figure, value in each.figures.items()},
            }
            for each in all_measured
        }
    if len(run.measured) > 1:
        out["differences"] = {
            name: each.to_dict() | {"verdict": _words(each)} for name, each in differences.items()
        }
    if per_query:
        others = run.measured[1] if len(run.measured) > 1 else [None] * len(run.measured[0])
        out["per_query"] = {
            each.name: [_query_values(row, other is not None) for row in _rows(each, other)]
            for each, other in zip(run.measured[0], others, strict=True)
        }
    return out


def _query_values(row: QueryDifference, compared: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"query": row.query, "positives": row.positives, "value": row.first}
    return out | {"baseline": row.second, "difference": row.difference} if compared else out


def _words(comparison: Comparison) -> str:
    return _WORDS.get(comparison.verdict, comparison.verdict)


def _print_figures(run: Run) -> None:
    from rich.table import Table

    say(run.title)
    table = Table()
    table.add_column("")
    table.add_column("queries", justify="right")
    for name in run.measured[0][0].figures if run.measured[0] else ():
        table.add_column(name, justify="right")
    for i, each in enumerate(run.measured[0]):
        table.add_row(each.name, str(each.queries), *map(_figure, each.figures.values()))
        for other in run.measured[1:]:
            table.add_row("  baseline", str(other[i].queries), *map(_figure, other[i].figures.values()))
    console().print(table)


def _print_differences(differences: dict[str, Comparison]) -> None:
    for name, each in differences.items():
        say(f"{name}: {each}: {_words(each)}")


def _print_queries(measured: Measured, baseline: Measured | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{measured.name}, by query", title_justify="left")
    table.add_column("query", overflow="fold")
    figure = next(iter(measured.figures)).replace("mAP", "AP")
    for name in ("positives", figure, *(() if baseline is None else ("baseline", "difference"))):
        table.add_column(name, justify="right")
    for row in _rows(measured, baseline):
        compared = () if baseline is None else (f"{row.second:.2f}", f"{row.difference:+.2f}")
        table.add_row(escape(row.query), str(row.positives), f"{row.first:.2f}", *compared)
    console().print(table)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
