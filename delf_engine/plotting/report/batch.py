"""The page of a re-ranked batch: every query with its shortlist before and after, and the best pairs' inliers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from delf_engine.errors import ConfigError, DelfEngineError, UnknownIdError
from delf_engine.plotting.matches import draw_matches
from delf_engine.plotting.report.page import (
    Images,
    Photographs,
    Picture,
    Written,
    check_path,
    figure_picture,
    fitting,
    page_templates,
    short_name,
    write_page,
)
from delf_engine.verification.result import percent

if TYPE_CHECKING:
    from delf_engine.features import LocalFeatures
    from delf_engine.reranking import RankedCandidate

#: Features of an image by its id; None or an unknown id: there are none.
Features: TypeAlias = "Mapping[str, LocalFeatures] | Callable[[str], LocalFeatures | None] | None"

_LINES_HEIGHT = 320  # of the photographs in a picture of inliers, in pixels
_ROWS = 100  # of the table of a ranking


def write_report(
    path: str | os.PathLike[str],
    rankings: Mapping[str, Sequence[RankedCandidate]],
    *,
    images: Images = None,
    query_features: Features = None,
    features: Features = None,
    failed: Mapping[str, str] | None = None,
    title: str = "Re-ranked shortlists",
    max_queries: int = 20,
    shown: int = 8,
    lines: int = 2,
    max_bytes: int = 24_000_000,
) -> Written:
    """Write a page about re-ranked shortlists: one HTML file that needs nothing else.

    For every query: its photograph, the first images before and after re-ranking with their inliers, probability
    and change of rank, pictures of the best pairs with lines between the features that agree, and a table. A
    photograph that is gone, damaged or of another size than its features is named in its place.

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
    sources = _Sources(Photographs(images), query_features, features)
    chosen = islice(rankings.items(), max_queries)
    sections, full = fitting(_sections(chosen, sources, shown=shown, lines=lines), max_bytes)
    verified = [c.verification for ranking in rankings.values() for c in ranking if c.verification is not None]
    page = (
        page_templates()
        .get_template("batch.html.j2")
        .render(
            title=title,
            rankings=rankings,
            verified=len(verified),
            same=sum(found.same for found in verified),
            changed=sum(bool(ranking) and ranking[0].first_rank != 1 for ranking in rankings.values()),
            failed=failed or {},
            sections=sections,
            full=full,
        )
    )
    return Written(len(sections), len(rankings), write_page(target, page))


class _Sources(NamedTuple):
    """Where the page's photographs and features come from."""

    photographs: Photographs
    query_features: Features
    features: Features


class _Illustrated(NamedTuple):
    """A candidate with a picture: its photograph, or its inliers with the query."""

    candidate: RankedCandidate
    picture: Picture


def _sections(
    rankings: Iterator[tuple[str, Sequence[RankedCandidate]]], sources: _Sources, *, shown: int, lines: int
) -> Iterator[str]:
    """Yield the part of each query, rendered."""
    template = page_templates().get_template("batch_query.html.j2")
    thumbnail = sources.photographs.thumbnail
    for number, (query, ranking) in enumerate(rankings, start=1):
        before = sorted(ranking, key=lambda c: c.first_rank)[:shown]
        yield template.render(
            number=number,
            query=query,
            query_photo=thumbnail(query),
            of=len(ranking),
            before=[_Illustrated(c, thumbnail(c.id)) for c in before],
            after=[_Illustrated(c, thumbnail(c.id)) for c in ranking[:shown]],
            pairs=list(_pairs(query, ranking, sources, lines)),
            **_figures(ranking[:_ROWS]),
        )


def _pairs(
    query: str, ranking: Sequence[RankedCandidate], sources: _Sources, lines: int
) -> Iterator[_Illustrated]:
    """Yield pictures of the inliers of the first verified candidates, or what stands in their way."""
    a = _features_of(sources.query_features, query)
    if a is None:
        return
    for candidate in [c for c in ranking if c.verification is not None][:lines]:
        b = _features_of(sources.features, candidate.id)
        if b is None or candidate.verification is None:
            continue
        name = f"features that agree: {candidate.rank}. {short_name(candidate.id)}"
        try:
            photos = sources.photographs.source(query), sources.photographs.source(candidate.id)
            figure = draw_matches(*photos, a, b, candidate.verification, height=_LINES_HEIGHT, caption=False)
            picture = figure_picture(figure, name)
        except DelfEngineError as error:  # a photograph that has changed since, or features of another run
            picture = Picture(name, reason=str(error))
        yield _Illustrated(candidate, picture)


def _features_of(features: Features, image_id: str) -> LocalFeatures | None:
    if features is None:
        return None
    try:
        return features(image_id) if callable(features) else features.get(image_id)
    except (KeyError, UnknownIdError):
        return None


def _figures(ranking: Sequence[RankedCandidate]) -> dict[str, Any]:
    """Return head and rows of a table of figures, without the columns that would say nothing."""
    by_inliers = all(c.ranking_score == c.inliers for c in ranking)
    columns: dict[str, list[str]] = {
        "inliers": ["" if c.inliers is None else str(c.inliers) for c in ranking],
        "ranking score": [
            "" if by_inliers or c.ranking_score is None else f"{c.ranking_score:.2f}" for c in ranking
        ],
        "first score": ["" if c.score is None else f"{c.score:.4g}" for c in ranking],
        "probability": [
            ""
            if c.verification is None or c.verification.probability is None
            else percent(c.verification.probability)
            for c in ranking
        ],
    }
    used = {
        "rank": [str(c.rank) for c in ranking],
        "was": [str(c.first_rank) for c in ranking],
        **{name: cells for name, cells in columns.items() if any(cells)},
        "image": [c.id for c in ranking],
    }
    return {"head": list(used), "rows": list(zip(*used.values(), strict=True))}
