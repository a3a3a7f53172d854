"""Searching an engine, and re-ranking with its features: what an index or another system proposes is verified."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

from delf_engine.engine.adding import is_one_image
from delf_engine.engine.results import RerankedBatch, SearchResult
from delf_engine.engine.state import EngineState, Query
from delf_engine.engine.views import View, surer
from delf_engine.errors import ConfigError, DelfEngineWarning, ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource, source_name
from delf_engine.index import IndexKind, SearchBy
from delf_engine.reranking import (
    Confirmer,
    ExpansionConfig,
    RankedCandidate,
    RerankOptions,
    expand_query,
    rank_verified,
    rerank_batch,
    rerank_graph,
    rerank_shortlist,
)
from delf_engine.reranking.candidates import FeatureSource, Shortlist
from delf_engine.reranking.confirming import confirm_rankings
from delf_engine.verification import turned_back, turns_by_evidence

#: How candidates are gathered: by the kind of the engine's index, by global descriptors, or by both.
CandidateKind: TypeAlias = IndexKind | Literal["global", "fused"]
#: Called with what is being done, how much of it is done, and how much there is.
StagedProgress = Callable[[str, int, int], None]

#: The features that hits were verified with, and the hits.
_Answer: TypeAlias = tuple[LocalFeatures, list[RankedCandidate]]
_Ask: TypeAlias = Callable[[LocalFeatures], list[RankedCandidate]]
_Rounds: TypeAlias = Callable[[LocalFeatures, _Ask, Confirmer], _Answer]

_BLOCK = 256  # queries whose features are held at a time


class Views(Protocol):
    """What re-ranking asks for images and options: an open engine, or photographs that are read on demand."""

    @property
    def store(self) -> FeatureSource:
        """Features of candidates by id."""

    def rerank_options(self, **given: Any) -> RerankOptions:
        """Return the options but for those given."""

    def view_of(self, query: Query, box: Box | None = None, *, fine: bool = True) -> View:
        """Return a query, with its fine features if wanted and there are any."""

    def fine_of(self, query: Query) -> LocalFeatures | None:
        """Return the fine features of a query or candidate; None if there are none."""


@dataclass(frozen=True)
class SearchOptions:
    """What searches with one query and with many share; see `Engine.search`."""

    top_k: int | None = 10
    top_n: int | None = None
    among: str | Iterable[str] | None = None
    exclude: str | Iterable[str] = ()
    min_score: float | None = None
    seed: int = 0
    workers: int | None = None
    distances: bool = False
    confirm: int = 0
    candidates: CandidateKind | None = None

    def __post_init__(self) -> None:
        if (self.top_k is not None and self.top_k < 1) or (self.top_n is not None and self.top_n < 0):
            raise ConfigError(f"top_k must be at least 1 and top_n at least 0, got {self.top_k} and {self.top_n}")
        if self.confirm < 0:
            raise ConfigError(f"confirm must be at least 0, got {self.confirm}")

    def count(self, state: EngineState) -> int:
        """Return how many candidates the index is asked for."""
        verified = state.manifest.profile.reranking.top_n if self.top_n is None else self.top_n
        return max(self.top_k or 0, verified)

    def limits(self, state: EngineState) -> dict[str, Any]:
        """Return the options of an index that leave images out; here one id may stand for a list."""
        among = None if self.among is None else _ids(state, self.among)
        return {
            "among": among,
            "exclude": _ids(state, self.exclude),
            "min_score": self.min_score,
            "by": self._way(state),
        }

    def _way(self, state: EngineState) -> SearchBy:
        wanted, kind = self.candidates, state.manifest.index
        if wanted is None or wanted == kind:
            return "local"
        if wanted == "global" or wanted == "fused":
            return wanted
        raise ConfigError(
            f"candidates={wanted!r}: the index of this engine is {kind!r}; give {kind!r}, 'global' or 'fused', or "
            "make another index with reindex"
        )


def search(
    state: EngineState, query: Query, options: SearchOptions, *, box: Box | None, expand: bool, graph: bool
) -> SearchResult:
    """Search with one query; see `Engine.search`."""
    limits, given = options.limits(state), state.rerank_options(seed=options.seed)

    def once(features: LocalFeatures) -> list[RankedCandidate]:
        ids, scores = state.index.search(features, options.count(state), **limits)
        return _ranked(state, features, list(zip(ids, scores.tolist(), strict=True)), options)

    def rounds(features: LocalFeatures, ask: _Ask, confirmed: Confirmer) -> _Answer:
        hits = ask(features)
        if expand:
            hits = confirmed(hits, max(options.confirm, ExpansionConfig().count))
            features = expand_query(features, hits, state.store, box=box)
            hits = ask(features)
        hits = confirmed(hits, options.confirm)
        if graph:
            found = rerank_graph({"query": hits}, state.store, given)["query"]
            hits = list(confirmed.confirmed(found, options.confirm))
        return features, hits

    view = state.view_of(query, box, fine=options.confirm > 0 or expand)
    return _whichever_way_up(state, _name(query), view, options, once, rounds)


def rerank(
    views: Views, query: Query, shortlist: Shortlist, options: SearchOptions, *, box: Box | None
) -> SearchResult:
    """Re-rank a shortlist of any other system; see `Engine.rerank`."""

    def once(features: LocalFeatures) -> list[RankedCandidate]:
        return _ranked(views, features, shortlist, options)

    def rounds(features: LocalFeatures, ask: _Ask, confirmed: Confirmer) -> _Answer:
        return features, confirmed(ask(features), options.confirm)

    view = views.view_of(query, box, fine=options.confirm > 0)
    return _whichever_way_up(views, _name(query), view, options, once, rounds)


def _whichever_way_up(
    views: Views, query: str, view: View, options: SearchOptions, once: _Ask, rounds: _Rounds
) -> SearchResult:
    """Ask with a query, in one or more rounds.

    If none of them shows the same place, the query is turned, and what that finds is the answer if it is surer.
    Features and transforms are those of the query as it is.
    """
    confirmed = Confirmer(view.fine, views.fine_of, views.rerank_options(seed=options.seed))

    def asked(features: LocalFeatures, rotation: int) -> SearchResult:
        def ask(features: LocalFeatures) -> list[RankedCandidate]:
            hits = once(features.turned(rotation))
            return [_turned_back(hit, features.image_size, rotation) for hit in hits] if rotation else hits

        features, hits = rounds(features, ask, confirmed)
        return SearchResult(query, tuple(hits[: options.top_k]), features, rotation)

    best = asked(view.features, 0)
    surest = best.surest
    if surest is None or surest.same or view.turned is None or not len(view.features):
        return best
    # The image that would say so by its details need not be among the hits: all turns, the likeliest first.
    for rotation in dict.fromkeys((*turns_by_evidence(surest.fine), *turns_by_evidence(None))):
        other = asked(view.turned(rotation).turned(-rotation), rotation)
        if other.surest is not None and surer(other.surest, surest):
            best, surest = other, other.surest
        if surest.same:
            break
    return best


def _turned_back(hit: RankedCandidate, image_size: tuple[int, int], rotation: int) -> RankedCandidate:
    found = hit.verification
    return hit if found is None else replace(hit, verification=turned_back(found, image_size, rotation))


def search_many(
    state: EngineState,
    queries: Iterable[Query],
    options: SearchOptions,
    *,
    threads: int | None,
    on_error: Callable[[ImageSource, ImageError], None] | None,
    progress: Callable[[int, int], None] | None,
) -> list[SearchResult]:
    """Search with many queries, one pass over the index for each block of them; see `Engine.search_many`."""
    if isinstance(queries, LocalFeatures) or is_one_image(queries):
        raise ConfigError("expected several queries, got one; put it into a list, or call search")
    several, limits = list(queries), options.limits(state)
    out: list[SearchResult] = []
    for start in range(0, len(several), _BLOCK):
        block = several[start : start + _BLOCK]
        read = _readable(state, block, on_error)
        features = [own for _, own in read]
        state.share_card()
        found = state.index.search_many(features, options.count(state), **limits, threads=threads)
        shortlists = [list(zip(ids, scores.tolist(), strict=True)) for ids, scores in found]
        ranked = _ranked_many(state, features, shortlists, options)
        for (query, own), hits in zip(read, ranked, strict=True):
            if options.confirm:
                given = state.rerank_options(seed=options.seed)
                hits = Confirmer(state.fine_of(query), state.fine_of, given)(hits, options.confirm)
            out.append(SearchResult(_name(query), tuple(hits[: options.top_k]), own))
        if progress is not None:
            progress(start + len(block), len(several))
    return out


def rerank_many(
    state: EngineState,
    shortlists: Mapping[str, Shortlist],
    options: RerankOptions,
    *,
    expand: bool,
    graph: bool,
    checkpoint: str | os.PathLike[str] | None,
    progress: StagedProgress | None,
) -> RerankedBatch:
    """Re-rank many shortlists; see `Engine.rerank_many`."""
    features: dict[str, LocalFeatures] = {}
    failed: dict[str, str] = {}
    for name in shortlists:
        try:
            features[name] = state.features_of(name)
        except ImageError as error:
            failed[name] = error.reason
    lists = {name: shortlists[name] for name in features}

    def reported(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else partial(progress, what)

    def confirmed(rankings: dict[str, list[RankedCandidate]], count: int) -> dict[str, list[RankedCandidate]]:
        given = replace(options, confirm=count)
        return confirm_rankings(rankings, state.fine_of, state.fine_of, given) if count else rankings

    plain = replace(options, confirm=0)
    rankings: dict[str, list[RankedCandidate]] = rerank_batch(
        features, lists, state.store, plain, progress=reported("verifying"), checkpoint=checkpoint
    )
    if expand:
        rankings = confirmed(rankings, max(options.confirm, ExpansionConfig().count))
        features = {name: expand_query(own, rankings[name], state.store) for name, own in features.items()}
        again = reported("verifying expanded queries")
        rankings = rerank_batch(features, lists, state.store, plain, progress=again)
    rankings = confirmed(rankings, options.confirm)
    if graph:
        found = rerank_graph(rankings, state.store, plain)
        rankings = {name: list(ranking) for name, ranking in found.items()}
    return RerankedBatch(rankings, features, failed)


def _ranked(
    views: Views, query: LocalFeatures, shortlist: Shortlist, options: SearchOptions
) -> list[RankedCandidate]:
    """Verify the first candidates of a shortlist and rank it; with a `top_n` of 0 keep it as it is."""
    if options.top_n == 0:
        ranking = views.rerank_options().ranking
        return rank_verified(shortlist, {}, ranking=ranking, distances=options.distances)
    given = views.rerank_options(top_n=options.top_n, seed=options.seed, distances=options.distances)
    return rerank_shortlist(query, shortlist, views.store, given)


def _ranked_many(
    state: EngineState, features: Sequence[LocalFeatures], shortlists: Sequence[Shortlist], options: SearchOptions
) -> list[list[RankedCandidate]]:
    if options.top_n == 0:
        return [_ranked(state, *pair, options) for pair in zip(features, shortlists, strict=True)]
    given = state.rerank_options(top_n=options.top_n, seed=options.seed, workers=options.workers)
    queries = {str(i): own for i, own in enumerate(features)}
    return list(rerank_batch(queries, dict(zip(queries, shortlists, strict=True)), state.store, given).values())


def _readable(
    state: EngineState, queries: Sequence[Query], on_error: Callable[[ImageSource, ImageError], None] | None
) -> list[tuple[Query, LocalFeatures]]:
    """Return each query with its features; those that cannot be read are reported and left out."""
    out = []
    for query in queries:
        try:
            out.append((query, state.features_of(query)))
        except ImageError as error:
            if on_error is None:
                warnings.warn(f"left out: {error}", DelfEngineWarning, stacklevel=4)
            else:
                on_error(query, error)  # type: ignore[arg-type]  # features are not read
    return out


def _name(query: Query) -> str:
    """Return what a result calls its query."""
    return repr(query) if isinstance(query, LocalFeatures) else source_name(query)


def _ids(state: EngineState, ids: str | Iterable[str]) -> list[str]:
    names = [ids] if isinstance(ids, str) else list(ids)
    known = state.known(name for name in names if isinstance(name, str))  # all at once: they may lie elsewhere
    paths = (str, os.PathLike)
    return [state.id_of(name) if isinstance(name, paths) and name not in known else name for name in names]
