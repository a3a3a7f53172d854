"""Charts of a benchmark's page, drawn as SVG inside it.

Lengths across are in per cent of the page's width and all others in pixels, so that a chart fits any width while
its letters keep their size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from delf_engine.plotting.report.evidence import counted
from delf_engine.plotting.report.markup import move_html, short_name, text

__all__ = ["CHART_STYLE", "Bin", "bars_html", "bins_of", "histogram_html", "part_svg"]

CHART_STYLE = """
:root{--first:#0969da;--second:#6e7781;--other-kind:#bc4c00}
@media(prefers-color-scheme:dark){:root{--first:#58a6ff;--second:#9198a1;--other-kind:#f0883e}}
svg{display:block;overflow:visible}svg text{fill:var(--quiet);font-size:11px}
.track{fill:var(--card)}.best,.positive{fill:var(--first)}.negative{fill:var(--other-kind)}
.parent{fill:none;stroke:var(--second);stroke-width:1.5}
.grid{stroke:var(--rule)}.limit{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3}
svg text.strong{fill:var(--ink);font-weight:600}
ol.bars{list-style:none;margin:.6rem 0;padding:0;columns:30rem 2;column-gap:2.5rem;font-size:.82rem}
ol.bars.few{columns:1}
ol.bars li{display:grid;grid-template-columns:minmax(0,12rem) minmax(0,1fr) 6.5rem;gap:.6rem;align-items:center;
break-inside:avoid;padding:.1rem 0}
ol.bars li.none{grid-template-columns:minmax(0,12rem) minmax(0,1fr)}
.bars .name{white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.bars .figure{font-variant-numeric:tabular-nums;white-space:nowrap;display:flex;justify-content:space-between}
.key{display:inline-block;vertical-align:middle;width:1.6rem;height:.6rem;margin:0 .3rem 0 0;
background:var(--first)}
.key.outlined{background:none;border:1.5px solid var(--second);height:.45rem}
.up,.down{white-space:nowrap}
.chart{display:grid;grid-template-columns:2.6rem minmax(0,1fr);margin:.6rem 0;max-width:56rem}
@media(max-width:40rem){ol.bars li{grid-template-columns:minmax(0,1fr) 6.5rem;gap:0 .6rem}
ol.bars li .name{grid-column:1/-1}ol.bars li.none{grid-template-columns:1fr}}
""".strip()

_BAR, _PARENT_BAR, _BETWEEN = 9, 4, 3  # heights in pixels: the two differ in shape, not by colour alone
_FEW = 15  # bars that stand in one column
_SHOWN = 240  # bars of one set-up
_HALF, _MIDDLE = 130, 24  # of a histogram, in pixels
_OPEN_END = 4096  # inliers: more go into the last bin
_LABELS = 10  # below a histogram
_LEAST = 0.3  # height of a single pair, in powers of ten: 1 must not look like 0


@dataclass(frozen=True)
class Bin:
    """Inlier counts from `first` to `last`, both in it; `last` is None for all above."""

    first: int
    last: int | None

    def __contains__(self, count: int) -> bool:
        return self.first <= count and (self.last is None or count <= self.last)

    def __str__(self) -> str:
        if self.last is None:
            return f"{self.first:,} or more"
        return f"{self.first:,}" if self.first == self.last else f"{self.first:,} to {self.last:,}"


def bars_html(
    own: Mapping[str, float | None], parent: Mapping[str, float | None] | None, links: Mapping[str, str]
) -> str:
    """Return bars of each query's average precision, the lowest first.

    Parameters
    ----------
    own : mapping of query to per cent, or None for a query without a positive
        Full bars; the order is theirs, equal ones by name.
    parent : mapping of query to per cent or None; or None
        Outlined bars below them.
    links : mapping of query to id of an element
        Queries that the page shows in full.
    """
    rated = sorted(((ap, query) for query, ap in own.items() if ap is not None))
    without = sorted(query for query, ap in own.items() if ap is None)
    rows = [_bar(query, ap, parent, links.get(query)) for ap, query in rated[:_SHOWN]]
    rows += [
        f'<li class="none">{_name(query, None)}<span class="quiet">no positive in this set-up: not in the mean'
        "</span></li>"
        for query in without[:_SHOWN]
    ]
    hidden = max(len(rated) - _SHOWN, 0) + max(len(without) - _SHOWN, 0)
    more = f'<p class="quiet">Not shown: {hidden:,} more, those with the highest figures.</p>' if hidden else ""
    return f'<ol class="bars{" few" if len(rows) <= _FEW else ""}">{"".join(rows)}</ol>{more}'


def _bar(query: str, ap: float, parent: Mapping[str, float | None] | None, link: str | None) -> str:
    height = _BAR if parent is None else _BAR + _BETWEEN + _PARENT_BAR
    shapes = [
        f'<rect class="track" x="0" y="0" width="100%" height="{_BAR}"/>',
        f'<rect class="best" x="0" y="0" width="{ap:.2f}%" height="{_BAR}"/>',
    ]
    change = ""
    before = None if parent is None else parent.get(query)
    if before is not None:
        shapes.append(
            f'<rect class="parent" x="0" y="{_BAR + _BETWEEN}" width="{before:.2f}%" height="{_PARENT_BAR}"/>'
        )
        change = change_html(ap - before)
    picture = f'<svg width="100%" height="{height}" aria-hidden="true">{"".join(shapes)}</svg>'
    return f'<li>{_name(query, link)}{picture}<span class="figure"><b>{ap:.1f}</b>{change}</span></li>'


def change_html(change: float) -> str:
    """Return a difference of two figures in percentage points, coloured and marked by its direction."""
    rounded = round(change, 1)
    if rounded == 0:
        return '<span class="quiet">= 0.0</span>'
    return move_html(f"{'▲' if rounded > 0 else '▼'} {abs(rounded):.1f}", 1 if rounded > 0 else -1)


def _name(query: str, link: str | None) -> str:
    shown = text(short_name(query))
    inside = shown if link is None else f'<a href="#{link}">{shown}</a>'
    return f'<span class="name" title="{text(query)}">{inside}</span>'


def part_svg(value: float, largest: float) -> str:
    """Return a bar for a part of the largest value of a column."""
    part = 100 * value / largest if largest > 0 else 0.0
    return (
        f'<svg width="100%" height="{_BAR}" aria-hidden="true">'
        f'<rect class="track" x="0" y="0" width="100%" height="{_BAR}"/>'
        f'<rect class="best" x="0" y="0" width="{part:.2f}%" height="{_BAR}"/></svg>'
    )


def bins_of(largest: int, threshold: int | None) -> list[Bin]:
    """Return bins for inlier counts up to `largest`: each count alone at first, then ever wider ones.

    No inliers at all is a bin of its own, and a threshold always begins one.
    """
    edges = [0]
    while edges[-1] <= min(largest, _OPEN_END):
        edges.append(max(edges[-1] + 1, round(edges[-1] * 2**0.25)))
    if threshold is not None and 0 < threshold < edges[-1]:
        nearest = min(range(len(edges) - 1), key=lambda i: abs(edges[i] - threshold))
        edges[nearest] = threshold  # moved, not added: a narrow column would look like a gap
    bins = [Bin(first, after - 1) for first, after in pairwise(edges)]
    if largest > _OPEN_END:
        bins[-1] = Bin(bins[-1].first, None)
    return bins


def histogram_html(positives: Counter[int], negatives: Counter[int], threshold: int | None) -> str:
    """Return a histogram of inlier counts: positives upwards, negatives downwards, on one logarithmic scale.

    Parameters
    ----------
    positives, negatives : Counter
        Number of pairs by their inliers.
    threshold : int or None
        From how many inliers on two photographs count as the same place.
    """
    bins = bins_of(max([*positives, *negatives, 0]), threshold)
    up, down = _binned(positives, bins), _binned(negatives, bins)
    most = max(*up, *down, 1)
    ticks = [10**power for power in range(int(math.log10(most)) + 1)]
    height = 2 * _HALF + _MIDDLE
    scale = "".join(
        f'<text x="2.3rem" y="{y:.1f}" text-anchor="end" dominant-baseline="middle">{tick:,}</text>'
        for tick in ticks
        for y in _both_ways(tick, most)
    )
    grid = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
        for tick in ticks
        for y in _both_ways(tick, most)
    )
    shapes = [
        _column(i, len(bins), _HALF - _height(count, most), _height(count, most), f"{bins[i]}", "positive", count)
        for i, count in enumerate(up)
    ] + [
        _column(i, len(bins), _HALF + _MIDDLE, _height(count, most), f"{bins[i]}", "negative", count)
        for i, count in enumerate(down)
    ]
    words = (
        f"inliers of {counted(positives.total(), 'positive pair')} and {counted(negatives.total(), 'negative')}"
    )
    return (
        f'<div class="chart"><svg width="100%" height="{height}" aria-hidden="true">{scale}</svg>'
        f'<svg width="100%" height="{height}" role="img" aria-label="{text(words)}">{grid}{"".join(shapes)}'
        f"{_labels(bins, threshold)}{_limit(bins, threshold, height)}"
        '<text class="strong" x="100%" y="12" text-anchor="end">positives ▲</text>'
        f'<text class="strong" x="100%" y="{height - 5}" text-anchor="end">negatives ▼</text></svg></div>'
    )


def _binned(counts: Counter[int], bins: Sequence[Bin]) -> list[int]:
    return [sum(pairs for count, pairs in counts.items() if count in each) for each in bins]


def _height(count: int, most: int) -> float:
    if count == 0:
        return 0.0
    return (_HALF - 16) * (math.log10(count) + _LEAST) / (math.log10(most) + _LEAST)


def _both_ways(tick: int, most: int) -> tuple[float, float]:
    return _HALF - _height(tick, most), _HALF + _MIDDLE + _height(tick, most)


def _column(i: int, of: int, y: float, height: float, what: str, kind: str, count: int) -> str:
    if count == 0:
        return ""
    said = f"{what} inliers: {counted(count, f'{kind} pair')}"
    return (
        f'<rect class="{kind}" x="{100 * (i + 0.08) / of:.2f}%" y="{y:.1f}" width="{84 / of:.2f}%" '
        f'height="{height:.1f}"><title>{text(said)}</title></rect>'
    )


def _labels(bins: Sequence[Bin], threshold: int | None) -> str:
    every = -(-len(bins) // _LABELS)
    shown = set(range(0, len(bins), every))
    at = next((i for i, each in enumerate(bins) if each.first == threshold), None)
    if at is not None:  # a threshold is always named, and what stands too near makes room
        shown = {i for i in shown if abs(i - at) >= max(every // 2 + 1, 1) or i == 0} | {at}
    out = []
    for i in sorted(shown):
        kind = ' class="strong"' if i == at else ""
        x = f"{100 * (i + 0.5) / len(bins):.2f}%"
        out.append(f'<text{kind} x="{x}" y="{_HALF + 16}" text-anchor="middle">{_short(bins[i])}</text>')
    return "".join(out)


def _short(part: Bin) -> str:
    return f"{part.first}+" if part.last is None else f"{part.first}"


def _limit(bins: Sequence[Bin], threshold: int | None, height: int) -> str:
    at = next((i for i, each in enumerate(bins) if each.first == threshold), None)
    if at is None:
        return ""
    x = f"{100 * at / len(bins):.2f}%"
    return "".join(  # not through its own label
        f'<line class="limit" x1="{x}" x2="{x}" y1="{top}" y2="{foot}"/>'
        for top, foot in ((0, _HALF + 2), (_HALF + _MIDDLE - 4, height))
    )
