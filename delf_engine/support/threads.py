"""Work that is shared out among threads: kernels compiled by numba, FLANN and faiss let go of the interpreter."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from delf_engine.errors import ConfigError

T = TypeVar("T")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lock_across_forks() -> threading.RLock:
    """Return a lock, for the time of the process, that a forked child never finds taken by a thread that it lacks.

    The process waits for it before it forks.
    """
    lock = threading.RLock()
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


_torch_lost_its_threads = False


def _note_fork() -> None:
    global _torch_lost_its_threads
    _torch_lost_its_threads = "torch" in sys.modules


os.register_at_fork(after_in_child=_note_fork)


def torch_after_fork() -> None:
    """Let torch compute in the calling thread in a forked child, whose parent has loaded it.

    Its threads have stayed in the parent: what asks for them would wait for ever. Called before torch computes;
    does nothing the second time, so whoever knows better may give it threads again.
    """
    global _torch_lost_its_threads
    if _torch_lost_its_threads:
        sys.modules["torch"].set_num_threads(1)
        _torch_lost_its_threads = False


def check_threads(threads: int | None) -> int:
    """Return the number of threads: as given, or one a usable core.

    A `ConfigError` if it is no whole number of at least 1.
    """
    if threads is None:
        return usable_cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"threads must be a whole number of at least 1, got {threads!r}")
    return threads


def in_threads(
    call: Callable[[int], T], count: int, threads: int, progress: Callable[[int], None] | None = None
) -> list[T]:
    """Return ``[call(0), ..., call(count - 1)]``, computed by several threads, or by the calling one alone.

    Results must not depend on the order of the calls. `progress` is called in the calling thread with the number
    of results so far, after each. What a call raises is raised, the first by number; calls that have not begun are
    dropped then.
    """
    out = []
    if min(count, threads) <= 1:
        for i in range(count):
            out.append(call(i))
            if progress is not None:
                progress(i + 1)
        return out
    pool = ThreadPoolExecutor(min(count, threads))
    try:
        for i, result in enumerate(pool.map(call, range(count))):
            out.append(result)
            if progress is not None:
                progress(i + 1)
    finally:  # also on Ctrl-C: what runs is short, what waits is dropped
        pool.shutdown(cancel_futures=True)
    return out


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block has ended: for work after which more is done all the same.

    Numba cannot be interrupted while it compiles: LLVM's lock may stay taken, and what comes next waits for ever.
    In threads other than the main one, which Ctrl-C does not reach, this does nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None: set by a C library
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def faiss_in_one_thread() -> Iterator[None]:
    """Let faiss work in the calling thread only: work is shared out by `in_threads`, and not by OpenMP."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
