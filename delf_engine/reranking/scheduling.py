"""Pairs shared out to workers: which candidates of which query are verified next, and when a query is done.

Kernels of our own and OpenCV let go of Python's interpreter lock, so threads verify at the same time and share
what is made ready of a query. pydegensac and the RANSAC written in NumPy hold it: they get processes, with one
BLAS thread each. The caller alone reads features.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeAlias

from delf_engine.errors import ProcessDiedError
from delf_engine.features import LocalFeatures
from delf_engine.reranking.candidates import Verifies
from delf_engine.reranking.options import RerankOptions
from delf_engine.support.processes import process_pool
from delf_engine.support.threads import usable_cores
from delf_engine.verification import BatchVerifier, PairVerifier, Verification

_CHUNK = 10  # pairs a worker verifies at a time
_WAITING = 4  # chunks each worker has waiting or at work
_QUERIES = 4  # queries for each worker that are worked on at once
_CARD_QUERIES, _CARD_CHUNKS = 64, 100  # that a card works on at once
_QUERIES_THERE = 64  # that are sent to where features lie at once, about 0.2 MB each
_KEEP_SECONDS = 60.0  # processes wait for the next call: they take longer to start than a few hundred pairs

# Below this many pairs one process is done before others have started, and one thread before it is worth it.
_PROCESSES_FROM, _THREADS_FROM = 400, 20


@dataclass(eq=False)
class QueryJob:
    """The candidates of one query that are to be verified, in that order, and how far it has come.

    `is_settled` tells from what is verified so far whether the others need not be. With it one chunk is verified
    after the other, so that what is verified does not depend on the number of workers. After `seconds` no more is
    begun. Once it is done, `skipped` are those that were never begun, `timed_out` of them for lack of time.
    """

    query: str
    features: LocalFeatures
    ids: Sequence[str]
    is_settled: Callable[[Mapping[str, Verification]], bool] | None = None
    seconds: float | None = None
    verified: dict[str, Verification] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    timed_out: int = 0
    _next: int = 0
    _pending: int = 0
    _deadline: float | None = None

    def take(self) -> Sequence[str]:
        """Return the ids of the next chunk; none if there is nothing to begin now."""
        if self._next >= len(self.ids) or (self.is_settled is not None and self._pending):
            return ()
        if self._deadline is None and self.seconds is not None:  # the first chunk starts the clock
            self._deadline = time.monotonic() + self.seconds
        settled = self.is_settled is not None and self.is_settled(self.verified)
        expired = self._deadline is not None and self._next > 0 and time.monotonic() >= self._deadline
        if settled or expired:
            self.skipped = self.ids[self._next :]
            self.timed_out = 0 if settled else len(self.skipped)
            self._next = len(self.ids)
            return ()
        chunk = self.ids[self._next : self._next + _CHUNK]
        self._next += len(chunk)
        self._pending += 1
        return chunk

    def give(self, ids: Iterable[str], results: Sequence[Verification]) -> None:
        """Take the results of a chunk."""
        self.verified.update(zip(ids, results, strict=True))
        self._pending -= 1

    @property
    def done(self) -> bool:
        """Whether nothing is at work, and nothing is left to begin."""
        return self._next >= len(self.ids) and not self._pending

    @property
    def missing(self) -> list[str]:
        """Candidates that had no features, once it is done."""
        return [name for name in self.ids[: len(self.ids) - len(self.skipped)] if name not in self.verified]


#: From a query and ids of its candidates to features; ids without any are left out.
ReadChunk: TypeAlias = Callable[[QueryJob, Sequence[str]], dict[str, LocalFeatures]]


def verify_jobs(
    jobs: Iterable[QueryJob],
    read: ReadChunk,
    options: RerankOptions,
    *,
    pairs: int,
    there: Verifies | None = None,
    advanced: Callable[[int], None] = lambda count: None,
) -> Iterator[QueryJob]:
    """Verify the candidates of queries, taken a few at a time, and yield each query when it is done.

    Few `pairs` in all are verified by this thread alone, unless the options say how many workers there are. `read`
    and `advanced`, which gets a number of pairs that are done with, are called in this thread. What verifies
    `there`, where features lie, is asked instead of reading them.
    """
    if there is not None:
        yield from _there(jobs, there, options.in_parts(), advanced)
        return
    on_card = options.batch_verifier()
    if on_card is not None:
        yield from _on_card(jobs, read, on_card, advanced)
        return
    processes = options.verification.estimator == "ransac"  # it holds Python's lock: threads would take turns
    workers = options.workers
    if workers is None:
        workers = usable_cores() if pairs >= (_PROCESSES_FROM if processes else _THREADS_FROM) else 1
    if workers == 1:
        yield from _in_turn(jobs, read, options, advanced)
        return
    with _processes(workers) if processes else ThreadPoolExecutor(workers) as pool:
        yield from _shared_out(jobs, read, options, pool, workers, advanced)


def _in_turn(
    jobs: Iterable[QueryJob], read: ReadChunk, options: RerankOptions, advanced: Callable[[int], None]
) -> Iterator[QueryJob]:
    """Verify one query after the other, in this thread."""
    for job in jobs:
        verifier = options.verifier(job.features)
        while chunk := job.take():
            found = read(job, chunk)
            job.give(found, [verifier(features) for features in found.values()])
            advanced(len(chunk))
        yield job


def _there(
    jobs: Iterable[QueryJob], there: Verifies, options: RerankOptions, advanced: Callable[[int], None]
) -> Iterator[QueryJob]:
    """Have some queries at a time verified where the features of their candidates lie."""
    coming = iter(jobs)
    while block := list(islice(coming, _QUERIES_THERE)):
        queries, heads = {job.query: job.features for job in block}, {job.query: job.ids for job in block}
        found = there.verify_here(queries, heads, options)
        for job in block:
            while chunk := job.take():
                known = {name: found[job.query][name] for name in chunk if name in found[job.query]}
                job.give(known, list(known.values()))
                advanced(len(chunk))
            yield job


def _on_card(
    jobs: Iterable[QueryJob], read: ReadChunk, verifier: BatchVerifier, advanced: Callable[[int], None]
) -> Iterator[QueryJob]:
    """Verify some queries at the same time, chunks of them all in one batch."""
    coming = iter(jobs)
    active: list[QueryJob] = []
    while active := [*active, *islice(coming, _CARD_QUERIES - len(active))]:
        batch: list[tuple[QueryJob, dict[str, LocalFeatures], int]] = []
        for job in active:
            while len(batch) < _CARD_CHUNKS and (chunk := job.take()):
                batch.append((job, read(job, chunk), len(chunk)))
        results = iter(verifier([(job.features, each) for job, found, _ in batch for each in found.values()]))
        for job, found, count in batch:
            job.give(found, list(islice(results, len(found))))
            advanced(count)
        yield from (job for job in active if job.done)
        active = [job for job in active if not job.done]


def _shared_out(
    jobs: Iterable[QueryJob],
    read: ReadChunk,
    options: RerankOptions,
    pool: Executor,
    workers: int,
    advanced: Callable[[int], None],
) -> Iterator[QueryJob]:
    """Verify some queries at the same time, each in chunks of candidates.

    Threads share what was made ready of the query, processes get its features.
    """
    coming, plain = iter(jobs), replace(options, calibration=None)
    in_threads = isinstance(pool, ThreadPoolExecutor)
    active: dict[QueryJob, PairVerifier | LocalFeatures] = {}
    at_work: dict[Future[list[Verification]], tuple[QueryJob, list[str], int]] = {}
    try:
        while True:
            for job in islice(coming, _QUERIES * workers - len(active)):
                active[job] = options.verifier(job.features) if in_threads else job.features
            if not active:
                return
            for job, subject in active.items():
                while len(at_work) < _WAITING * workers and (chunk := job.take()):
                    found = read(job, chunk)
                    future = pool.submit(_verify, subject, list(found.values()), plain)
                    at_work[future] = (job, list(found), len(chunk))
            for job in [job for job in active if job.done]:
                del active[job]
                yield job
            for future in wait(at_work, return_when=FIRST_COMPLETED).done if at_work else ():
                job, ids, count = at_work.pop(future)
                job.give(ids, future.result())
                advanced(count)
    finally:
        for future in at_work:  # after an error or Ctrl-C: what runs is short, nothing else cancels what waits
            future.cancel()


def _verify(
    subject: PairVerifier | LocalFeatures, candidates: Sequence[LocalFeatures], options: RerankOptions
) -> list[Verification]:
    verifier = options.verifier(subject) if isinstance(subject, LocalFeatures) else subject
    return [verifier(candidate) for candidate in candidates]


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    try:
        with process_pool(workers, keep_seconds=_KEEP_SECONDS) as pool:
            yield pool
    except ProcessDiedError as error:
        raise ProcessDiedError(
            f"verifying pairs: {error}; call again with fewer workers, and with a checkpoint to go on from what "
            "is finished"
        ) from error
