"""The command that measures rankings against a ground truth, and against those of another system."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delf_engine.cli.console import console, harmless, print_json, say
from delf_engine.cli.options import DistancesOption, JsonOption, read_ids
from delf_engine.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from delf_engine.evaluation import Comparison, Evaluation
    from delf_engine.evaluation.protocols import Measured, Protocol

_WORDS = {"first is better": "better than the baseline", "second is better": "worse than the baseline"}


def evaluate(
    rankings: Annotated[
        Path,
        typer.Argument(help="Rankings of any system: .jsonl, .csv, TREC .run, .txt, .npy or .npz; submissions."),
    ],
    ground_truth: Annotated[
        Path, typer.Option(help="gnd_*.pkl, a solution of Google Landmarks, or a folder of classes.")
    ],
    protocol: Annotated[str, typer.Option(help="One of revisited, gldv2-retrieval, classes.")] = "revisited",
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
    distances: DistancesOption = False,
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
    from delf_engine.evaluation.protocols import compare, load_protocol, measure

    loaded = load_protocol(protocol, ground_truth, query_folder=query_folder)
    if not loaded.of_a_gallery and (columns or allow_missing or names or queries):
        raise ConfigError(
            "--columns, --names, --queries and --allow-missing are of other protocols; "
            "a query of Google Landmarks without a prediction counts 0"
        )
    rows = None if names is None else read_ids(names), None if queries is None else read_ids(queries)
    files = (rankings,) if baseline is None else (rankings, baseline)
    read = [_read(path, loaded, *rows, columns=columns, distances=distances) for path in files]
    found = measure(loaded, read, allow_missing=allow_missing)
    first, second = found.systems[0], found.systems[-1] if baseline is not None else None
    compared = [
        (one, compare(one, other, samples=samples)) for one, other in zip(first, second or (), strict=False)
    ]
    differences = {one.name: each for one, each in compared if each is not None}
    if as_json:
        print_json(_values(protocol, found, differences, per_query))
        return
    if found.left_out:
        left_out = ", ".join(found.left_out[:5]) + (", ..." if len(found.left_out) > 5 else "")
        say(f"left out, without a ranking: {left_out}", error=True)
    _print_figures(found)
    for name, each in differences.items():
        say(f"{name.capitalize()}: {each}: {_words(each)}")
    if per_query:
        for i, one in enumerate(first):
            _print_queries(one, second[i] if second else None)


def _read(
    path: Path,
    protocol: Protocol,
    names: list[str] | None,
    queries: list[str] | None,
    *,
    columns: bool,
    distances: bool,
) -> Mapping[str, Any]:
    """Return the rankings of a file by query; rows of an array without names are those of the ground truth."""
    from delf_engine.evaluation import rankings_from_ranks
    from delf_engine.reranking import read_shortlists
    from delf_engine.reranking.array_files import ARRAY_ENDINGS, read_arrays

    submitted = protocol.read_submission(path)
    if submitted is not None:
        return submitted
    if not protocol.of_a_gallery:
        return read_shortlists(path, distinct=True, distances=distances)
    if path.suffix.lower() not in ARRAY_ENDINGS:
        if columns:
            raise ConfigError(f"{path}: --columns is for files of arrays: {', '.join(ARRAY_ENDINGS)}")
        return read_shortlists(path, names=names, queries=queries, distinct=True, distances=distances)
    arrays = read_arrays(path)
    ranks = arrays.get("ids") if columns else arrays.get("ranks")
    rows = arrays.get("ids") if ranks is None else ranks
    whole = {"scores", "distances", "names", "queries"}.isdisjoint(arrays)
    if names is None and whole and rows is not None and rows.ndim == 2 and rows.dtype.kind in "iu":
        asked = protocol.query_names if queries is None else queries
        rows = rows if ranks is None else rankings_from_ranks(ranks, queries=len(asked))
        if len(rows) != len(asked):
            hint = "; is it one column a query? Then say --columns" if rows.shape[1] == len(asked) else ""
            raise FormatError(f"{path}: {len(rows)} rows for {len(asked)} queries{hint}")
        # May be long lists: they stay row numbers, without the -1 that means no result.
        return dict(zip(asked, (row[row != -1] if (row == -1).any() else row for row in rows), strict=True))
    if columns:
        raise ConfigError(f"{path}: --columns is for row numbers of the ground truth, without names or scores")
    return read_shortlists(
        path,
        names=protocol.names if names is None and "names" not in arrays else names,
        queries=protocol.query_names if queries is None and "queries" not in arrays else queries,
        distinct=True,
        distances=distances,
    )


def _values(
    protocol: str, found: Measured, differences: Mapping[str, Comparison], per_query: bool
) -> dict[str, Any]:
    from delf_engine.evaluation.protocols import query_rows

    out: dict[str, Any] = {"protocol": protocol, "title": found.title, "left_out": found.left_out}
    for name, system in zip(("results", "baseline"), found.systems, strict=False):
        out[name] = {
            one.name.capitalize(): {
                "queries": one.evaluated,
                **{figure: None if math.isnan(value) else value for figure, value in one.figures.items()},
            }
            for one in system
        }
    compared = len(found.systems) > 1
    if compared:
        out["differences"] = {
            name.capitalize(): each.to_dict() | {"verdict": _words(each)} for name, each in differences.items()
        }
    if per_query:
        out["per_query"] = {}
        for one, *other in zip(*found.systems, strict=True):
            rows = [
                {"query": row.query, "positives": row.positives, "value": row.value}
                | ({"baseline": row.other, "difference": row.difference} if compared else {})
                for row in query_rows(one, *other)
            ]
            out["per_query"][one.name.capitalize()] = rows
    return out


def _words(comparison: Comparison) -> str:
    return _WORDS.get(comparison.verdict, comparison.verdict)


def _print_figures(found: Measured) -> None:
    from rich.table import Table

    say(found.title)
    table = Table()
    table.add_column("")
    table.add_column("queries", justify="right")
    for name in found.systems[0][0].figures if found.systems[0] else ():
        table.add_column(name, justify="right")
    for one, *others in zip(*found.systems, strict=True):
        table.add_row(one.name.capitalize(), str(one.evaluated), *map(_figure, one.figures.values()))
        for other in others:
            table.add_row("  baseline", str(other.evaluated), *map(_figure, other.figures.values()))
    console().print(table)


def _print_queries(one: Evaluation, baseline: Evaluation | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from delf_engine.evaluation.protocols import query_rows

    table = Table(title=f"{one.name.capitalize()}, by query", title_justify="left")
    table.add_column("query", overflow="fold")
    figure = next(iter(one.figures)).replace("mAP", "AP")
    for name in ("positives", figure, *(() if baseline is None else ("baseline", "difference"))):
        table.add_column(name, justify="right")
    for row in query_rows(one, baseline):
        compared = () if baseline is None else (f"{row.other:.2f}", f"{row.difference:+.2f}")
        table.add_row(escape(harmless(row.query)), str(row.positives), f"{row.value:.2f}", *compared)
    console().print(table)


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
