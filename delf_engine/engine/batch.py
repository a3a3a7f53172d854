"""Re-ranking many shortlists with an engine's features, and second rounds after the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from delf_engine.config import ExpansionConfig, RerankingConfig
from delf_engine.engine.pairs import reranking_options
from delf_engine.errors import ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box
from delf_engine.reranking import RankedCandidate, expand_query, rerank_batch, rerank_graph
from delf_engine.reranking.candidates import Shortlist

if TYPE_CHECKING:
    from delf_engine.engine.engine import Engine

__all__ = ["RerankedBatch", "expanded", "rerank_many", "through_graph"]


@dataclass(frozen=True)
class RerankedBatch:
    """Shortlists that an engine has re-ranked.

    Attributes
    ----------
    rankings : dict of query to list of RankedCandidate
    features : dict of query to LocalFeatures
        What was verified with: the A of each verification.
    failed : dict of query to str
        Queries that could not be read, and why.
    """

    rankings: dict[str, list[RankedCandidate]]
    features: dict[str, LocalFeatures]
    failed: dict[str, str]


def rerank_many(
    engine: Engine,
    shortlists: Mapping[str, Shortlist],
    *,
    top_n: int | None,
    top_k: int | None,
    seconds: float | None,
    expand: bool,
    graph: bool,
    seed: int,
    workers: int | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: Callable[[str, int, int], None] | None,
) -> RerankedBatch:
    """Re-rank many shortlists; see `Engine.rerank_many`."""
    features: dict[str, LocalFeatures] = {}
    failed: dict[str, str] = {}
    for name in shortlists:
        try:
            features[name] = engine.features_of(name)
        except ImageError as error:
            failed[name] = error.reason
    config = reranking_options(engine.manifest.profile, top_n=top_n, top_k=top_k, seconds=seconds)
    lists = {name: entries for name, entries in shortlists.items() if name in features}
    options: dict[str, Any] = {"config": config, "seed": seed, "workers": workers}
    rankings = _ranked(engine, features, lists, "verifying", progress, checkpoint=checkpoint, **options)
    if expand:
        features = {name: expanded(engine, found, rankings[name]) for name, found in features.items()}
        rankings = _ranked(engine, features, lists, "verifying expanded queries", progress, **options)
    if graph:
        rankings = through_graph(engine, rankings, seed=seed, workers=workers)
    return RerankedBatch(rankings, features, failed)


def expanded(
    engine: Engine, features: LocalFeatures, hits: Sequence[RankedCandidate], box: Box | None = None
) -> LocalFeatures:
    """Return a query's features together with those of the images that were verified with it."""
    # An image joins only if it is called the same place.
    config = ExpansionConfig(min_inliers=engine.manifest.profile.verification.min_inliers)
    return expand_query(features, hits, engine.store, config=config, box=box)


def through_graph(
    engine: Engine, rankings: Mapping[str, Sequence[RankedCandidate]], *, seed: int, workers: int | None = None
) -> dict[str, list[RankedCandidate]]:
    """Rank again by the widest paths over the images that were verified."""
    verification = engine.manifest.profile.verification
    found = rerank_graph(rankings, engine.store, verification=verification, seed=seed, workers=workers)
    return {name: list(ranking) for name, ranking in found.items()}


def _ranked(
    engine: Engine,
    features: Mapping[str, LocalFeatures],
    lists: Mapping[str, Shortlist],
    what: str,
    progress: Callable[[str, int, int], None] | None,
    *,
    config: RerankingConfig,
    **options: Any,
) -> dict[str, list[RankedCandidate]]:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(what, done, total)

    return rerank_batch(
        features,
        lists,
        engine.store,
        config=config,
        verification=engine.manifest.profile.verification,
        ranking=engine.manifest.profile.ranking,
        calibration=engine.calibration,
        progress=report,
        **options,
    )
