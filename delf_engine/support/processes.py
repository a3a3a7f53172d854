"""The one process pool: for decoders, which may crash on a damaged file, and for code that holds Python's lock.

Processes are started anew, not forked: torch's threads do not survive a fork. Each is a pebble pool of its own: in
a pool of several they share a pipe and its lock, so that one that is killed while it writes its answer would take
the others along; and their answers, which are large, would come one after the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import current_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

import pebble

from delf_engine.errors import ConfigError, ProcessDiedError

__all__ = ["ProcessPool", "can_start_processes", "map_ordered", "process_pool"]

Item = TypeVar("Item")
T = TypeVar("T")

_TRIES = 2
_LOOK_SECONDS = 1.0
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_starting = threading.Lock()


class ProcessPool(Executor):
    """Calls functions in worker processes of one BLAS and OpenMP thread each; an executor of the standard library.

    Processes are started as they are needed. One that dies takes only its own call along, which is made once more
    in a new process. Functions, arguments and results must be picklable, and functions importable: a caller's main
    module is not imported by the processes, so scripts need no ``if __name__ == "__main__"``.

    Parameters
    ----------
    workers : int
        Processes, at least 1.
    begin : callable or None
        Called in each process before anything else.
    arguments : tuple
        Of `begin`.

    Raises
    ------
    ConfigError
        If this process is not allowed to have children: a daemonic one of `multiprocessing`, such as a worker of
        its `Pool`.
    """

    def __init__(
        self, workers: int, begin: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
    ) -> None:
        if not can_start_processes():
            raise ConfigError("a daemonic process of multiprocessing cannot start processes; give workers=0 or 1")
        self._begin, self._arguments = begin, arguments
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="process")  # each waits for one process
        self._own = threading.local()
        self._mutex = threading.Lock()
        self._all: set[_Worker] = set()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `fn` in a process.

        Returns
        -------
        Future
            Of the result, or of the error that `fn` raised; of a `ProcessDiedError` if the process died, twice.
        """
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes; once more is harmless.

        Parameters
        ----------
        wait : bool
            Ignored: a process never outlives this call.
        cancel_futures : bool
            Drop what waits and what is at work, at once. False: finish it first.
        """
        if cancel_futures:
            self._stop()
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        self._stop()

    def _stop(self) -> None:
        with self._mutex:
            self._closed = True
            workers, self._all = self._all, set()
        for worker in workers:  # all are told before one is waited for
            worker.stop()
        for worker in workers:
            worker.join()

    def _call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        for _ in range(_TRIES):
            worker = self._worker()
            try:
                return worker.call(function, args, kwargs)
            except (pebble.ProcessExpired, BrokenProcessPool):
                self._drop(worker)
        raise ProcessDiedError(f"the process died {_TRIES} times: a library crashed, or memory ran out")

    def _worker(self) -> _Worker:
        """Return the process of this thread, a new one if it died."""
        worker: _Worker | None = getattr(self._own, "worker", None)
        if worker is not None and worker.dead:
            self._drop(worker)
        with self._mutex:
            if self._closed:
                raise CancelledError
            if worker is None or worker not in self._all:
                worker = self._own.worker = _Worker(self._begin, self._arguments)
                self._all.add(worker)
            return worker

    def _drop(self, worker: _Worker) -> None:
        with self._mutex:
            self._all.discard(worker)
        worker.stop()
        worker.join()


class _Worker:
    """One process. One thread makes its calls, any thread may stop it."""

    def __init__(self, begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
        self._context = _Context()
        self._pool = pebble.ProcessPool(max_workers=1, initializer=_use_one_thread, context=self._context)
        self._begin, self._arguments = begin, arguments
        self._mutex, self._joining = threading.Lock(), threading.Lock()
        self._at_work: Future[Any] | None = None
        self._stopped = self._joined = False

    def call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        if self._begin is not None:  # not pebble's initializer: what it imports would be loaded before that runs
            self._result(self._begin, self._arguments, {})
            self._begin = None
        return self._result(function, args, kwargs)

    @property
    def dead(self) -> bool:
        """Whether the process has ended; pebble may have started another then, but this object is done with."""
        return any(not process.is_alive() for process in self._context.started())

    def stop(self) -> None:
        with self._mutex:
            self._stopped = True
            self._pool.stop()
            for process in self._context.started():  # before `join` closes the pipe that it may be writing to
                process.kill()
            if self._at_work is not None:  # pebble leaves it as it is, and whoever waits would wait on
                self._at_work.cancel()

    def join(self) -> None:
        with self._joining:  # once: the thread that waits for it may drop it while the pool ends
            if not self._joined:
                self._joined = True
                self._pool.join()

    def _result(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        with self._mutex:
            if self._stopped:
                raise CancelledError
            try:
                future = self._at_work = self._pool.schedule(function, args, kwargs)
            except RuntimeError as error:  # it died while it had nothing to do
                raise BrokenProcessPool from error
        try:
            # pebble forgets a call that is made just when it finds out that the process has died, and one that
            # ends its process with status 0.
            while not wait([future], _LOOK_SECONDS).done:
                if self.dead and not wait([future], _LOOK_SECONDS).done:
                    raise BrokenProcessPool
            return future.result()
        finally:
            self._at_work = None


class _Process(SpawnProcess):
    """A process that does not know the caller's main module, and that Ctrl-C does not reach."""

    def start(self) -> None:
        with _starting, _without_main():
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is started inherits it
            try:
                super().start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def terminate(self) -> None:
        """End it at once, also in the middle of a library's code: it holds nothing that others use."""
        self.kill()


class _Context(SpawnContext):
    """Makes processes of ours, and knows them."""

    def __init__(self) -> None:
        self._made: list[_Process] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Process:  # type: ignore[override]  # noqa: N802
        process = _Process(*args, **kwargs)
        self._made.append(process)
        return process

    def started(self) -> list[_Process]:
        return [process for process in self._made if process.pid is not None]


def can_start_processes() -> bool:
    """Tell whether this process is allowed to have children."""
    return not current_process().daemon


@contextlib.contextmanager
def process_pool(
    workers: int,
    begin: Callable[..., object] | None = None,
    arguments: tuple[Any, ...] = (),
    *,
    keep_seconds: float = 0.0,
) -> Iterator[ProcessPool]:
    """Yield a `ProcessPool` whose processes end with the block, and at once: after an error or Ctrl-C too.

    Parameters
    ----------
    workers, begin, arguments
        See `ProcessPool`.
    keep_seconds : float
        After a block without an error, keep the processes so long for the next block that asks for the same.
        Only for blocks that wait for all they submit. `arguments` must be hashable.
    """
    key = (workers, begin, arguments)
    pool = _kept_pool(key) or ProcessPool(workers, begin, arguments)
    with contextlib.ExitStack() as at_once:
        at_once.callback(pool.shutdown, cancel_futures=True)
        yield pool
        if keep_seconds > 0:
            at_once.pop_all()
            _keep(key, pool, keep_seconds)


_kept: dict[Hashable, tuple[ProcessPool, threading.Timer]] = {}
_keeping = threading.Lock()


def _keep(key: Hashable, pool: ProcessPool, seconds: float) -> None:
    """Put a pool away; it ends after some time, or if there is one already."""
    timer = threading.Timer(seconds, _end, (key, pool))
    timer.daemon = True
    with _keeping:
        if _kept.setdefault(key, (pool, timer))[0] is pool:
            timer.start()
            return
    pool.shutdown()


def _kept_pool(key: Hashable) -> ProcessPool | None:
    with _keeping:
        pool, timer = _kept.pop(key, (None, None))
    if timer is not None:
        timer.cancel()
    return pool


def _end(key: Hashable, pool: ProcessPool) -> None:
    with _keeping:
        if key not in _kept or _kept[key][0] is not pool:  # taken again just now
            return
        del _kept[key]
    pool.shutdown()


def map_ordered(
    submit: Callable[[Item], Future[T]], items: Iterable[Item], in_flight: int
) -> Generator[tuple[Item, Future[T]], None, None]:
    """Yield each item with the future of its result, in order, while the next ones are at work.

    Parameters
    ----------
    submit : callable
        From an item to the future of its result, of any executor.
    items : iterable
        Read lazily.
    in_flight : int
        Items submitted and not yet taken, at most: memory does not grow with their number.
    """
    remaining = iter(items)
    ahead: deque[tuple[Item, Future[T]]] = deque()
    try:
        while True:
            ahead.extend((item, submit(item)) for item in islice(remaining, in_flight - len(ahead)))
            if not ahead:
                return
            yield ahead.popleft()  # no name here keeps its result
    finally:
        for _, waiting in ahead:
            waiting.cancel()


def _use_one_thread() -> None:
    """Begin a process: there are as many as cores to use. Nothing that has threads is loaded yet."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide where the main module came from, so that a new process does not import it."""
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None
    main.pop("__file__", None)
    try:
        yield
    finally:
        main.update(kept)
