"""Re-ranking: the first candidates of a shortlist are verified and sorted, the rest stay behind them.

Pairs are shared out to processes, not threads: pydegensac holds Python's interpreter lock, so threads would take
turns. Workers get one BLAS thread each; the caller alone reads the features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, TypeAlias

from delf_engine.config import RankingConfig, RerankingConfig, VerificationConfig
from delf_engine.errors import ConfigError, DelfEngineWarning, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import RankedCandidate, Shortlist, checked_shortlist
from delf_engine.reranking.scoring import default_ranking, rank_entries
from delf_engine.reranking.sources import CountedReader, FeatureSource, Reader, reader
from delf_engine.system import usable_cores
from delf_engine.verification import Verification, verify_features

__all__ = ["rerank_batch", "rerank_shortlist"]

OnMissing: TypeAlias = Literal["warn", "raise", "ignore"]
Progress: TypeAlias = Callable[[int, int], None]

# Pairs a worker verifies at a time, and chunks each worker has waiting.
_CHUNK = 25
_CHUNKS_WAITING = 8
# Below this many pairs one process is done before others have started.
_PARALLEL_FROM = 400


def rerank_shortlist(
    query_features: LocalFeatures,
    shortlist: Shortlist,
    features: FeatureSource,
    *,
    config: RerankingConfig,
    verification: VerificationConfig,
    ranking: RankingConfig | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_missing: OnMissing = "warn",
) -> list[RankedCandidate]:
    """Re-rank the candidates of one query; see `rerank_batch`."""
    return rerank_batch(
        {"query": query_features},
        {"query": shortlist},
        features,
        config=config,
        verification=verification,
        ranking=ranking,
        seed=seed,
        workers=workers,
        on_missing=on_missing,
    )["query"]


def rerank_batch(
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    features: FeatureSource,
    *,
    config: RerankingConfig,
    verification: VerificationConfig,
    ranking: RankingConfig | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_missing: OnMissing = "warn",
    progress: Progress | None = None,
) -> dict[str, list[RankedCandidate]]:
    """Re-rank the shortlists of many queries by geometric verification.

    The first `top_n` candidates of each shortlist are verified and sorted by their ranking score; equal ones by
    their first score, then by their first place. All others follow in their first order. Transforms lead from the
    query (A) to the candidate (B).

    Parameters
    ----------
    queries : store, mapping or function
        Features of each query by its id.
    shortlists : mapping of query id to sequence of ids or of (id, score)
        Candidates, best first; higher scores are better. An id that occurs again is dropped.
    features : store, mapping or function
        Features of each candidate by its id. Called in this process and thread only, and about once an image:
        features that a later shortlist needs are kept, up to 512 MiB.
    config : RerankingConfig
    verification : VerificationConfig
    ranking : RankingConfig or None
        What the ranking score is; None takes that of the default profile.
    seed : int
        Of every verification. The result has the same bits in any order and with any number of workers, and
        each pair's is that of `verify_features`.
    workers : int or None
        Processes. None takes this one alone for fewer than 400 pairs and one a usable core from there on.
    on_missing : "warn", "raise" or "ignore"
        What to do about a query or candidate without features. It is left unverified, behind the verified ones,
        and the rest goes on; "warn" gives one `DelfEngineWarning` at the end.
    progress : callable or None
        Called with the number of pairs done and the number of all, in this process.

    Returns
    -------
    dict of query id to list of RankedCandidate
        In the order of `shortlists`, with all their candidates.

    Raises
    ------
    DataError
        If a shortlist has the wrong shape or a score that is not finite.
    MismatchError
        If features have different descriptor dimensions. It names the images.
    UnknownIdError
        If features are missing and `on_missing` is "raise".
    ConfigError
        If an option is out of range.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if on_missing not in ("warn", "raise", "ignore"):
        raise ConfigError(f"on_missing must be 'warn', 'raise' or 'ignore', got {on_missing!r}")
    ranking = default_ranking() if ranking is None else ranking
    entries = {query: checked_shortlist(shortlist, query=query) for query, shortlist in shortlists.items()}
    heads = {query: [image_id for image_id, _ in found[: config.top_n]] for query, found in entries.items()}
    total = sum(map(len, heads.values()))
    missing = _Missing(on_missing)
    image_of = CountedReader(reader(features), chain.from_iterable(heads.values()))
    jobs = _read_jobs(heads, reader(queries), image_of, missing)
    verified: dict[str, dict[str, Verification]] = {query: {} for query in entries}
    done = 0
    for job, results in _run(jobs, _Options(verification, ranking.exponent, seed), _worker_count(workers, total)):
        verified[job.query].update(zip(job.ids, results, strict=True))
        done += job.pairs
        if progress is not None and job.pairs:
            progress(done, total)
    missing.report()
    return {query: rank_entries(found, verified[query], ranking) for query, found in entries.items()}


@dataclass(frozen=True)
class _Options:
    """Those of `verify_features`."""

    config: VerificationConfig
    exponent: float
    seed: int


@dataclass(frozen=True)
class _Job:
    """Some candidates of one query, read and ready; `pairs` counts those without features too."""

    query: str
    ids: list[str]
    query_features: LocalFeatures | None
    features: list[LocalFeatures]
    pairs: int


class _Missing:
    """Ids without features, collected for one report."""

    def __init__(self, on_missing: OnMissing) -> None:
        self._on_missing = on_missing
        self._found: dict[str, None] = {}

    def add(self, what: str) -> None:
        if self._on_missing == "raise":
            raise UnknownIdError(f"no features of {what}")
        self._found[what] = None

    def report(self) -> None:
        if not self._found or self._on_missing == "ignore":
            return
        first = ", ".join(islice(self._found, 5)) + (", ..." if len(self._found) > 5 else "")
        warnings.warn(
            f"not verified for lack of features, left behind the others: {len(self._found)} ({first})",
            DelfEngineWarning,
            stacklevel=3,
        )


def _read_jobs(
    heads: Mapping[str, Sequence[str]], query_of: Reader, image_of: Reader, missing: _Missing
) -> Iterator[_Job]:
    for query, head in heads.items():
        query_features = query_of(query)
        if query_features is None:
            missing.add(f"query {query!r}")
            yield _Job(query, [], None, [], len(head))
            continue
        for start in range(0, len(head), _CHUNK):
            chunk = head[start : start + _CHUNK]
            found: dict[str, LocalFeatures] = {}
            for image_id in chunk:
                features = image_of(image_id)
                if features is None:
                    missing.add(repr(image_id))
                elif features.dim != query_features.dim:
                    raise MismatchError(
                        f"query {query!r} has {query_features.dim}-D descriptors, image {image_id!r} "
                        f"{features.dim}-D ones; extract both with the same model"
                    )
                else:
                    found[image_id] = features
            yield _Job(query, list(found), query_features, list(found.values()), len(chunk))


def _run(jobs: Iterator[_Job], options: _Options, workers: int) -> Iterator[tuple[_Job, list[Verification]]]:
    """Yield each job with its results, in order."""
    if workers == 1:
        for job in jobs:
            yield job, _verify_chunk(job.query_features, job.features, options)
        return

    from joblib import Parallel, delayed, parallel_config

    # Jobs are read in waves here, not by the pool, whose threads a store may not be ready for.
    with (
        parallel_config(backend="loky", inner_max_num_threads=1),
        Parallel(n_jobs=workers, batch_size=1, max_nbytes=None) as pool,
    ):
        while wave := list(islice(jobs, workers * _CHUNKS_WAITING)):
            results = pool(delayed(_verify_chunk)(job.query_features, job.features, options) for job in wave)
            yield from zip(wave, results, strict=True)


def _verify_chunk(
    query: LocalFeatures | None, candidates: Sequence[LocalFeatures], options: _Options
) -> list[Verification]:
    if query is None:
        return []
    return [
        verify_features(query, candidate, config=options.config, exponent=options.exponent, seed=options.seed)
        for candidate in candidates
    ]


def _worker_count(workers: int | None, pairs: int) -> int:
    if workers is not None:
        return workers
    return usable_cores() if pairs >= _PARALLEL_FROM else 1
