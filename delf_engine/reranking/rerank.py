"""Re-ranking: the first candidates of a shortlist are verified and sorted, the rest stay behind them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice, pairwise
from typing import TypeAlias

from delf_engine.errors import DelfEngineWarning, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import RankedCandidate, Shortlist, checked_shortlist
from delf_engine.reranking.journal import Journal, opened_journal, query_key
from delf_engine.reranking.options import OnMissing, RerankOptions
from delf_engine.reranking.scheduling import QueryJob, verify_jobs
from delf_engine.reranking.scoring import rank_entries, ranking_score
from delf_engine.reranking.sources import CachingReader, FeatureSource, Reader, reader
from delf_engine.verification import Verification

__all__ = ["rerank_batch", "rerank_shortlist"]

Progress: TypeAlias = Callable[[int, int], None]
Entries: TypeAlias = Sequence[tuple[str, "float | None"]]


def rerank_shortlist(
    query_features: LocalFeatures, shortlist: Shortlist, features: FeatureSource, options: RerankOptions
) -> list[RankedCandidate]:
    """Re-rank the candidates of one query; see `rerank_batch`."""
    entries = checked_shortlist(shortlist, query="query")
    missing = _Missing(options.on_missing)
    job = _job("query", query_features, entries, options)
    read = partial(_candidates, reader(features), missing)
    for _ in verify_jobs([job], read, options, pairs=len(job.ids)):
        missing.timed_out = job.timed_out
    missing.report()
    return _ranking(entries, job.verified, options)


def rerank_batch(
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    features: FeatureSource,
    options: RerankOptions,
    *,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
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
    options : RerankOptions
    progress : callable or None
        Called with the number of pairs done and the number of all, in this thread.
    checkpoint : path or None
        A journal of finished queries: called again after a stop, with the same options, only the others are
        verified. A query whose own features or candidates have changed since is verified again, and one with
        candidates that had no features and have some now; that those of a candidate have changed is not noticed.

    Returns
    -------
    dict of query id to list of RankedCandidate
        In the order of `shortlists`, with all their candidates.

    Raises
    ------
    DataError
        If a shortlist has the wrong shape or a score that is not finite.
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
    entries = {query: checked_shortlist(shortlist, query=query) for query, shortlist in shortlists.items()}
    with opened_journal(checkpoint, options.verification, options.ranking.exponent, options.seed) as journal:
        batch = _Batch(entries, reader(queries), reader(features), options, journal, progress)
        for job in verify_jobs(batch.jobs(), batch.read, options, pairs=batch.total, advanced=batch.advance):
            batch.finish(job)
    batch.missing.report()
    return {query: _ranking(found, batch.verified[query], options) for query, found in entries.items()}


class _Batch:
    """The queries of one call: which are still to be verified, and what is known of all."""

    def __init__(
        self,
        entries: Mapping[str, Entries],
        query_of: Reader,
        image_of: Reader,
        options: RerankOptions,
        journal: Journal | None,
        progress: Progress | None,
    ) -> None:
        self.verified: dict[str, dict[str, Verification]] = {query: {} for query in entries}
        self.missing = _Missing(options.on_missing)
        self._entries, self._options, self._journal, self._progress = entries, options, journal, progress
        self._heads = {query: _head(found, options) for query, found in entries.items()}
        self._query_of, self._image_of = query_of, image_of
        self._images = CachingReader(image_of, chain.from_iterable(self._heads.values()))
        self._keys: dict[str, str] = {}  # what a journal knows the queries at work by
        self.total = sum(map(len, self._heads.values()))
        self._done = 0

    def jobs(self) -> Iterator[QueryJob]:
        """Yield the queries that are to be verified; those that the journal knows are passed over."""
        for query, entries in self._entries.items():
            features = self._query_of(query)
            if features is None:
                self.missing.add(f"query {query!r}")
                self._skip(self._heads[query])
                continue
            job = _job(query, features, entries, self._options)
            if self._journal is not None and self._is_known(job, self._journal):
                self._skip(self._heads[query])
                continue
            yield job

    def read(self, job: QueryJob, ids: Sequence[str]) -> dict[str, LocalFeatures]:
        """Return the features of candidates by id, without those that have none."""
        return _candidates(self._images, self.missing, job, ids)

    def advance(self, pairs: int) -> None:
        """Report that more pairs are done."""
        self._done += pairs
        if self._progress is not None and pairs:
            self._progress(self._done, self.total)

    def finish(self, job: QueryJob) -> None:
        """Keep what was found for a query, here and in the journal."""
        self.verified[job.query] = job.verified
        self.missing.timed_out += job.timed_out
        self._skip(job.skipped)
        if self._journal is not None and not job.timed_out:
            self._journal.add(job.query, self._keys[job.query], job.verified, job.missing)

    def _skip(self, ids: Sequence[str]) -> None:
        self._images.release(ids)
        self.advance(len(ids))

    def _is_known(self, job: QueryJob, journal: Journal) -> bool:
        """Take over what the journal knows of a query; nothing if a candidate without features has some now."""
        self._keys[job.query] = key = query_key(self._what_decides(job), job.features)
        found = journal.finished(job.query, key)
        if found is None:
            return False
        verified, missing = found
        if any(self._image_of(name) is not None for name in missing):
            return False
        for name in missing:
            self.missing.add(repr(name))
        self.verified[job.query] = verified
        return True

    def _what_decides(self, job: QueryJob) -> list[str]:
        """Return, as text, what decides on which pairs of a query are verified."""
        if job.is_settled is None:
            return list(job.ids)
        return [*job.ids, str(self._options.reranking.top_k), self._options.ranking.model_dump_json()]


def _head(entries: Entries, options: RerankOptions) -> list[str]:
    """Return the candidates that are verified at most."""
    return [name for name, _ in entries[: options.reranking.top_n]]


def _job(query: str, features: LocalFeatures, entries: Entries, options: RerankOptions) -> QueryJob:
    settled = _early_stop(entries, options)
    return QueryJob(query, features, _head(entries, options), settled, options.reranking.seconds)


def _early_stop(entries: Entries, options: RerankOptions) -> Callable[[Mapping[str, Verification]], bool] | None:
    """Return a test of whether the first `top_k` places are settled; None if they never are before the end.

    They are once `top_k` candidates have reached the cap: no other can be better, and of equal ranking scores the
    higher first score wins, then the earlier place. So first scores must not rise towards the end.
    """
    top_k, ranking = options.reranking.top_k, options.ranking
    scores = [score for _, score in entries if score is not None]
    if top_k is None or ranking.cap is None or any(a < b for a, b in pairwise(scores)):
        return None
    cap = ranking.cap
    return lambda found: sum(ranking_score(each, ranking) >= cap for each in found.values()) >= top_k


def _candidates(
    image_of: Reader, missing: _Missing, job: QueryJob, ids: Sequence[str]
) -> dict[str, LocalFeatures]:
    """Read features; what has none is noted."""
    found: dict[str, LocalFeatures] = {}
    for image_id in ids:
        features = image_of(image_id)
        if features is None:
            missing.add(repr(image_id))
        elif features.dim != job.features.dim:
            raise MismatchError(
                f"query {job.query!r} has {job.features.dim}-D descriptors, image {image_id!r} "
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
        self.timed_out = 0

    def add(self, what: str) -> None:
        if self._on_missing == "raise":
            raise UnknownIdError(f"no features of {what}")
        self._found[what] = None

    def report(self) -> None:
        if self.timed_out:
            message = f"not verified for lack of time: {self.timed_out} pairs"
            warnings.warn(message, DelfEngineWarning, stacklevel=3)
        if not self._found or self._on_missing == "ignore":
            return
        first = ", ".join(islice(self._found, 5)) + (", ..." if len(self._found) > 5 else "")
        warnings.warn(
            f"not verified for lack of features, left behind the others: {len(self._found)} ({first})",
            DelfEngineWarning,
            stacklevel=3,
        )


def _ranking(
    entries: Entries, verified: Mapping[str, Verification], options: RerankOptions
) -> list[RankedCandidate]:
    """Rank candidates, their verifications with a probability where there is a calibration."""
    if options.calibration is not None:
        probabilities = options.calibration.probabilities(verified.values()).tolist()
        verified = {
            name: replace(verification, probability=probability)
            for (name, verification), probability in zip(verified.items(), probabilities, strict=True)
        }
    return rank_entries(entries, verified, options.ranking)
