"""Re-ranking: the first candidates of a shortlist are verified and sorted, the rest stay behind them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TypeAlias

from delf_engine.errors import ConfigError, DelfEngineWarning, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import (
    Entries,
    FeatureSource,
    RankedCandidate,
    Reader,
    Shortlist,
    check_best_first,
    checked_shortlist,
    rank_entries,
    ranking_score,
    reader,
    verifier_there,
)
from delf_engine.reranking.confirming import confirm_rankings
from delf_engine.reranking.journal import Journal, opened_journal, query_key
from delf_engine.reranking.options import RerankOptions
from delf_engine.reranking.scheduling import QueryJob, verify_jobs
from delf_engine.verification import Verification

Progress: TypeAlias = Callable[[int, int], None]
#: Fine features of queries, and of candidates, by id.
FineSources: TypeAlias = tuple[FeatureSource, FeatureSource]

# About 3,000 images of 1000 x 40 floats.
_CACHE_BYTES = 1 << 29


def rerank_shortlist(
    query_features: LocalFeatures, shortlist: Shortlist, features: FeatureSource, options: RerankOptions
) -> list[RankedCandidate]:
    """Re-rank the candidates of one query.

    Parameters
    ----------
    query_features : LocalFeatures
    shortlist : sequence of id, or of (id, score)
        Best first.
    features : FeatureStore, mapping or function
        `LocalFeatures` of the candidates by id.
    options : RerankOptions

    Returns
    -------
    list of RankedCandidate
        All candidates, best first; errors are those of `rerank_batch`.
    """
    return _reranked({"query": query_features}, {"query": shortlist}, features, options, None, None)["query"]


def rerank_batch(
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    features: FeatureSource,
    options: RerankOptions,
    *,
    fine: FineSources | None = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, list[RankedCandidate]]:
    """Re-rank the shortlists of many queries by geometric verification.

    The first `top_n` candidates of each shortlist are verified and sorted by their ranking score, equal ones in
    their first order; all others follow in theirs. Transforms lead from the query (A) to the candidate (B).

    Parameters
    ----------
    queries : store, mapping or function
        Features of each query by its id.
    shortlists : mapping of query id to sequence of ids or of (id, score)
        Candidates, best first; higher scores are better, unless the options say that they are `distances`. An id
        that occurs again is dropped.
    features : store, mapping or function
        Features of each candidate by its id. Called in this process and thread only, and about once an image:
        features that a later shortlist needs are kept, up to 512 MiB.
    options : RerankOptions
    fine : (source, source) or None
        Fine features of queries and of candidates by id, for the first `options.confirm` of each query; where one
        has none, its evidence is coarse only. None: none have.
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
        If an option is out of range, or `options.confirm` is given without `fine`.
    DelfEngineError
        If a process that verifies pairs is killed.
    """
    if options.confirm and fine is None:
        raise ConfigError("confirm needs fine features: give fine=(those of queries, those of candidates)")
    rankings = _reranked(queries, shortlists, features, options, progress, checkpoint)
    if fine is None:
        return rankings
    of_queries, of_images = fine
    return confirm_rankings(rankings, reader(of_queries), reader(of_images), options)


def _reranked(
    queries: FeatureSource,
    shortlists: Mapping[str, Shortlist],
    features: FeatureSource,
    options: RerankOptions,
    progress: Progress | None,
    checkpoint: str | os.PathLike[str] | None,
) -> dict[str, list[RankedCandidate]]:
    entries = checked_entries(shortlists, options)
    with opened_journal(checkpoint, options.verification, options.ranking.exponent, options.seed) as journal:
        batch = _Batch(entries, reader(queries), reader(features), options, journal, progress)
        there, pairs, advanced = verifier_there(features), batch.total, batch.advance
        for job in verify_jobs(batch.jobs(), batch.read, options, pairs=pairs, there=there, advanced=advanced):
            batch.finish(job)
    batch.warn()
    verified, calibration = batch.verified, options.calibration
    if calibration is not None:
        verified = {
            query: {name: calibration.judged(each) for name, each in found.items()}
            for query, found in verified.items()
        }
    return {query: rank_entries(found, verified[query], options.ranking) for query, found in entries.items()}


def checked_entries(shortlists: Mapping[str, Shortlist], options: RerankOptions) -> dict[str, Entries]:
    """Return checked shortlists by query; errors as of `rerank_batch`."""
    entries: dict[str, Entries] = {}
    for query, shortlist in shortlists.items():
        entries[query] = found = checked_shortlist(shortlist, query=query, distances=options.distances)
        if options.distances:
            check_best_first(query, found, distances=True)
    return entries


class _Batch:
    """The queries of one call: which are still to be verified, what is known of all, and what was missing."""

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
        self._entries, self._options, self._journal, self._progress = entries, options, journal, progress
        top_n = options.reranking.top_n
        self._heads = {query: [name for name, _ in found[:top_n]] for query, found in entries.items()}
        self._query_of, self._image_of = query_of, image_of
        self._images = _CachingReader(image_of, chain.from_iterable(self._heads.values()))
        self._keys: dict[str, str] = {}  # what a journal knows the queries at work by
        self._missing: dict[str, None] = {}
        self._timed_out = 0  # pairs
        self.total = sum(map(len, self._heads.values()))
        self._done = 0

    def jobs(self) -> Iterator[QueryJob]:
        """Yield the queries that are to be verified; those that the journal knows are passed over."""
        for query in self._entries:
            features, head = self._query_of(query), self._heads[query]
            if features is None:
                self._lacks(f"query {query!r}")
                self._skip(head)
                continue
            settled = _early_stop(self._options)
            job = QueryJob(query, features, head, settled, self._options.reranking.seconds)
            if self._journal is not None and self._is_known(job, self._journal):
                self._skip(head)
                continue
            yield job

    def read(self, job: QueryJob, ids: Sequence[str]) -> dict[str, LocalFeatures]:
        """Return the features of candidates by id, without those that have none: these are noted."""
        found: dict[str, LocalFeatures] = {}
        for image_id in ids:
            features = self._images(image_id)
            if features is None:
                self._lacks(repr(image_id))
            elif features.dim != job.features.dim:
                raise MismatchError(
                    f"query {job.query!r} has {job.features.dim}-D descriptors, image {image_id!r} "
                    f"{features.dim}-D ones; extract both with the same model"
                )
            else:
                found[image_id] = features
        return found

    def advance(self, pairs: int) -> None:
        """Report that more pairs are done."""
        self._done += pairs
        if self._progress is not None and pairs:
            self._progress(self._done, self.total)

    def finish(self, job: QueryJob) -> None:
        """Keep what was found for a query, here and in the journal."""
        self.verified[job.query] = job.verified
        self._timed_out += job.timed_out
        for name in job.missing:
            self._lacks(repr(name))
        self._skip(job.skipped)
        if self._journal is not None and not job.timed_out:
            self._journal.add(job.query, self._keys[job.query], job.verified, job.missing)

    def warn(self) -> None:
        """Say, to the caller of the public function, what was not verified."""
        if self._timed_out:
            message = f"not verified for lack of time: {self._timed_out} pairs"
            warnings.warn(message, DelfEngineWarning, stacklevel=4)
        if self._missing and self._options.on_missing != "ignore":
            first = ", ".join(islice(self._missing, 5)) + (", ..." if len(self._missing) > 5 else "")
            message = f"not verified for lack of features, left behind the others: {len(self._missing)} ({first})"
            warnings.warn(message, DelfEngineWarning, stacklevel=4)

    def _lacks(self, what: str) -> None:
        if self._options.on_missing == "raise":
            raise UnknownIdError(f"no features of {what}")
        self._missing[what] = None

    def _skip(self, ids: Sequence[str]) -> None:
        self._images.release(ids)
        self.advance(len(ids))

    def _is_known(self, job: QueryJob, journal: Journal) -> bool:
        """Take over what the journal knows of a query; nothing if a candidate without features has some now."""
        decides = list(job.ids)  # on which pairs are verified
        if job.is_settled is not None:
            decides += [str(self._options.reranking.top_k), self._options.ranking.model_dump_json()]
        self._keys[job.query] = key = query_key(decides, job.features)
        found = journal.finished(job.query, key)
        if found is None:
            return False
        verified, missing = found
        if any(self._image_of(name) is not None for name in missing):
            return False
        for name in missing:
            self._lacks(repr(name))
        self.verified[job.query] = verified
        return True


class _CachingReader:
    """Reads each id about once: features are kept while a later call will want them, within a budget of memory.

    `wanted` holds every id of every call to come.
    """

    def __init__(self, read: Reader, wanted: Iterable[str]) -> None:
        self._read = read
        self._to_come = Counter(wanted)
        self._kept: dict[str, LocalFeatures | None] = {}
        self._kept_bytes = 0

    def __call__(self, image_id: str) -> LocalFeatures | None:
        """Return the features of an image, or None."""
        known = image_id in self._kept
        features = self._kept[image_id] if known else self._read(image_id)
        size = _bytes(features)
        if self._to_come[image_id] > 1 and not known and self._kept_bytes + size <= _CACHE_BYTES:
            self._kept[image_id] = features
            self._kept_bytes += size
        self.release([image_id])
        return features

    def release(self, image_ids: Iterable[str]) -> None:
        """Count one call for each as made, or as one that will not be: nothing is kept for it."""
        for image_id in image_ids:
            self._to_come[image_id] -= 1
            if self._to_come[image_id] <= 0 and image_id in self._kept:
                features = self._kept.pop(image_id)
                self._kept_bytes -= _bytes(features)


def _bytes(features: LocalFeatures | None) -> int:
    return 0 if features is None else 4 * len(features) * (features.dim + 4)


def _early_stop(options: RerankOptions) -> Callable[[Mapping[str, Verification]], bool] | None:
    """Return a test of whether the first `top_k` places are settled; None if they never are before the end.

    They are once `top_k` candidates have reached the cap: no other can be better, and of equal ranking scores the
    earlier place wins.
    """
    top_k, ranking = options.reranking.top_k, options.ranking
    if top_k is None or ranking.cap is None:
        return None
    cap = ranking.cap
    return lambda found: sum(ranking_score(each, ranking) >= cap for each in found.values()) >= top_k
