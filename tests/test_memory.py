"""Idle memory goes back to the system."""

from __future__ import annotations

import pytest

from delf_engine.support import memory
from delf_engine.support.memory import Heap


def test_heap_gives_back_once_a_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    mib = 1 << 20
    resident = [500, 600, 627, 629, 520, 640, 649]
    given: list[int] = []
    sizes = iter(resident)
    monkeypatch.setattr(memory, "_resident", lambda: next(sizes) * mib)
    monkeypatch.setattr(memory, "_malloc_trim", lambda: given.append)
    heap = Heap()
    for _ in resident:
        heap.give_back()
    assert given == [0, 0]  # at 629 MiB, 129 above the first; and at 649, 129 above what the image after it left


def test_heap_does_nothing_where_the_system_has_no_such_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_malloc_trim", lambda: None)
    monkeypatch.setattr(memory, "_resident", lambda: pytest.fail("asked"))
    Heap().give_back()


@pytest.mark.skipif(memory._malloc_trim() is None, reason="the C library is not glibc")
def test_resident_memory_is_that_of_the_process() -> None:
    assert 10 << 20 < memory._resident() < 1 << 40
    trim = memory._malloc_trim()
    assert trim is not None
    assert trim(0) in (0, 1)
