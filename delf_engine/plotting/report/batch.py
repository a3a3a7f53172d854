"""The page of a re-ranked batch: every query with its shortlist before and after, and the best pairs' inliers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from delf_engine.errors import ConfigError, DelfEngineError, UnknownIdError
from delf_engine.plotting.matches import draw_matches
from delf_engine.plotting.moves import Move
from delf_engine.plotting.report.evidence import counted, extra, percent
from delf_engine.plotting.report.markup import (
    check_path,
    document,
    move_html,
    short_name,
    table,
    text,
    write_page,
)
from delf_engine.plotting.report.pictures import Images, Photographs, figure_html

if TYPE_CHECKING:
    from delf_engine.features import LocalFeatures
    from delf_engine.reranking import RankedCandidate

__all__ = ["Written", "write_report"]

#: Features of an image by its id; None or an unknown id: there are none.
Features: TypeAlias = "Mapping[str, LocalFeatures] | Callable[[str], LocalFeatures | None] | None"
Truth: TypeAlias = Mapping[str, Mapping[str, bool | None]]

_LINES_HEIGHT = 320  # of the photographs in a picture of inliers, in pixels
_ROWS = 100  # of the table of a ranking
_FAILED = 100  # queries named that could not be read


@dataclass(frozen=True)
class Written:
    """What a page holds.

    Attributes
    ----------
    queries : int
        Shown on the page.
    of : int
        Queries there were.
    bytes : int
        Size of the file.
    """

    queries: int
    of: int
    bytes: int


@dataclass(frozen=True)
class _Options:
    photographs: Photographs
    query_features: Features
    features: Features
    truth: Truth | None
    probabilities: Mapping[str, Mapping[str, float]]
    shown: int
    lines: int


def write_report(
    path: str | os.PathLike[str],
    rankings: Mapping[str, Sequence[RankedCandidate]],
    *,
    images: Images = None,
    query_features: Features = None,
    features: Features = None,
    truth: Truth | None = None,
    probabilities: Mapping[str, Mapping[str, float]] | None = None,
    failed: Mapping[str, str] | None = None,
    title: str = "Re-ranked shortlists",
    max_queries: int = 20,
    shown: int = 8,
    lines: int = 2,
    max_bytes: int = 24_000_000,
) -> Written:
    """Write a page about re-ranked shortlists: one HTML file that needs nothing else.

    For every query: its photograph, the first images before and after re-ranking with their inliers, probability
    and moves, pictures of the best pairs with lines between the features that agree, and a table. A photograph
    that is gone, damaged or of another size than its features is named in its place.

    Parameters
    ----------
    path : path
        Ending in .html; a file that is there is replaced as a whole.
    rankings : mapping of query id to sequence of RankedCandidate
        As `rerank_batch` returns them.
    images : mapping or function from id to path, bytes, PIL image or array; or None
        Photographs of queries and candidates; a function may raise `ImageError`. None: ids are paths.
    query_features, features : mapping or function from id to LocalFeatures; or None
        Of the queries and of the candidates, those that were verified; without them no lines are drawn.
    truth : mapping of query id to mapping of id to bool or None, optional
        The right answers: frames are then green for True, red for False, grey where there is none.
    probabilities : mapping of query id to mapping of id to float, optional
        Of showing the same place, 0 to 1. Without it each verification's own ``probability`` is taken, if it has
        one.
    failed : mapping of query id to reason, optional
        Queries that could not be re-ranked; they are listed.
    title : str
    max_queries : int
        Shown at most, the first ones; the page says how many there were.
    shown : int
        Images of each shortlist, before and after.
    lines : int
        Pictures of pairs for each query, at most.
    max_bytes : int
        No further query is added that would make the queries' part of the page larger than this.

    Returns
    -------
    Written

    Raises
    ------
    ConfigError
        If the name does not end in .html, a number is out of range, or the file cannot be written.
    """
    target = check_path(path)
    for name, value, least in (
        ("max_queries", max_queries, 0),
        ("shown", shown, 1),
        ("lines", lines, 0),
        ("max_bytes", max_bytes, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}")
    options = _Options(
        Photographs(images), query_features, features, truth, probabilities or {}, shown=shown, lines=lines
    )
    sections: list[str] = []
    size = 0
    full = False
    for number, (query, ranking) in enumerate(rankings.items(), start=1):
        if number > max_queries:
            break
        section = _section(number, query, ranking, options)
        size += len(section.encode("utf-8"))
        full = size > max_bytes
        if full:
            break
        sections.append(section)
    names = list(rankings)[: len(sections)]
    body = [
        f"<h1>{text(title)}</h1>",
        _summary(rankings, truth),
        _left_out(len(sections), len(rankings), full),
        _failures(failed or {}),
        _contents(names),
        *sections,
    ]
    return Written(len(sections), len(rankings), write_page(target, document(title, filter(None, body))))


def _summary(rankings: Mapping[str, Sequence[RankedCandidate]], truth: Truth | None) -> str:
    verified = [c.verification for ranking in rankings.values() for c in ranking if c.verification is not None]
    changed = sum(bool(ranking) and ranking[0].first_rank != 1 for ranking in rankings.values())
    same = sum(found.same for found in verified)
    frames = (
        "Green edge: said to show the same place."
        if truth is None
        else "Green edge: shows the place of the query; red: does not; grey: not known."
    )
    return (
        f"<p>{counted(len(rankings), 'shortlist')}, {counted(len(verified), 'pair')} verified, {same:,} of them "
        f"said to show the same place. The first place changed in {changed:,}.</p>"
        f'<p class="quiet">{frames} Lists run to the right.</p>'
    )


def _left_out(shown: int, of: int, full: bool) -> str:
    if shown == of:
        return ""
    why = "more would make the page too large" if full else "that many were asked for"
    return f'<p class="note">Shown here: the first {shown:,} of {of:,} queries; {why}.</p>'


def _failures(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    rows = list(failed.items())
    more = "" if len(rows) <= _FAILED else f"<p>And {len(rows) - _FAILED:,} more.</p>"
    head = f"{len(rows):,} {'query' if len(rows) == 1 else 'queries'} not re-ranked"
    listed = table(("query", "reason"), rows[:_FAILED])
    return f'<details class="note"><summary>{head}</summary>{listed}{more}</details>'


def _contents(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    links = " · ".join(f'<a href="#q{i}">{text(short_name(name))}</a>' for i, name in enumerate(names, start=1))
    return f'<details><summary>Queries on this page</summary><p class="quiet">{links}</p></details>'


def _section(number: int, query: str, ranking: Sequence[RankedCandidate], options: _Options) -> str:
    """Return the part of one query."""
    before = sorted(ranking, key=lambda c: c.first_rank)[: options.shown]
    after = ranking[: options.shown]
    of = counted(len(ranking), "image")
    parts = [
        f'<section id="q{number}"><h2>{number}. {text(short_name(query))}</h2>',
        f'<ul class="strip"><li class="card"><div class="photo">{options.photographs.thumbnail(query)}</div>'
        f"<p>query</p></li></ul>",
        f'<h3>Before: the first {len(before)} of {of}</h3><ul class="strip">',
        *(_card(query, c, options, after=False) for c in before),
        f'</ul><h3>After: the first {len(after)} of {of}</h3><ul class="strip">',
        *(_card(query, c, options, after=True) for c in after),
        "</ul>",
        *_pairs(query, ranking, options),
        _table(query, ranking, options),
        "</section>",
    ]
    return "\n".join(parts)


def _card(query: str, candidate: RankedCandidate, options: _Options, *, after: bool) -> str:
    place = candidate.rank if after else candidate.first_rank
    move = Move(candidate.first_rank, candidate.rank)
    lines = [f'<b>{place}.</b> <span title="{text(candidate.id)}">{text(short_name(candidate.id))}</span>']
    if after:
        lines.append(f"{_inliers(candidate)} · {move_html(str(move), move.rise)}")
        probability = _probability(query, candidate, options)
        if probability is not None:
            lines.append(f"probability {percent(probability)}")
    else:
        lines.append(f'<span class="quiet">goes to {candidate.rank}</span>')
    kind, said = _answer(query, candidate, options.truth)
    if said:
        lines.append(said)
    body = "".join(f"<p>{line}</p>" for line in lines)
    photo = options.photographs.thumbnail(candidate.id)
    return f'<li class="card {kind}"><div class="photo">{photo}</div>{body}</li>'


def _answer(query: str, candidate: RankedCandidate, truth: Truth | None) -> tuple[str, str]:
    """Return the kind of a card's frame, and its words: colour alone says nothing to some readers."""
    if truth is not None:
        right = truth.get(query, {}).get(candidate.id)
        if right is None:
            return "", '<span class="quiet">not known</span>'
        return ("yes", '<span class="same">right</span>') if right else ("wrong", '<span class="bad">wrong</span>')
    if candidate.verification is None:
        return "", ""
    if candidate.verification.same:
        return "yes", '<span class="same">same place</span>'
    return "", '<span class="other">not the same place</span>'


def _inliers(candidate: RankedCandidate) -> str:
    return "not verified" if candidate.inliers is None else counted(candidate.inliers, "inlier")


def _probability(query: str, candidate: RankedCandidate, options: _Options) -> float | None:
    given = options.probabilities.get(query, {}).get(candidate.id)
    return extra(candidate.verification, "probability") if given is None else given


def _pairs(query: str, ranking: Sequence[RankedCandidate], options: _Options) -> list[str]:
    """Return pictures of the first verified candidates, or what stands in their way."""
    a = _features_of(options.query_features, query)
    if a is None:
        return []
    out = []
    for candidate in [c for c in ranking if c.verification is not None][: options.lines]:
        b = _features_of(options.features, candidate.id)
        if b is None or candidate.verification is None:
            continue
        name = f"{candidate.rank}. {short_name(candidate.id)}"
        try:
            source_a, source_b = options.photographs.source(query), options.photographs.source(candidate.id)
            figure = draw_matches(
                source_a, source_b, a, b, candidate.verification, height=_LINES_HEIGHT, caption=False
            )
        except DelfEngineError as error:  # a photograph that has changed since, or features of another run
            out.append(f'<p class="quiet">{text(name)}: no picture of the inliers: {text(error)}</p>')
            continue
        out.append(figure_html(figure, f"features that agree: {name}", f"{name}: {_inliers(candidate)}"))
    return [f"<h3>Features that agree, query to the left</h3>{''.join(out)}"] if out else []


def _features_of(features: Features, image_id: str) -> LocalFeatures | None:
    if features is None:
        return None
    try:
        return features(image_id) if callable(features) else features.get(image_id)
    except (KeyError, UnknownIdError):
        return None


def _table(query: str, ranking: Sequence[RankedCandidate], options: _Options) -> str:
    """Return the figures of the first candidates, folded away."""
    shown = ranking[:_ROWS]
    stated = [_probability(query, c, options) for c in shown]
    by_inliers = all(c.ranking_score == c.inliers for c in shown)  # then a second column would say nothing more
    columns = ["rank", "was", "inliers", "ranking score", "first score", "probability", "image"]
    rows = [
        [
            str(c.rank),
            str(c.first_rank),
            "" if c.inliers is None else str(c.inliers),
            "" if by_inliers or c.ranking_score is None else f"{c.ranking_score:.2f}",
            "" if c.score is None else f"{c.score:.4g}",
            "" if p is None else percent(p),
            c.id,
        ]
        for c, p in zip(shown, stated, strict=True)
    ]
    used = [i for i in range(len(columns)) if i in (0, 1, 6) or any(row[i] for row in rows)]
    head = f"Figures of {'the first ' if len(shown) < len(ranking) else ''}{counted(len(shown), 'image')}"
    picked = table(
        [columns[i] for i in used], ([row[i] for i in used] for row in rows), numbers=range(len(used) - 1)
    )
    return f"<details><summary>{head}</summary><p>Query: {text(query)}</p>{picked}</details>"
