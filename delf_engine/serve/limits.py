"""Work in threads, as much at a time as a machine can do, and no more waiting than can be answered in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from delf_engine.serve.metrics import Metrics
from delf_engine.serve.problems import Refused

T = TypeVar("T")


class WorkQueue:
    """Calls functions in `threads`; at most so many calls wait, more are refused. `name` is that in the figures.

    A call is answered within `seconds`; one that takes longer still keeps its thread until it ends.
    """

    def __init__(self, name: str, threads: int, waiting: int, seconds: float, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._seconds, self._metrics = threads + waiting, seconds, metrics
        self._gauge = metrics.busy.labels(name)
        self._busy, self._lock = 0, threading.Lock()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Return what a function returns; `Refused` if too much waits (429) or it takes too long (503)."""
        with self._lock:
            if self._busy >= self._most:
                raise Refused(429, "busy", "too much work is waiting; try again", retry_after=1)
            self._busy += 1
            self._gauge.set(self._busy)
        begin = time.perf_counter()

        def timed() -> T:
            self._metrics.stages.labels("wait").observe(time.perf_counter() - begin)
            return function(*args)

        try:
            future = self._pool.submit(timed)
        except RuntimeError:
            self._done(None)
            raise Refused(503, "stopping", "the server is going down", retry_after=5) from None
        future.add_done_callback(self._done)
        done, _ = await asyncio.wait([wrapped := asyncio.wrap_future(future)], timeout=self._seconds)
        if not done:
            future.cancel()
            wrapped.add_done_callback(lambda late: late.cancelled() or late.exception())  # heard by nobody
            raise Refused(503, "too_slow", f"not done within {self._seconds:g} seconds", retry_after=5)
        return wrapped.result()

    def close(self) -> None:
        """Wait for what runs, and drop what waits."""
        self._pool.shutdown(cancel_futures=True)

    def _done(self, _: Future[Any] | None) -> None:
        with self._lock:
            self._busy -= 1
            self._gauge.set(self._busy)
