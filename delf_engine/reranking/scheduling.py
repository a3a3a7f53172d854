"""Pairs shared out to workers: which candidates of which query are verified next, and when a query is done.

Kernels of our own and OpenCV let go of Python's interpreter lock, so threads verify at the same time and share
what is made ready of a query. pydegensac and the RANSAC written in NumPy hold it: they get processes, with one
BLAS thread each. The caller alone reads features.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from delf_engine.config import VerificationConfig
from delf_engine.errors import DelfEngineError
from delf_engine.features import LocalFeatures
from delf_engine.verification import PairVerifier, Verification

__all__ = ["QueryRun", "Task", "needs_processes", "run_queries"]

_CHUNK = 10  # pairs a worker verifies at a time
_WAITING = 4  # chunks each worker has waiting or at work
_QUERIES = 4  # queries for each worker that are worked on at once
_IDLE_SECONDS = 60  # after which processes without work end


@dataclass(frozen=True)
class Task:
    """How pairs are verified: the options of `verify_features`."""

    config: VerificationConfig
    exponent: float
    seed: int


@dataclass
class QueryRun:
    """The candidates of one query that are to be verified, and how far that has come.

    Attributes
    ----------
    query : str
    features : LocalFeatures or None
        Of the query; None: nothing can be verified.
    ids : sequence of str
        Candidates, in the order they are verified.
    settled : callable
        From what is verified so far and the number of the next candidate to whether that and all behind it need
        not be. It is asked only when all before it are verified.
    stepwise : bool
        Whether it may ever say so: then one chunk is verified after the other.
    seconds : float or None
        Time until no more is begun.
    """

    query: str
    features: LocalFeatures | None
    ids: Sequence[str]
    settled: Callable[[dict[str, Verification], int], bool]
    stepwise: bool
    seconds: float | None
    verified: dict[str, Verification] = field(default_factory=dict)
    late: int = 0
    _next: int = 0
    _pending: int = 0
    _left: int = 0
    _end: float | None = None

    def take(self) -> Sequence[str]:
        """Return the ids of the next chunk; none if there is nothing to begin now."""
        if self._next >= len(self.ids) or (self.stepwise and self._pending):
            return ()
        if self._end is None and self.seconds is not None:  # the first chunk starts the clock
            self._end = time.monotonic() + self.seconds
        settled = self.stepwise and self.settled(self.verified, self._next)
        late = self._end is not None and self._next > 0 and time.monotonic() >= self._end
        if settled or late:
            self._left = len(self.ids) - self._next
            self.late = 0 if settled else self._left
            self._next = len(self.ids)
            return ()
        chunk = self.ids[self._next : self._next + _CHUNK]
        self._next += len(chunk)
        self._pending += 1
        return chunk

    def give(self, ids: Sequence[str], results: Sequence[Verification]) -> None:
        """Take the results of a chunk."""
        self.verified.update(zip(ids, results, strict=True))
        self._pending -= 1

    @property
    def done(self) -> bool:
        """Whether nothing is at work, and nothing is left to begin."""
        return self._next >= len(self.ids) and not self._pending

    @property
    def left(self) -> int:
        """How many pairs were never begun, once it is done."""
        return self._left

    @property
    def missing(self) -> list[str]:
        """Candidates that had no features, once it is done."""
        return [name for name in self.ids[: len(self.ids) - self._left] if name not in self.verified]


def needs_processes(config: VerificationConfig) -> bool:
    """Tell whether an estimator holds Python's interpreter lock, so that threads would take turns."""
    return config.estimator == "ransac"


def run_queries(
    runs: Iterable[QueryRun], read: Callable[[QueryRun, Sequence[str]], dict[str, LocalFeatures]], task: Task,
    *, workers: int, advanced: Callable[[int], None],
) -> Iterator[QueryRun]:  # fmt: skip
    """Verify the candidates of queries, and yield each query when it is done.

    Parameters
    ----------
    runs : iterable of QueryRun
        Taken a few at a time.
    read : callable
        From a query and ids of its candidates to features; ids without any are left out. Called in this thread.
    task : Task
    workers : int
        1: all is done in this thread.
    advanced : callable
        Called with a number of pairs that are done with, in this thread.
    """
    coming = iter(runs)
    at_work: dict[Future[list[Verification]], tuple[QueryRun, list[str], int]] = {}
    with _executor(task.config, workers) as executor, _dropped(at_work):
        local = isinstance(executor, (_Here, ThreadPoolExecutor))
        active: list[QueryRun] = []
        prepared: dict[int, Any] = {}
        while begun := list(_begun(active, coming, _QUERIES * workers)):
            for run in begun:
                if id(run) not in prepared:
                    prepared[id(run)] = _subject(run, task) if local else run.features
                while len(at_work) < _WAITING * workers and (chunk := run.take()):
                    found = read(run, chunk)
                    arguments = (prepared[id(run)], list(found.values()), task)
                    at_work[executor.submit(_verify, *arguments)] = (run, list(found), len(chunk))
            for run in [run for run in active if run.done]:
                active.remove(run)
                del prepared[id(run)]
                yield run
            for future in wait(at_work, return_when=FIRST_COMPLETED).done if at_work else ():
                run, ids, count = at_work.pop(future)
                run.give(ids, future.result())
                advanced(count)


def _begun(active: list[QueryRun], coming: Iterator[QueryRun], most: int) -> Iterator[QueryRun]:
    """Yield the queries at work, then new ones while there are fewer than `most`."""
    yield from list(active)
    while len(active) < most and (run := next(coming, None)) is not None:
        active.append(run)
        yield run


def _subject(run: QueryRun, task: Task) -> PairVerifier | None:
    """Make a query ready once for all its pairs."""
    if run.features is None:
        return None
    return PairVerifier(run.features, config=task.config, exponent=task.exponent, seed=task.seed)


def _verify(
    query: PairVerifier | LocalFeatures | None, candidates: Sequence[LocalFeatures], task: Task
) -> list[Verification]:
    if isinstance(query, LocalFeatures):
        query = PairVerifier(query, config=task.config, exponent=task.exponent, seed=task.seed)
    return [] if query is None else [query(candidate) for candidate in candidates]


class _Here(Executor):
    """Does everything at once, in the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def _dropped(at_work: Iterable[Future[Any]]) -> Iterator[None]:
    """Cancel what still waits at the end: after an error or Ctrl-C, as otherwise nothing does."""
    try:
        yield
    finally:
        for future in at_work:
            future.cancel()


# Processes of the last call, for the next: they take longer to start than a few hundred pairs. Not those that loky
# shares out in a program, which joblib could not use after us.
_idle: list[tuple[int, Executor]] = []
atexit.register(_idle.clear)  # while loky can still say good-bye to them


def _processes(workers: int) -> Executor:
    """Return processes of one BLAS thread each: idle ones, or new ones."""
    from joblib.externals.loky import ProcessPoolExecutor

    while _idle:
        count, executor = _idle.pop()
        with suppress(BrokenExecutor):  # one may have been killed since
            if count == workers:
                executor.submit(int).result()
                return executor
        executor.shutdown()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    made: Executor = ProcessPoolExecutor(max_workers=workers, timeout=_IDLE_SECONDS, env=threads)
    return made


@contextmanager
def _executor(config: VerificationConfig, workers: int) -> Iterator[Executor]:
    if workers == 1:
        yield _Here()
    elif needs_processes(config):
        executor = _processes(workers)
        with ExitStack() as if_stopped:
            # What runs is waited for, it is short; killed while tasks wait, loky itself fails.
            if_stopped.callback(executor.shutdown)
            try:
                yield executor
            except BrokenExecutor as error:
                raise DelfEngineError(
                    "a process that verified pairs has died, as it does for lack of memory; call again with fewer "
                    "workers, and with a checkpoint to go on from what is finished"
                ) from error
            if_stopped.pop_all()
        _idle.append((workers, executor))
    else:
        pool = ThreadPoolExecutor(workers)
        try:
            yield pool
        finally:  # also on Ctrl-C: what runs is short, what waits is dropped
            pool.shutdown(cancel_futures=True)
