"""As much work at a time as a machine can do, and answers in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from delf_engine.serve.limits import WorkQueue
from delf_engine.serve.metrics import Metrics
from delf_engine.serve.problems import Refused


def in_queue(check: Callable[[WorkQueue], Any], seconds: float = 30.0) -> None:
    queue = WorkQueue("test", 1, 1, seconds, Metrics())
    try:
        asyncio.run(check(queue))
    finally:
        queue.close()


def test_more_than_may_wait_is_refused_and_room_comes_back() -> None:
    go = threading.Event()

    async def check(queue: WorkQueue) -> None:
        first, second = (asyncio.create_task(queue.run(go.wait, 30)) for _ in range(2))
        await asyncio.sleep(0.05)
        with pytest.raises(Refused) as caught:
            await queue.run(int)
        assert (caught.value.status_code, caught.value.code) == (429, "busy")
        assert caught.value.headers == {"Retry-After": "1"}
        go.set()
        assert await first
        assert await second
        assert await queue.run(int) == 0

    in_queue(check)


def test_what_takes_too_long_is_refused_and_keeps_its_place_until_it_ends() -> None:
    go = threading.Event()

    async def check(queue: WorkQueue) -> None:
        for _ in range(2):
            with pytest.raises(Refused) as caught:
                await queue.run(go.wait, 30)
            assert (caught.value.status_code, caught.value.code) == (503, "too_slow")
        go.set()
        await asyncio.sleep(0.2)
        with pytest.raises(ZeroDivisionError):
            await queue.run(divmod, 1, 0)

    in_queue(check, 0.1)


def test_a_queue_that_is_closed_says_so() -> None:
    async def check(queue: WorkQueue) -> None:
        queue.close()
        with pytest.raises(Refused) as caught:
            await queue.run(int)
        assert caught.value.status_code == 503

    in_queue(check)
