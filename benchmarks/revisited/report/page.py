"""A benchmark run as a page and as Markdown: figures, the queries behind them, inliers, time and memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.revisited.report.histogram import histogram
from benchmarks.revisited.report.result import BenchmarkResult, Method, flat
from benchmarks.revisited.report.tables import summary, tables
from delf_engine.errors import ConfigError, ImageError
from delf_engine.plotting.report.page import (
    Images,
    Photographs,
    Picture,
    Written,
    check_path,
    jpeg_picture,
    page_templates,
    short_name,
    small_photo,
    write_page,
)

__all__ = ["markdown", "write_benchmark_page"]

_TEMPLATES = Path(__file__).parent / "templates"
_ASKED = 560  # pixels of the longer side of a query

# What Markdown or the HTML inside it would take for something else; an underscore inside a word it leaves alone.
_MARKED = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")
# At the beginning of a line: headings, lists, rules.
_BEGINS = re.compile(r"#|[-+](?=\s|$)|--|=|\d+(?=[.)](\s|$))")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def write_benchmark_page(
    path: str | os.PathLike[str], result: BenchmarkResult, *, images: Images = None, max_queries: int = 10
) -> Written:
    """Write a page about a benchmark run: one HTML file that needs nothing else.

    It holds the figures of every method with their intervals, quoted ones set apart, a bar for each query, the
    queries that the best method is worst at with the first images of their rankings, histograms of inliers, time
    and memory of each stage, and the configuration.

    Parameters
    ----------
    path : path
        Ending in .html; a file that is there is replaced as a whole.
    result : BenchmarkResult
    images : mapping or function from id to path, bytes, PIL image or array; or None
        Photographs of queries and gallery; one that is gone or damaged is named in its place. None: no
        photographs.
    max_queries : int
        Queries shown with their rankings, those with the lowest average precision.

    Returns
    -------
    Written
        The queries shown with their rankings, of those that have an average precision.

    Raises
    ------
    ConfigError
        If the name does not end in .html, the number is negative, or the file cannot be written.
    """
    target = check_path(path)
    if max_queries < 0:
        raise ConfigError(f"max_queries must be at least 0, got {max_queries}")
    best = result.best
    rated = [] if best is None else best.setups.medium.rated()
    photographs = None if images is None else Photographs(images)
    page = (
        page_templates(_TEMPLATES)
        .get_template("benchmark.html.j2")
        .render(
            title=result.title,
            result=result,
            summary=summary(result),
            best=best,
            parent=result.parent_of(best),
            queries=[] if best is None else [_query(q, result, best, photographs) for _, q in rated[:max_queries]],
            photographs=photographs is not None,
            histograms={
                name: histogram(found.positives, found.negatives, result.threshold)
                for name, found in sorted(
                    result.inliers.items(), key=lambda item: best is None or item[0] != best.name
                )
            },
            configuration=flat(result.configuration),
            **tables(result),
        )
    )
    return Written(min(max_queries, len(rated)), len(rated), write_page(target, page))


def markdown(result: BenchmarkResult) -> str:
    """Return a benchmark run as Markdown: its figures, quoted ones set apart, stages and notes.

    Names are only ever text in it; it ends in a line break.
    """
    templates = page_templates(_TEMPLATES).overlay(finalize=_escaped)
    return templates.get_template("benchmark.md.j2").render(
        title=result.title, result=result, summary=summary(result), **tables(result)
    )


def _escaped(value: object) -> object:
    """Return a text as one line that is nothing but text in Markdown, in a cell of a table too."""
    if isinstance(value, Markup):
        return value
    line = _BREAKS.sub(" ", str(value)).strip()
    marked = _MARKED.sub(lambda found: "\\" + found.group(), line)
    begins = _BEGINS.match(marked)
    if begins:
        place = begins.end() if begins.group().isdigit() else 0
        marked = f"{marked[:place]}\\{marked[place:]}"
    return Markup(marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _query(query: str, result: BenchmarkResult, method: Method, photographs: Photographs | None) -> dict[str, Any]:
    """Return what is shown of a query that a method is bad at."""
    parent = result.parent_of(method)
    ranking = result.details.get(method.name, {}).get("medium", {}).get(query, [])
    missed = result.missed.get(method.name, {}).get("medium", {}).get(query)
    shown = [found.id for found in ranking] + ([missed.id] if missed is not None else [])
    photo, size = (None, None) if photographs is None else _photo(photographs, query)
    return {
        "name": query,
        "average_precision": method.setups.medium.average_precision[query],
        "before": None if parent is None else parent.setups.medium.average_precision.get(query),
        "about": result.queries.get(query),
        "photo": photo,
        "size": size,
        "ranking": ranking,
        "missed": missed,
        "thumbnails": {} if photographs is None else {each: photographs.thumbnail(each) for each in shown},
    }


def _photo(photographs: Photographs, query: str) -> tuple[Picture, tuple[int, int] | None]:
    """Return a query's photograph and its (width, height), or why there is none."""
    try:
        photo, size = small_photo(photographs.source(query), _ASKED)
    except ImageError as error:
        return Picture(short_name(query), reason=error.reason), None
    return jpeg_picture(photo, short_name(query)), size
