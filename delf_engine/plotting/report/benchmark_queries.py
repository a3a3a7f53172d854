"""The queries that a benchmark's best method is worst at: the photograph, and what it found instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delf_engine.errors import ImageError
from delf_engine.plotting.report.benchmark_charts import change_html
from delf_engine.plotting.report.benchmark_result import BenchmarkResult, Found, Method, Missed
from delf_engine.plotting.report.benchmark_tables import caption
from delf_engine.plotting.report.evidence import counted
from delf_engine.plotting.report.markup import short_name, text
from delf_engine.plotting.report.pictures import Photographs, boxed_html, gone_html

__all__ = ["QUERY_STYLE", "Shown", "query_html", "worst_queries"]

QUERY_STYLE = """
.query{display:grid;grid-template-columns:17rem minmax(0,1fr);gap:1rem;align-items:start}
.query .photo{height:auto}.query ul.strip{flex-wrap:wrap}
.query .strip .card{flex:0 0 8.6rem;padding:.4rem;border:3px solid var(--quiet)}
.query .strip .photo{height:6.5rem}.query .asked{border:0;padding:.4rem}
.query .strip .card.yes{border-color:var(--yes)}
.query .strip .card.wrong{border-color:var(--wrong);border-style:dashed}
.query .strip .card.junk{border-color:var(--quiet);border-style:dotted}
.query .strip .card.later{margin-left:1.2rem}
@media(max-width:40rem){.query{grid-template-columns:minmax(0,1fr);gap:.4rem}.query ul.strip{flex-wrap:nowrap}
.query .asked .photo{justify-content:flex-start}.query .asked img{max-height:15rem}}
""".strip()

_FIRST = 10  # images of each ranking

# Labels that count for a query in a set-up; the others of `easy` and `hard` are taken out, as junk is.
_POSITIVE = {"easy": ("easy",), "hard": ("hard",)}
_ALL_POSITIVE = ("easy", "hard")


@dataclass(frozen=True)
class Shown:
    """What is shown of queries: whose rankings, in which set-up, with which photographs (None: without)."""

    result: BenchmarkResult
    method: Method
    setup: str
    photographs: Photographs | None

    def counts(self, found: Found) -> bool:
        """Whether an image is a positive of its query."""
        return found.label in _POSITIVE.get(self.setup, _ALL_POSITIVE)


def worst_queries(method: Method, setup: str, number: int) -> list[str]:
    """Return the queries with the lowest average precision, equal ones by name."""
    rated = [(ap, query) for query, ap in method.average_precision(setup).items() if ap is not None]
    return [query for _, query in sorted(rated)[:number]]


def query_html(number: int, query: str, shown: Shown) -> str:
    """Return the part of the page that shows one query."""
    ranking = shown.result.details.get(shown.method.name, {}).get(shown.setup, {}).get(query, ())
    cards = [_card(place, found, shown) for place, found in enumerate(ranking[:_FIRST], start=1)]
    later = _later(query, ranking, shown)
    if later is not None and later.place is not None:
        cards.append(_later_card(later, shown))
    strip = (
        f'<ul class="strip">{"".join(cards)}</ul>' if cards else '<p class="quiet">Its ranking was not kept.</p>'
    )
    return "\n".join(
        (
            f'<section id="q{number}"><h3>{number}. {text(short_name(query))}</h3>',
            f"<p>{_figures(query, shown)}</p>",
            f'<div class="query">{_asked(query, shown)}<div>{strip}',
            f"{_found_words(query, ranking, later, shown)}</div></div></section>",
        )
    )


def _figures(query: str, shown: Shown) -> str:
    ap = shown.method.average_precision(shown.setup)[query] or 0.0
    words = [f"average precision <b>{ap:.1f}</b>"]
    parent = shown.result.parent_of(shown.method)
    before = None if parent is None else parent.average_precision(shown.setup).get(query)
    if parent is not None and before is not None:
        words.append(f"{text(parent.name)}: {before:.1f}, {change_html(ap - before)}")
    positives = shown.result.positives.get(query, {})
    if positives:
        words.append(
            "positives: " + text(", ".join(f"{n:,} in {caption(setup)}" for setup, n in positives.items()))
        )
    return " · ".join(words)


def _asked(query: str, shown: Shown) -> str:
    box = shown.result.boxes.get(query)
    if shown.photographs is None:
        return f'<div class="card asked"><p><b>query</b></p><p>{text(query)}</p></div>'
    try:
        photo = boxed_html(shown.photographs.source(query), short_name(query), box)
        said = "query, the whole photograph" if box is None else "query: what lies in the yellow box"
    except ImageError as error:
        photo, said = gone_html(short_name(query), error.reason), "query"
    return f'<div class="card asked"><div class="photo">{photo}</div><p>{said}</p></div>'


def _card(place: int, found: Found, shown: Shown) -> str:
    if shown.counts(found):
        kind, said = "yes", f'<span class="same">✓ positive, {found.label}</span>'
    elif found.label == "negative":
        kind, said = "wrong", '<span class="bad">✗ negative</span>'
    else:
        kind, said = "junk", f'<span class="quiet">○ {found.label}, not counted</span>'
    lines = [said]
    if found.inliers is not None:
        lines.append(counted(found.inliers, "inlier"))
    if found.score is not None:
        lines.append(f'<span class="quiet">score {found.score:.4g}</span>')
    return _framed(kind, place, found.id, lines, shown)


def _framed(kind: str, place: int, image_id: str, lines: Sequence[str], shown: Shown) -> str:
    photo = (
        "" if shown.photographs is None else f'<div class="photo">{shown.photographs.thumbnail(image_id)}</div>'
    )
    shown_name = text(short_name(image_id)).replace("_", "_<wbr>")  # where a long name may break
    name = f'<b>{place:,}.</b> <span title="{text(image_id)}">{shown_name}</span>'
    return f'<li class="card {kind}">{photo}{"".join(f"<p>{line}</p>" for line in (name, *lines))}</li>'


def _later(query: str, ranking: Sequence[Found], shown: Shown) -> Missed | None:
    """Return the first positive after those shown: from the ranking as far as it is kept, or as the run says."""
    for place, found in enumerate(ranking[_FIRST:], start=_FIRST + 1):
        if shown.counts(found):
            return Missed(found.id, place)
    return shown.result.missed.get(shown.method.name, {}).get(shown.setup, {}).get(query)


def _later_card(later: Missed, shown: Shown) -> str:
    said = '<span class="same">✓ the next positive</span>'
    return _framed("yes later", later.place or 0, later.id, [said], shown)


def _found_words(query: str, ranking: Sequence[Found], later: Missed | None, shown: Shown) -> str:
    """Return how many positives are among the first, and where the next one came."""
    if not ranking:
        return ""
    among = sum(map(shown.counts, ranking[:_FIRST]))
    of = shown.result.positives.get(query, {}).get(shown.setup)
    words = f"{among:,}{'' if of is None else f' of {of:,}'} positives among the first {len(ranking[:_FIRST])}"
    if later is not None:
        where = "is not in the ranking" if later.place is None else f"came at place {later.place:,}"
        words += f"; the next one, {short_name(later.id)}, {where}"
    elif of is not None and among < of:
        words += f"; no other among the first {len(ranking):,}" if len(ranking) > _FIRST else ""
    return f'<p class="quiet">{text(words)}.</p>'
