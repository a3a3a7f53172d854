"""Re-ranking: the first candidates of a shortlist are verified and sorted, the rest stay behind them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import Literal, TypeAlias

from delf_engine.config import RankingConfig, RerankingConfig, VerificationConfig
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import RankedCandidate, Shortlist, checked_shortlist
from delf_engine.reranking.journal import Journal, opened_journal, query_key
from delf_engine.reranking.scheduling import QueryRun, Task, needs_processes, run_queries
from delf_engine.reranking.scoring import best_possible, default_ranking, rank_entries, ranking_score
from delf_engine.reranking.sources import CountedReader, FeatureSource, Reader, reader
from delf_engine.support.threads import usable_cores
from delf_engine.verification import Calibration, Verification

__all__ = ["rerank_batch", "rerank_shortlist"]

OnMissing: TypeAlias = Literal["warn", "raise", "ignore"]
Progress: TypeAlias = Callable[[int, int], None]
Entries: TypeAlias = Sequence[tuple[str, "float | None"]]

# Below this many pairs one process is done before others have started, and one thread before it is worth it.
_PROCESSES_FROM, _THREADS_FROM = 400, 20


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
    calibration: Calibration | None = None,
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
        calibration=calibration,
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
    checkpoint: str | os.PathLike[str] | None = None,
    calibration: Calibration | None = None,
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
        How many are verified, and what may stop that earlier.
    verification : VerificationConfig
    ranking : RankingConfig or None
        What the ranking score is; None takes that of the default profile.
    seed : int
        Of every verification. The result has the same bits in any order and with any number of workers, and
        each pair's is that of `verify_features`.
    workers : int or None
        Threads, or processes where an estimator holds Python's interpreter lock. None takes one a usable core, and
        this one alone for few pairs.
    on_missing : "warn", "raise" or "ignore"
        What to do about a query or candidate without features. It is left unverified, behind the verified ones,
        and the rest goes on; "warn" gives one `DelfEngineWarning` at the end.
    progress : callable or None
        Called with the number of pairs done and the number of all, in this thread.
    checkpoint : path or None
        A journal of finished queries: called again after a stop, with the same options, only the others are
        verified. A query whose own features or candidates have changed since is verified again, and one with
        candidates that had no features and have some now; that those of a candidate have changed is not noticed.
    calibration : Calibration or None
        Gives verifications their probability. It has no part in the ranking.

    Returns
    -------
    dict of query id to list of RankedCandidate
        In the order of `shortlists`, with all their candidates.

    Raises
    ------
    DataError
        If a shortlist has the wrong shape or a score that is not finite, or has none where the ranking needs one.
    MismatchError
        If features have different descriptor dimensions; it names the images. Or the journal was written with
        other options.
    LockedError, FormatError
        If another process writes to the journal, or it cannot be read or written.
    UnknownIdError
        If features are missing and `on_missing` is "raise".
    ConfigError
        If an option is out of range.
    DelfEngineError
        If a process that verifies pairs is killed.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if on_missing not in ("warn", "raise", "ignore"):
        raise ConfigError(f"on_missing must be 'warn', 'raise' or 'ignore', got {on_missing!r}")
    ranking = default_ranking() if ranking is None else ranking
    entries = {query: checked_shortlist(shortlist, query=query) for query, shortlist in shortlists.items()}
    if ranking.first_weight:
        _check_scores(entries)
    task = Task(verification, ranking.exponent, seed)
    with opened_journal(checkpoint, verification, ranking.exponent, seed) as journal:
        batch = _Batch(entries, config, ranking, _Missing(on_missing), journal)
        verified = batch.verify(reader(queries), reader(features), task, workers, progress)
    batch.missing.report()
    if calibration is not None:
        verified = {query: _with_probability(found, calibration) for query, found in verified.items()}
    return {query: rank_entries(found, verified[query], ranking) for query, found in entries.items()}


@dataclass
class _Batch:
    """What all queries of one call share."""

    entries: Mapping[str, Entries]
    config: RerankingConfig
    ranking: RankingConfig
    missing: _Missing
    journal: Journal | None

    def verify(
        self, query_of: Reader, image_of: Reader, task: Task, workers: int | None, progress: Progress | None
    ) -> dict[str, dict[str, Verification]]:
        """Return the verifications of each query by id."""
        total = sum(min(len(found), self.config.top_n) for found in self.entries.values())
        done = 0

        def advanced(pairs: int) -> None:
            nonlocal done
            done += pairs
            if progress is not None and pairs:
                progress(done, total)

        heads = {query: [name for name, _ in found[: self.config.top_n]] for query, found in self.entries.items()}
        images = CountedReader(image_of, chain.from_iterable(heads.values()))
        verified: dict[str, dict[str, Verification]] = {query: {} for query in self.entries}
        keys: dict[str, str] = {}

        def read(run: QueryRun, ids: Sequence[str]) -> dict[str, LocalFeatures]:
            return self._candidates(run, ids, images)

        def passed(ids: Sequence[str]) -> None:
            images.forgo(ids)
            advanced(len(ids))

        count = _worker_count(workers, total, task.config)
        runs = self._runs(heads, query_of, image_of, verified, keys, passed)
        for run in run_queries(runs, read, task, workers=count, advanced=advanced):
            verified[run.query] = run.verified
            passed(run.ids[len(run.ids) - run.left :])
            self.missing.late += run.late
            if self.journal is not None and run.features is not None and not run.late:
                self.journal.add(run.query, keys[run.query], run.verified, run.missing)
        return verified

    def _runs(
        self,
        heads: Mapping[str, Sequence[str]],
        query_of: Reader,
        image_of: Reader,
        verified: dict[str, dict[str, Verification]],
        keys: dict[str, str],
        passed: Callable[[Sequence[str]], None],
    ) -> Iterator[QueryRun]:
        """Yield the queries that are to be verified; those that the journal knows are passed at once."""
        for query, ids in heads.items():
            features = query_of(query)
            if features is None:
                self.missing.add(f"query {query!r}")
                passed(ids)
                continue
            if self.journal is not None:
                keys[query] = query_key(self._what_counts(query, ids), features)
                known = self._known(self.journal, query, keys[query], image_of)
                if known is not None:
                    verified[query] = known
                    passed(ids)
                    continue
            yield QueryRun(query, features, ids, self._settled(query), self._may_settle, self.config.seconds)

    def _known(self, journal: Journal, query: str, key: str, image_of: Reader) -> dict[str, Verification] | None:
        """Return what the journal knows of a query; None if a candidate that had no features has some now."""
        found = journal.finished(query, key)
        if found is None:
            return None
        verified, missing = found
        if any(image_of(name) is not None for name in missing):
            return None
        for name in missing:
            self.missing.add(repr(name))
        return verified

    def _what_counts(self, query: str, ids: Sequence[str]) -> list[str]:
        """Return, as text, what decides on which pairs of a query are verified."""
        if not self._may_settle:
            return list(ids)
        scores = [repr(score) for _, score in self.entries[query][: len(ids)]]
        return [*ids, *scores, str(self.config.top_k), self.ranking.model_dump_json()]

    @property
    def _may_settle(self) -> bool:
        return self.config.top_k is not None and self.ranking.cap is not None

    def _settled(self, query: str) -> Callable[[dict[str, Verification], int], bool]:
        """Return a test of whether candidates from a number on can still come among the first `top_k`.

        Of equal ranking scores the higher first score wins, then the earlier place: what comes later must be
        better.
        """
        entries, first_of = self.entries[query], dict(self.entries[query])

        def settled(found: dict[str, Verification], begin: int) -> bool:
            top_k = self.config.top_k
            if top_k is None or len(found) < top_k:
                return False
            scores = [ranking_score(v, self.ranking, first_of[name]) for name, v in found.items()]
            least = sorted(scores, reverse=True)[top_k - 1]
            falling = _is_falling([score for _, score in entries])
            left = [best_possible(self.ranking, score) for _, score in entries[begin : self.config.top_n]]
            return bool(max(left) < least or (falling and max(left) == least))

        return settled

    def _candidates(self, run: QueryRun, ids: Sequence[str], image_of: Reader) -> dict[str, LocalFeatures]:
        """Read features; what has none is noted."""
        assert run.features is not None
        found: dict[str, LocalFeatures] = {}
        for image_id in ids:
            features = image_of(image_id)
            if features is None:
                self.missing.add(repr(image_id))
            elif features.dim != run.features.dim:
                raise MismatchError(
                    f"query {run.query!r} has {run.features.dim}-D descriptors, image {image_id!r} "
                    f"{features.dim}-D ones; extract both with the same model"
                )
            else:
                found[image_id] = features
        return found


class _Missing:
    """Ids without features, and pairs that time was not enough for, collected for one report."""

    def __init__(self, on_missing: OnMissing) -> None:
        self._on_missing = on_missing
        self._found: dict[str, None] = {}
        self.late = 0

    def add(self, what: str) -> None:
        if self._on_missing == "raise":
            raise UnknownIdError(f"no features of {what}")
        self._found[what] = None

    def report(self) -> None:
        if self.late:
            warnings.warn(f"not verified for lack of time: {self.late} pairs", DelfEngineWarning, stacklevel=3)
        if not self._found or self._on_missing == "ignore":
            return
        first = ", ".join(islice(self._found, 5)) + (", ..." if len(self._found) > 5 else "")
        warnings.warn(
            f"not verified for lack of features, left behind the others: {len(self._found)} ({first})",
            DelfEngineWarning,
            stacklevel=3,
        )


def _with_probability(found: Mapping[str, Verification], calibration: Calibration) -> dict[str, Verification]:
    probabilities = calibration.probabilities(found.values()).tolist()
    return {
        name: replace(verification, probability=probability)
        for (name, verification), probability in zip(found.items(), probabilities, strict=True)
    }


def _check_scores(entries: Mapping[str, Entries]) -> None:
    for query, found in entries.items():
        if found and found[0][1] is None:
            raise DataError(
                f"shortlist of {query!r} has no scores, and the ranking blends them in (first_weight); "
                "give (id, score), or set first_weight to 0"
            )


def _is_falling(scores: Sequence[float | None]) -> bool:
    """Tell whether no candidate has a higher first score than one before it."""
    given = [score for score in scores if score is not None]
    return all(a >= b for a, b in pairwise(given))


def _worker_count(workers: int | None, pairs: int, config: VerificationConfig) -> int:
    if workers is not None:
        return workers
    return usable_cores() if pairs >= (_PROCESSES_FROM if needs_processes(config) else _THREADS_FROM) else 1
