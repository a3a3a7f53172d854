"""The one process pool: for decoders, which may crash on a damaged file, and for code that holds Python's lock.

Processes are started anew, not forked: torch's threads do not survive a fork. Each has a pipe of its own: in the
standard library's pools they share one and its lock, so that one that is killed while it writes its answer takes
the others along; and their answers, which are large, come one after the other.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from itertools import islice
from multiprocessing import current_process, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

from delf_engine.errors import ConfigError, DelfEngineWarning, ProcessDiedError
from delf_engine.support.threads import lock_across_forks

Item = TypeVar("Item")
T = TypeVar("T")

_TRIES = 2
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_starting = lock_across_forks()


class ProcessPool(Executor):
    """Calls functions in worker processes of one BLAS and OpenMP thread each; an executor of the standard library.

    Processes are started as they are needed; `begin` is called in each before anything else. One that dies takes
    only its own call along, which is made once more in a new process. Functions, arguments and results must be
    picklable, and functions importable: a caller's main module is not imported by the processes, so scripts need
    no ``if __name__ == "__main__"``. A `ConfigError` if this process is not allowed to have children: a daemonic
    one of `multiprocessing`, such as a worker of its `Pool`.
    """

    def __init__(self, workers: int, begin: Callable[[], object] | None = None) -> None:
        if not can_start_processes():
            raise ConfigError("a daemonic process of multiprocessing cannot start processes; give workers=0 or 1")
        self._begin = begin
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="process")  # each has one process
        self._mutex = threading.Lock()
        self._workers: dict[int, _Worker] = {}  # by thread
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Call `fn` in a process; the future is of a `ProcessDiedError` if the process died, twice."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after what was asked for or, with `cancel_futures`, at once; none outlives this call.

        Once more is harmless.
        """
        if cancel_futures:
            self._stop()
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        self._stop()

    def _stop(self) -> None:
        with self._mutex:
            self._closed = True
        for worker in self._workers.values():  # all are told before one is waited for
            worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()

    def _call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        for _ in range(_TRIES):
            worker = self._worker()
            try:
                if self._begin is not None and not worker.has_begun:
                    worker.call(self._begin, (), {})
                    worker.has_begun = True
                return worker.call(function, args, kwargs)
            except _DiedError:
                worker.process.kill()  # where only its pipe is broken
                worker.process.join()
        if self._closed:
            raise CancelledError
        raise ProcessDiedError(f"the process died {_TRIES} times: a library crashed, or memory ran out")

    def _worker(self) -> _Worker:
        """Return the process of this thread, a new one if it died."""
        with self._mutex:
            if self._closed:
                raise CancelledError
            worker = self._workers.get(threading.get_ident())
            if worker is None or not worker.process.is_alive():
                worker = self._workers[threading.get_ident()] = _Worker()
            return worker


class _DiedError(Exception):
    """The process has ended before it answered."""


class _Worker:
    """One process and the pipe to it. One thread makes its calls, any thread may kill it."""

    def __init__(self) -> None:
        self.has_begun = False
        self._pipe, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        with _starting, _without_main():
            resource_tracker.ensure_running()  # now: it lets go of the mask that the process is to inherit
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which it inherits
            try:
                self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()  # only the process has it now, so that its end is the end of the pipe

    def call(self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        request = ForkingPickler.dumps((function, args, kwargs))
        try:
            self._pipe.send_bytes(request)
            answer, told = self._pipe.recv_bytes(), self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise _DiedError from error
        returned, found = ForkingPickler.loads(answer)
        for category, text in ForkingPickler.loads(told):
            warnings.warn(text, _category(category, text), stacklevel=2)
        if not returned:
            raise found
        return found


def _serve(pipe: Connection) -> None:
    """Answer calls until the pipe ends. As many processes as cores are at work, so each has one thread."""
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # nothing that has threads is loaded yet
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = pipe.recv_bytes()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")  # the caller's filters decide
                try:
                    function, args, kwargs = ForkingPickler.loads(request)
                    answer = ForkingPickler.dumps((True, function(*args, **kwargs)))
                except Exception as error:  # noqa: BLE001 - the caller's, whatever it is
                    answer = ForkingPickler.dumps((False, ExceptionWithTraceback(error, error.__traceback__)))
            pipe.send_bytes(answer)
            pipe.send_bytes(
                ForkingPickler.dumps([(_pickled(each.category), str(each.message)) for each in caught])
            )
            del request, answer


def _pickled(category: type[Warning]) -> bytes:
    with contextlib.suppress(Exception):  # such as of a class in a function
        return bytes(ForkingPickler.dumps(category))
    return b""


def _category(pickled: bytes, text: str) -> type[Warning]:
    """Return the category of a process's warning; our own where this process cannot have or make such a one."""
    with contextlib.suppress(Exception):
        category: type[Warning] = ForkingPickler.loads(pickled)
        category(text)
        return category
    return DelfEngineWarning


def can_start_processes() -> bool:
    """Tell whether this process is allowed to have children."""
    return not current_process().daemon


_kept: dict[int, tuple[ProcessPool, threading.Timer]] = {}  # by the number of their workers
_keeping = lock_across_forks()
os.register_at_fork(after_in_child=_kept.clear)  # they are the parent's


@contextlib.contextmanager
def process_pool(
    workers: int, begin: Callable[[], object] | None = None, *, keep_seconds: float = 0.0
) -> Iterator[ProcessPool]:
    """Yield a `ProcessPool` whose processes end with the block, and at once: after an error or Ctrl-C too.

    After a block without an error, processes are kept for `keep_seconds` for the next block that asks for as many:
    only without `begin`, and for blocks that wait for all they submit.
    """
    with _keeping:
        pool, timer = _kept.pop(workers, (None, None)) if keep_seconds else (None, None)
    if timer is not None:
        timer.cancel()
    pool = pool or ProcessPool(workers, begin)
    with contextlib.ExitStack() as at_once:
        at_once.callback(pool.shutdown, cancel_futures=True)
        yield pool
        if keep_seconds:
            timer = threading.Timer(keep_seconds, _end, (workers, pool))
            timer.daemon = True
            with _keeping:
                if _kept.setdefault(workers, (pool, timer))[0] is pool:  # there is none yet
                    timer.start()
                    at_once.pop_all()


def _end(workers: int, pool: ProcessPool) -> None:
    with _keeping:
        if workers not in _kept or _kept[workers][0] is not pool:  # taken again just now
            return
        del _kept[workers]
    pool.shutdown()


def map_ordered(
    submit: Callable[[Item], Future[T]], items: Iterable[Item], in_flight: int
) -> Generator[tuple[Item, Future[T]], None, None]:
    """Yield each item with the future of its result, in order, while the next ones are at work.

    `items` is read lazily: at most `in_flight` of them are submitted, to any executor, and not yet taken, so that
    memory does not grow with their number.
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
