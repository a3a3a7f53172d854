"""Searching an engine with many queries: one pass over the index, one over the pairs to verify."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from delf_engine.config import RerankingConfig
from delf_engine.engine.pairs import rank_shortlist
from delf_engine.engine.parts import is_one_image
from delf_engine.engine.results import SearchResult
from delf_engine.errors import ConfigError, DelfEngineWarning, ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource, source_name
from delf_engine.reranking import rerank_batch

if TYPE_CHECKING:
    from delf_engine.engine.engine import Engine

__all__ = ["Limits", "check_counts", "limits", "query_name", "search_many"]

_BLOCK = 256  # queries whose features are held at a time


class Limits(TypedDict):
    """Options of `CandidateIndex.search` that leave images out."""

    among: list[str] | None
    exclude: list[str]
    min_score: float | None


def limits(among: str | Iterable[str] | None, exclude: str | Iterable[str], min_score: float | None) -> Limits:
    """Return the options as an index takes them; here one id may stand for a list of one."""
    return Limits(among=None if among is None else _ids(among), exclude=_ids(exclude), min_score=min_score)


def check_counts(top_k: int | None, top_n: int) -> None:
    """Raise `ConfigError` unless `top_k` is at least 1 or None, and `top_n` at least 0."""
    if (top_k is not None and top_k < 1) or top_n < 0:
        raise ConfigError(f"top_k must be at least 1 and top_n at least 0, got {top_k} and {top_n}")


def query_name(query: ImageSource | LocalFeatures) -> str:
    """Return what a result calls its query."""
    return repr(query) if isinstance(query, LocalFeatures) else source_name(query)


def search_many(
    engine: Engine,
    queries: Iterable[ImageSource | LocalFeatures],
    *,
    top_k: int,
    top_n: int | None,
    seed: int,
    limited: Limits,
    threads: int | None,
    workers: int | None,
    on_error: Callable[[ImageSource, ImageError], None] | None,
    progress: Callable[[int, int], None] | None,
) -> list[SearchResult]:
    """Search with many queries; see `Engine.search_many`."""
    if isinstance(queries, LocalFeatures) or is_one_image(queries):
        raise ConfigError("expected several queries, got one; put it into a list, or call search")
    several = list(queries)
    verified = engine.manifest.profile.reranking.top_n if top_n is None else top_n
    check_counts(top_k, verified)
    out: list[SearchResult] = []
    for start in range(0, len(several), _BLOCK):
        block = several[start : start + _BLOCK]
        read = _readable(engine, block, on_error)
        features = [found for _, found in read]
        found = engine.index.search_many(features, max(top_k, verified), **limited, threads=threads)
        shortlists = [list(zip(ids, scores.tolist(), strict=True)) for ids, scores in found]
        ranked = _ranked(engine, features, shortlists, verified, seed, workers)
        for (query, own), hits in zip(read, ranked, strict=True):
            out.append(SearchResult(query_name(query), tuple(hits[:top_k]), own))
        if progress is not None:
            progress(start + len(block), len(several))
    return out


def _readable(
    engine: Engine,
    queries: Sequence[ImageSource | LocalFeatures],
    on_error: Callable[[ImageSource, ImageError], None] | None,
) -> list[tuple[ImageSource | LocalFeatures, LocalFeatures]]:
    """Return each query with its features; those that cannot be read are reported and left out."""
    out = []
    for query in queries:
        try:
            out.append((query, engine.features_of(query)))
        except ImageError as error:
            if on_error is None:
                warnings.warn(f"left out: {error}", DelfEngineWarning, stacklevel=4)
            else:
                on_error(query, error)  # type: ignore[arg-type]  # features are not read
    return out


def _ranked(
    engine: Engine,
    features: Sequence[LocalFeatures],
    shortlists: Sequence[list[tuple[str, float]]],
    top_n: int,
    seed: int,
    workers: int | None,
) -> list[list[Any]]:
    profile = engine.manifest.profile
    options: dict[str, Any] = {"verification": profile.verification, "ranking": profile.ranking, "seed": seed}
    if top_n == 0:
        pairs = zip(features, shortlists, strict=True)
        return [rank_shortlist(query, entries, engine.store, top_n=0, **options) for query, entries in pairs]
    rankings = rerank_batch(
        {str(i): query for i, query in enumerate(features)},
        {str(i): entries for i, entries in enumerate(shortlists)},
        engine.store,
        config=RerankingConfig(top_n=top_n),
        workers=workers,
        calibration=engine.calibration,
        **options,
    )
    return [rankings[str(i)] for i in range(len(features))]


def _ids(ids: str | Iterable[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(ids)
