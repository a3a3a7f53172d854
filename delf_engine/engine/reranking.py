"""Re-ranking many shortlists with an engine's features, and second rounds after the first."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

from delf_engine.engine.results import RerankedBatch
from delf_engine.engine.state import EngineState
from delf_engine.errors import ImageError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RankedCandidate, RerankOptions, expand_query, rerank_batch, rerank_graph
from delf_engine.reranking.candidates import Shortlist

__all__ = ["StagedProgress", "rerank_many"]

#: Called with what is being done, how much of it is done, and how much there is.
StagedProgress = Callable[[str, int, int], None]


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

    rankings: dict[str, list[RankedCandidate]] = rerank_batch(
        features, lists, state.store, options, progress=reported("verifying"), checkpoint=checkpoint
    )
    if expand:
        features = {name: expand_query(own, rankings[name], state.store) for name, own in features.items()}
        again = reported("verifying expanded queries")
        rankings = rerank_batch(features, lists, state.store, options, progress=again)
    if graph:
        found = rerank_graph(rankings, state.store, options)
        rankings = {name: list(ranking) for name, ranking in found.items()}
    return RerankedBatch(rankings, features, failed)
