"""How pairs are shared out: the same bits with any workers, clean ends after errors, limits of time."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from delf_engine.config import RankingConfig, RerankingConfig, VerificationConfig, load_profile
from delf_engine.errors import ConfigError, DelfEngineWarning, ProcessDiedError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RerankOptions, rerank_batch, scheduling
from delf_engine.reranking.scheduling import QueryJob, needs_processes
from delf_engine.verification import PairVerifier, verify_features
from helpers import random_features, seen_again

THREADS = load_profile("default").verification
PROCESSES = load_profile("delf").verification.model_copy(update={"max_iterations": 20})
INLIERS = RankingConfig(score="inliers", exponent=3.0, blend=0.0)
CAPPED = RankingConfig(score="inliers", exponent=3.0, blend=0.0, cap=15.0)


@pytest.fixture(scope="module")
def world() -> tuple[dict[str, LocalFeatures], dict[str, LocalFeatures]]:
    """Three queries; image i shares i features with query i modulo 3."""
    rng = np.random.default_rng(2)
    queries = {f"q{k}": random_features(rng, 40, 8) for k in range(3)}
    return queries, {f"i{i}": seen_again(rng, queries[f"q{i % 3}"], i) for i in range(40)}


def batch_of(queries: int) -> dict[str, list[tuple[str, float]]]:
    """Shortlists of different lengths, some of them empty."""
    return {
        f"q{k % 3} {k}": [(f"i{(7 * k + i) % 40}", 1 - i / 100) for i in range([0, 3, 10, 27, 40][k % 5])]
        for k in range(queries)
    }


def run(world: Any, shortlists: Any, **options: Any) -> Any:
    queries, images = world
    given: dict[str, Any] = {
        "reranking": RerankingConfig(top_n=100),
        "verification": THREADS,
        "ranking": INLIERS,
        "workers": 1,
        **options,
    }
    query_of = given.pop("queries", lambda query: queries.get(query.partition(" ")[0]))
    image_of = given.pop("images", images)
    others = {name: given.pop(name) for name in ("progress", "checkpoint") if name in given}
    return rerank_batch(query_of, shortlists, image_of, RerankOptions(**given), **others)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("ThreadPoolExecutor")]
    assert not left


# ------------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("verification", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_more_queries_than_fit_at_once_give_the_same_bits(
    world: Any, verification: VerificationConfig, workers: int
) -> None:
    assert needs_processes(verification) == (verification is PROCESSES)
    shortlists = batch_of(4 * workers + 6)
    options: dict[str, Any] = {"verification": verification, "seed": 11}
    alone = run(world, shortlists, **options)
    assert run(world, shortlists, workers=workers, **options) == alone
    reordered = dict(reversed(shortlists.items()))
    assert run(world, reordered, workers=workers, **options) == alone
    queries, images = world
    c = alone["q0 3"][0]
    assert c.verification == verify_features(
        queries["q0"], images[c.id], config=verification, exponent=3.0, seed=11
    )


@pytest.mark.parametrize("workers", [2, 5])
def test_what_is_stopped_early_has_the_same_bits_too(world: Any, workers: int) -> None:
    shortlists = batch_of(20)
    options: dict[str, Any] = {"ranking": CAPPED, "reranking": RerankingConfig(top_n=100, top_k=1)}
    alone = run(world, shortlists, **options)
    assert any(c.verification is None for ranking in alone.values() for c in ranking)
    assert run(world, shortlists, workers=workers, **options) == alone


@pytest.mark.parametrize("workers", [1, 3])
def test_queries_without_candidates_and_without_features(world: Any, workers: int) -> None:
    shortlists = {"q0": [], "nobody": ["i1", "i2"], "q1": ["i4"], "q2": []}
    with pytest.warns(DelfEngineWarning, match=r"1 \(query 'nobody'\)"):
        found = run(world, shortlists, workers=workers)
    assert {query: [c.id for c in ranking] for query, ranking in found.items()} == shortlists
    assert found["q1"][0].verification is not None
    empty = random_features(np.random.default_rng(0), 0, 8)
    found = run(world, {"e": ["i1"]}, queries=lambda _: empty, workers=workers)
    assert found["e"][0].inliers == 0
    with pytest.raises(UnknownIdError, match="query 'nobody'"):
        run(world, shortlists, workers=workers, on_missing="raise")


def test_candidates_that_are_all_missing(world: Any) -> None:
    with pytest.warns(DelfEngineWarning, match=": 30 "):
        found = run(world, {"q0": [f"x{i}" for i in range(30)]}, workers=2)
    assert all(c.verification is None for c in found["q0"])


# --------------------------------------------------------------------------------------------------------- errors


class BrokenError(Exception):
    """What a source of features raises that nobody foresaw."""


def raising(images: dict[str, LocalFeatures], error: BaseException, after: int) -> Callable[[str], LocalFeatures]:
    calls = count()

    def get(image_id: str) -> LocalFeatures:
        if next(calls) == after:
            raise error
        return images[image_id]

    return get


@pytest.mark.parametrize("error", [BrokenError("lost"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("after", [0, 25])
def test_an_error_of_the_source_ends_the_call(world: Any, error: BaseException, workers: int, after: int) -> None:
    shortlists = batch_of(12)
    with pytest.raises(type(error)):
        run(world, shortlists, images=raising(world[1], error, after), workers=workers)
    assert run(world, shortlists, workers=workers) == run(world, shortlists)


@pytest.mark.parametrize("error", [BrokenError("lost"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_the_progress_ends_the_call(world: Any, error: BaseException, workers: int) -> None:
    def progress(done: int, total: int) -> None:
        raise error

    with pytest.raises(type(error)):
        run(world, batch_of(12), workers=workers, progress=progress)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_in_a_worker_ends_the_call(world: Any, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, calls = PairVerifier.__call__, count()

    def broken(*arguments: Any) -> Any:
        if next(calls) == 23:
            raise BrokenError("lost")
        return verify(*arguments)

    monkeypatch.setattr(PairVerifier, "__call__", broken)
    with pytest.raises(BrokenError, match="lost"):
        run(world, batch_of(12), workers=workers)


def test_an_error_in_a_process_ends_the_call_and_the_next_goes_well(world: Any) -> None:
    shortlists = batch_of(6)
    options: dict[str, Any] = {"verification": PROCESSES, "workers": 2}
    with pytest.raises(ConfigError, match="seed"):
        run(world, shortlists, seed=-1, **options)
    with pytest.raises(KeyboardInterrupt):
        run(world, shortlists, images=raising(world[1], KeyboardInterrupt(), 5), **options)
    assert run(world, shortlists, **options) == run(world, shortlists, verification=PROCESSES)


def pids() -> set[int]:
    """The processes that verify."""
    return {process.pid for process in active_children() if process.pid is not None}


def test_processes_are_used_again_and_replaced_if_they_died_in_between(world: Any) -> None:
    options: dict[str, Any] = {"verification": PROCESSES, "workers": 2}
    alone = run(world, batch_of(4), verification=PROCESSES)
    assert run(world, batch_of(4), **options) == alone
    before = pids()
    assert before
    assert run(world, batch_of(4), **options) == alone
    assert pids() == before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert run(world, batch_of(4), **options) == alone
    assert pids()
    assert not pids() & before


def test_a_process_that_is_killed_takes_nothing_along(world: Any) -> None:
    shortlists = batch_of(30)
    options: dict[str, Any] = {"verification": PROCESSES, "workers": 2}
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if done >= total // 2 and not killed:
            killed.append(min(pids()))
            os.kill(killed[0], signal.SIGKILL)

    assert run(world, shortlists, progress=progress, **options) == run(world, shortlists, verification=PROCESSES)
    assert killed


def test_processes_that_always_die_are_said_and_the_next_call_goes_well(world: Any, tmp_path: Path) -> None:
    shortlists = batch_of(30)
    options: dict[str, Any] = {"verification": PROCESSES, "workers": 2, "checkpoint": tmp_path / "journal"}
    half_done, over = threading.Event(), threading.Event()

    def kill() -> None:
        half_done.wait()
        while not over.is_set():
            for pid in pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def progress(done: int, total: int) -> None:
        if done >= total // 2:
            half_done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(ProcessDiedError, match="checkpoint"):
            run(world, shortlists, progress=progress, **options)
    finally:
        over.set()
        half_done.set()
        killer.join()
    assert (tmp_path / "journal").read_bytes().count(b"\n") > 1
    assert run(world, shortlists, **options) == run(world, shortlists, verification=PROCESSES)


# ----------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("workers", [1, 2])
def test_time_that_is_over_at_once_verifies_the_first_chunk(
    world: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count()
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shortlists = {q: [f"i{i}" for i in range(40)] for q in ("q0", "q1")}
    seen: list[tuple[int, int]] = []
    with pytest.warns(DelfEngineWarning) as caught:
        found = run(
            world,
            shortlists,
            reranking=RerankingConfig(top_n=35, seconds=0.5),
            workers=workers,
            progress=lambda *now: seen.append(now),
        )
    assert [str(w.message) for w in caught] == ["not verified for lack of time: 50 pairs"]
    assert seen[-1] == (70, 70)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    for ranking in found.values():
        assert {c.id for c in ranking[:10]} == {f"i{i}" for i in range(10)}
        assert all(c.verification is not None for c in ranking[:10])
        assert [(c.id, c.verification) for c in ranking[10:]] == [(f"i{i}", None) for i in range(10, 40)]


def test_time_that_is_enough_changes_nothing(world: Any) -> None:
    shortlists = batch_of(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(world, shortlists, reranking=RerankingConfig(top_n=100, seconds=1e6), workers=2)
    assert found == run(world, shortlists)


def test_a_query_that_is_settled_when_its_time_is_over_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    for settled, late in ((True, 0), (False, 20)):
        turns = iter([False, settled])
        ids = [str(i) for i in range(30)]
        query = QueryJob("q", LocalFeatures.empty((9, 9)), ids, lambda _, turns=turns: next(turns), 0.5)
        assert len(query.take()) == 10
        assert not query.take()  # the first chunk is at work
        query.give([], [])
        assert not query.take()
        assert (query.done, len(query.skipped), query.timed_out) == (True, 20, late)
