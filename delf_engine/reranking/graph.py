"""Graph re-ranking: images of a ranking speak for each other.

Verified images are the nodes of a graph, their numbers of inliers the widths of its edges. An image that shows the
query's place from another side has few inliers with the query, and many with an image that has many: the widest
path from the query to it (the one whose narrowest edge is widest), over one image at most, is the evidence for it.
The matching graph is that of Philbin and Zisserman (Object mining using a matching graph on very large image
collections, 2008); one step from the query is the transitive closure of Total Recall (Chum et al., ICCV 2007) cut
short, before it drifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from delf_engine.config import RerankingConfig
from delf_engine.config.base import Config, Count
from delf_engine.errors import UnknownIdError
from delf_engine.reranking.candidates import FeatureSource, RankedCandidate
from delf_engine.reranking.confirming import by_evidence
from delf_engine.reranking.options import RerankOptions
from delf_engine.reranking.rerank import rerank_batch

#: Two images, the smaller id first.
Pair = tuple[str, str]

# Pairs verified at a time: their matches are held until they are counted.
_PAIRS_AT_ONCE = 20_000


class GraphConfig(Config):
    """How images of a ranking speak for each other.

    The defaults were written down before anything was measured with them.

    Attributes
    ----------
    top : int
        Verified candidates that are ranked again, the first of each ranking; the rest keep their order behind
        them.
    neighbours : int
        Candidates that each of them is verified with, at most: those of the most inliers with the query. That is
        at most `top` times `neighbours` verifications a query.
    blend : float
        How much a path through another image counts: 0 is the number of inliers with the query alone, 1 the widest
        path whatever it goes through.
    """

    top: Count = 100
    neighbours: Count = 5
    blend: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class GraphCandidate(RankedCandidate):
    """One image of a ranking by `rerank_graph`.

    `inliers` and `verification` are those with the query, as before; `ranking_score` is what it was ranked by now.

    Attributes
    ----------
    via : str or None
        The image that the widest path from the query goes through; None if no path is wider than the query's own
        inliers.
    path_inliers : int or None
        Inliers of the narrowest edge of that path; without one, those with the query. None if the image was not
        ranked again.
    """

    via: str | None = None
    path_inliers: int | None = None

    def to_dict(self, *, with_verification: bool = True) -> dict[str, Any]:
        """Return plain Python values, ready for JSON; see `RankedCandidate.to_dict`."""
        out = super().to_dict(with_verification=with_verification)
        return {**out, "via": self.via, "path_inliers": self.path_inliers}


def rerank_graph(
    rankings: Mapping[str, Sequence[RankedCandidate]],
    features: FeatureSource,
    options: RerankOptions,
    *,
    config: GraphConfig | None = None,
) -> dict[str, list[GraphCandidate]]:
    """Rank the heads of rankings again by the widest paths from the query to their images.

    Candidate i gets the score s_i + blend (p_i - n_i) u: s_i is its ranking score, n_i its number of inliers with
    the query, p_i the larger of n_i and of min(n_j, n_ij) over the candidates j that it was verified with, u the
    ranking score of an inlier, s_j / n_j of the best j (1 where inliers are the score). Only the `neighbours`
    candidates of most inliers are asked, and of these only those that have more than i: no other path can be
    wider. Pairs that are not said to show the same place are not joined.

    Parameters
    ----------
    rankings : mapping of query id to sequence of RankedCandidate
        Rankings that `rerank_batch` returned.
    features : store, mapping or function
        Features of each candidate by its id. Called in this process and thread only.
    options : RerankOptions
        How pairs are verified: those of the first round. A pair is verified once for all rankings, the smaller id
        as image A, so that the result has the same bits in any order and with any number of workers.
    config : GraphConfig or None
        None takes the defaults.

    Returns
    -------
    dict of query id to list of GraphCandidate
        The first `top` verified candidates by their score, equal ones by their rank in `rankings`; behind them all
        others in their order. Candidates with fine evidence share their places by it (`by_evidence`).

    Raises
    ------
    UnknownIdError
        If there are no features of a candidate.
    MismatchError
        If features have different descriptor dimensions.
    ConfigError
        If an option is out of range.
    """
    config = GraphConfig() if config is None else config
    heads = {
        query: [c for c in ranking if c.inliers is not None][: config.top] for query, ranking in rankings.items()
    }
    hubs = {query: _hubs(head, config.neighbours) for query, head in heads.items()}
    pairs = {
        _pair(hub.id, c.id) for q, head in heads.items() for c in head for hub in hubs[q] if _may_widen(hub, c)
    }
    joined = _verified(sorted(pairs), features, options)
    return {
        query: by_evidence(_ranked(ranking, heads[query], hubs[query], joined, config.blend))
        for query, ranking in rankings.items()
    }


def _hubs(head: Iterable[RankedCandidate], count: int) -> list[RankedCandidate]:
    """Return the candidates that others are verified with, most inliers first."""
    sure = [c for c in head if c.verification]
    return sorted(sure, key=lambda c: (-_inliers(c), c.rank))[:count]


def _may_widen(hub: RankedCandidate, c: RankedCandidate) -> bool:
    # A path through a hub could be wider than the edge from the query itself.
    return hub.id != c.id and _inliers(hub) > _inliers(c)


def _ranked(
    ranking: Sequence[RankedCandidate],
    head: Sequence[RankedCandidate],
    hubs: Sequence[RankedCandidate],
    widths: Mapping[Pair, int],
    blend: float,
) -> list[GraphCandidate]:
    scored = []
    for c in head:
        own, score = _inliers(c), c.ranking_score or 0.0
        width, via, unit = own, None, 0.0
        for hub in hubs:
            through = min(_inliers(hub), widths.get(_pair(hub.id, c.id), 0)) if _may_widen(hub, c) else 0
            if through > width:
                width, via, unit = through, hub.id, (hub.ranking_score or 0.0) / _inliers(hub)
        scored.append((score + blend * (width - own) * unit, width, via, c))
    scored.sort(key=lambda entry: (-entry[0], entry[3].rank))
    again = {id(c) for c in head}
    tail = [c for c in ranking if id(c) not in again]
    out = [
        GraphCandidate(c.id, rank, c.first_rank, c.score, c.verification, score, via, width)
        for rank, (score, width, via, c) in enumerate(scored, start=1)
    ]
    for rank, c in enumerate(tail, start=len(head) + 1):
        out.append(GraphCandidate(c.id, rank, c.first_rank, c.score, c.verification, c.ranking_score))
    return out


def _verified(pairs: Sequence[Pair], features: FeatureSource, options: RerankOptions) -> dict[Pair, int]:
    """Return the number of inliers of each pair that is said to show the same place."""
    out: dict[Pair, int] = {}
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part: dict[str, list[str]] = {}  # the second images by the first
        for a, b in pairs[start : start + _PAIRS_AT_ONCE]:
            part.setdefault(a, []).append(b)
        of_all = RerankingConfig(top_n=max(map(len, part.values())))
        given = replace(options, reranking=of_all, on_missing="raise", confirm=0)
        try:
            found = rerank_batch(features, part, features, given)
        except UnknownIdError as error:
            raise UnknownIdError(f"{error}; give the source that the candidates were verified with") from error
        out.update(((a, c.id), _inliers(c)) for a, ranked in found.items() for c in ranked if c.verification)
    return out


def _pair(one: str, other: str) -> Pair:
    return (one, other) if one < other else (other, one)


def _inliers(c: RankedCandidate) -> int:
    return c.inliers or 0
