"""The page of a benchmark run: its figures, the queries behind them, inliers, time and memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from delf_engine.errors import ConfigError
from delf_engine.plotting.report.batch import Written
from delf_engine.plotting.report.benchmark_charts import CHART_STYLE, bars_html, histogram_html
from delf_engine.plotting.report.benchmark_parsing import parse_result
from delf_engine.plotting.report.benchmark_queries import QUERY_STYLE, Shown, query_html, worst_queries
from delf_engine.plotting.report.benchmark_result import BenchmarkResult
from delf_engine.plotting.report.benchmark_stages import STAGE_STYLE, stages_html
from delf_engine.plotting.report.benchmark_tables import (
    caption,
    differences_table,
    lined_html,
    methods_table,
    precision_table,
    quoted_table,
    summary_lines,
)
from delf_engine.plotting.report.benchmark_words import QUOTED, UNITS, restriction
from delf_engine.plotting.report.evidence import counted
from delf_engine.plotting.report.markup import check_path, definitions, document, table, text, write_page
from delf_engine.plotting.report.pictures import Images, Photographs

__all__ = ["write_benchmark_report"]

_STYLE = """
.alarm{border:3px solid var(--wrong);border-radius:6px;padding:.6rem .9rem;margin:.8rem 0}
.quoted{border:2px dashed var(--rule);border-radius:6px;padding:.4rem .9rem;margin:1.4rem 0;font-style:italic}
.quoted h3{margin-top:.3rem}
.lined th,.lined td{overflow-wrap:break-word}
.lined td:first-child,.lined th:first-child{position:sticky;left:0;background:var(--page)}
""".strip()

_NAMED = 500  # missing images that are listed


def write_benchmark_report(
    path: str | os.PathLike[str],
    result: Mapping[str, Any],
    *,
    images: Images = None,
    max_queries: int = 10,
    max_bytes: int = 24_000_000,
) -> Written:
    """Write a page about a benchmark run: one HTML file that needs nothing else.

    It holds the figures of every method with their intervals, quoted ones set apart, a bar for each query, the
    queries that the best method is worst at with the first images of their rankings, histograms of inliers, time
    and memory of each stage, and the configuration.

    Parameters
    ----------
    path : path
        Ending in .html; a file that is there is replaced as a whole.
    result : mapping
        Plain values as they are written as JSON. ``title``, ``dataset`` (name, queries, images) and ``methods``
        (name and setups of each) must be there; all else may be missing or None. Figures are in per cent. Keys
        that the page does not know are passed over. Where the first positive came that ``details`` no longer
        hold, ``missed`` may say: method, set-up, query, then ``id`` and ``rank`` (None: not in the ranking).
    images : mapping or function from id to path, bytes, PIL image or array; or None
        Photographs of queries and gallery; one that is gone or damaged is named in its place. None: no
        photographs.
    max_queries : int
        Queries shown with their rankings.
    max_bytes : int
        No further query is added that would make this part of the page larger.

    Returns
    -------
    Written
        The queries shown with their rankings, of those that have an average precision.

    Raises
    ------
    FormatError
        If a key of `result` is missing or holds something else than it should. It names the key.
    ConfigError
        If the name does not end in .html, a number is negative, or the file cannot be written.
    """
    target = check_path(path)
    for name, value in (("max_queries", max_queries), ("max_bytes", max_bytes)):
        if value < 0:
            raise ConfigError(f"{name} must be at least 0, got {value}")
    read = parse_result(result)
    shown = _shown(read, None if images is None else Photographs(images))
    worst = [] if shown is None else worst_queries(shown.method, shown.setup, max_queries)
    sections: list[str] = []
    size = 0
    for number, query in enumerate(worst, start=1):
        section = query_html(number, query, shown) if shown else ""
        size += len(section.encode("utf-8"))
        if size > max_bytes:
            break
        sections.append(section)
    body = [
        f"<h1>{text(read.heading)}</h1>",
        _restricted(read),
        definitions(summary_lines(read)),
        *_figures(read),
        *_notes(read),
        *_bars(read, shown, worst[: len(sections)]),
        *_worst(shown, sections, len(worst)),
        *_inliers(read, shown),
        *stages_html(read),
        _configuration(read),
    ]
    rated = 0 if shown is None else len(worst_queries(shown.method, shown.setup, len(_ap(shown))))
    style = f"{CHART_STYLE}{QUERY_STYLE}{STAGE_STYLE}{_STYLE}"
    page = document(read.heading, filter(None, body), style=style)
    return Written(len(sections), rated, write_page(target, page))


def _shown(read: BenchmarkResult, photographs: Photographs | None) -> Shown | None:
    setup = read.main_setup
    best = None if setup is None else read.best(setup)
    return None if setup is None or best is None else Shown(read, best, setup, photographs)


def _ap(shown: Shown) -> Mapping[str, float | None]:
    return shown.method.average_precision(shown.setup)


def _restricted(read: BenchmarkResult) -> str:
    if not read.dataset.restricted:
        return ""
    sentence, *names = restriction(read.dataset)
    more = f"<p>And {len(names) - _NAMED:,} more.</p>" if len(names) > _NAMED else ""
    listed = f"<p>{text(', '.join(names[:_NAMED]))}</p>{more}"
    head, _, rest = sentence.partition(": ")
    return (
        f'<div class="alarm"><p><b class="bad">⚠ {text(head)}</b>: {text(rest)}</p>'
        f"<details><summary>What was missing</summary>{listed}</details></div>"
    )


def _figures(read: BenchmarkResult) -> list[str]:
    parts = ["<h2>Mean average precision</h2>"]
    methods = methods_table(read)
    if not methods:
        parts.append("<p>No method was measured.</p>")
    else:
        parts += [lined_html(methods), f'<p class="quiet">{text(UNITS)} Bold: the highest of a column.</p>']
    if changes := differences_table(read):
        said = (
            "Difference in percentage points over the same queries. Where the interval holds 0, this run shows "
            "no difference."
        )
        parts += ["<h3>What re-ranking changes</h3>", lined_html(changes), f'<p class="quiet">{said}</p>']
    if precision := precision_table(read):
        parts += ["<h3>Mean precision among the first</h3>", lined_html(precision)]
    if quoted := quoted_table(read):
        head = f"<h3>Quoted from publications</h3><p>{text(QUOTED)}</p>"
        parts.append(f'<div class="quoted">{head}{lined_html(quoted)}</div>')
    return parts


def _notes(read: BenchmarkResult) -> list[str]:
    if not read.notes:
        return []
    return ["<h2>Notes</h2>", *(f'<p class="note">{text(note)}</p>' for note in read.notes)]


def _bars(read: BenchmarkResult, shown: Shown | None, linked: list[str]) -> list[str]:
    """Return the bars of every set-up, those of the main one open."""
    if shown is None:
        return []
    parent = read.parent_of(shown.method)
    key = f'<span class="key"></span>{text(shown.method.name)}'
    if parent is not None:
        key += f', <span class="key outlined"></span>{text(parent.name)}; ▲ ▼: the difference'
    links = {query: f"q{i}" for i, query in enumerate(linked, start=1)}
    parts = [
        f"<h2>Every query: average precision, {text(caption(shown.setup))}</h2>",
        f'<p class="quiet">{key}. Bars go from 0 to 100 per cent, the lowest first.</p>',
    ]
    for setup in sorted(read.setups, key=lambda name: name != shown.setup):
        before = None if parent is None else parent.average_precision(setup)
        own = shown.method.average_precision(setup)
        bars = bars_html(own, before, links if setup == shown.setup else {}) if own else "<p>No query has one.</p>"
        folded = f"<details><summary>{text(caption(setup))}</summary>{bars}</details>"
        parts.append(bars if setup == shown.setup else folded)
    return parts


def _worst(shown: Shown | None, sections: list[str], wanted: int) -> list[str]:
    if shown is None or not wanted:
        return []
    title = f"<h2>The lowest queries of {text(shown.method.name)}, {text(caption(shown.setup))}</h2>"
    frames = (
        "Frames: ✓ green and solid, a positive; ✗ red and dashed, a negative; ○ grey and dotted, an image that "
        "does not count for or against, but has a place in the lists."
    )
    without = "" if shown.photographs else '<p class="note">No photographs were given, so none are shown.</p>'
    cut = (
        f'<p class="note">Shown here: {len(sections)} of {wanted}; more would make the page too large.</p>'
        if len(sections) < wanted
        else ""
    )
    return [title, f'<p class="quiet">{frames}</p>', without, cut, *sections]


def _inliers(read: BenchmarkResult, shown: Shown | None) -> list[str]:
    """Return histograms, that of the best method first and open."""
    if not read.inliers:
        return []
    first = (
        shown.method.name if shown is not None and shown.method.name in read.inliers else next(iter(read.inliers))
    )
    scale = (
        "Pairs of a query and an image by their inliers, on a logarithmic scale: positives upwards, negatives "
        "downwards. The first column is 0 inliers; columns grow wider to the right."
    )
    parts = ["<h2>Inliers of positives and negatives</h2>", f'<p class="quiet">{scale}</p>']
    for name in sorted(read.inliers, key=lambda each: each != first):
        positives, negatives = read.inliers[name]
        drawn = histogram_html(positives, negatives, read.threshold) + _decided(
            positives, negatives, read.threshold
        )
        folded = f"<details><summary>{text(name)}</summary>{drawn}</details>"
        parts.append(f"<h3>{text(name)}</h3>{drawn}" if name == first else folded)
    return parts


def _decided(positives: Counter[int], negatives: Counter[int], threshold: int | None) -> str:
    """Return how many pairs of each kind there are and reach the threshold."""
    words = []
    for kind, counts in (("positive", positives), ("negative", negatives)):
        total = counts.total()
        said = counted(total, f"{kind} pair")
        if total and threshold is not None:
            reached = sum(pairs for count, pairs in counts.items() if count >= threshold)
            said += f", {reached:,} of them ({100 * reached / total:.2f} %) with {threshold} inliers or more"
        words.append(said)
    line = "" if threshold is None else f" Dashed line: {threshold} inliers, from which on it is the same place."
    return f"<p>{'; '.join(words)}.{line}</p>"


def _configuration(read: BenchmarkResult) -> str:
    if not read.configuration:
        return ""
    listed = table((), read.configuration)
    return f"<h2>Configuration</h2><details><summary>All values</summary>{listed}</details>"
