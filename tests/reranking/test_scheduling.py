"""How pairs are shared out: the same bits with any workers, clean ends after errors, time, early stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import RankingConfig, RerankingConfig, VerificationConfig, load_profile
from delf_engine.errors import ConfigError, DelfEngineWarning, ProcessDiedError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch, scheduling
from delf_engine.reranking.scheduling import QueryJob
from delf_engine.verification import BatchVerifier, PairVerifier, Verification, verify_features
from helpers import raises, random_features, seen_again
from verification.answers import answer

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


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("verification", [THREADS, PROCESSES], ids=["threads", "processes"])
def test_more_queries_than_fit_at_once_give_the_same_bits(
    world: Any, verification: VerificationConfig, workers: int
) -> None:
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


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A card that is a CPU; returns the sizes of the batches that it has verified."""
    sizes: list[int] = []
    verify = BatchVerifier.__call__

    def noted(self: BatchVerifier, pairs: Any) -> list[Verification]:
        sizes.append(len(pairs))
        return verify(self, pairs)

    monkeypatch.setattr("delf_engine.model.device.choose_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr("delf_engine.verification.batched.CARDS", {"cpu"})
    monkeypatch.setattr(BatchVerifier, "__call__", noted)
    return sizes


@pytest.mark.parametrize(
    "options",
    [{}, {"ranking": CAPPED, "reranking": RerankingConfig(top_n=100, top_k=1)}],
    ids=["all", "stopped early"],
)
def test_a_card_gives_the_same_rankings(
    world: Any, card: list[int], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(scheduling, "_CARD_QUERIES", 8)
    shortlists = {**batch_of(20), "q0": [], "q1": ["i3", "nothing", "i4"]}
    done: list[int] = []
    given: dict[str, Any] = {"on_missing": "ignore", **options}
    alone = run(world, shortlists, **given)
    found = run(world, shortlists, device="cuda", progress=lambda pairs, _: done.append(pairs), **given)
    assert list(found) == list(alone)
    for query, ranking in alone.items():
        assert [(c.id, c.inliers, c.verdict) for c in found[query]] == [
            (c.id, c.inliers, c.verdict) for c in ranking
        ]
    assert max(card) > 10  # several queries in a batch
    assert sum(card) == sum(c.verification is not None for ranking in alone.values() for c in ranking)
    assert done == sorted(done)
    assert done[-1] == sum(map(len, shortlists.values()))


def test_other_ways_do_not_ask_the_card(world: Any, card: list[int]) -> None:
    alone = run(world, batch_of(4), verification=PROCESSES)
    assert run(world, batch_of(4), verification=PROCESSES, device="cuda") == alone
    assert not card


def test_a_device_that_is_not_there_is_refused(world: Any) -> None:
    with raises(ConfigError, "cuda:99"):
        run(world, batch_of(2), device="cuda:99")
    assert run(world, batch_of(2), device="auto" if not torch.cuda.is_available() else "cpu") == run(
        world, batch_of(2)
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
    with raises(UnknownIdError, "'nobody'"):
        run(world, shortlists, workers=workers, on_missing="raise")


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
def test_an_error_of_the_source_or_the_progress_ends_the_call(
    world: Any, error: BaseException, workers: int, after: int
) -> None:
    def progress(done: int, total: int) -> None:
        raise error

    shortlists = batch_of(12)
    for source in ({"images": raising(world[1], error, after)}, {"progress": progress}):
        with pytest.raises(type(error)):
            run(world, shortlists, **source, workers=workers)
    assert run(world, shortlists, workers=workers) == run(world, shortlists)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_in_a_worker_ends_the_call(world: Any, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, calls = PairVerifier.__call__, count()

    def broken(*arguments: Any) -> Any:
        if next(calls) == 23:
            raise BrokenError("lost")
        return verify(*arguments)

    monkeypatch.setattr(PairVerifier, "__call__", broken)
    with raises(BrokenError):
        run(world, batch_of(12), workers=workers)


def test_an_error_in_a_process_ends_the_call_and_the_next_goes_well(world: Any) -> None:
    shortlists = batch_of(6)
    options: dict[str, Any] = {"verification": PROCESSES, "workers": 2}
    with raises(ConfigError):
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
        with raises(ProcessDiedError):
            run(world, shortlists, progress=progress, **options)
    finally:
        over.set()
        half_done.set()
        killer.join()
    assert (tmp_path / "journal").read_bytes().count(b"\n") > 1
    assert run(world, shortlists, **options) == run(world, shortlists, verification=PROCESSES)


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


#: Images of as many features as the verification below gives them inliers.
SIZES = {n: random_features(np.random.default_rng(n), n, 2) for n in range(41)}


def pretended(c: LocalFeatures) -> Verification:
    """Verify by saying that all features are inliers."""
    return answer(len(c), 1.0)


def rule(**more: Any) -> RankingConfig:
    return RankingConfig(**{"score": "inliers", "exponent": 3.0, "blend": 0.0, **more})


def stopped(
    inliers: list[int | None], first: list[float] | None, ranking: RankingConfig, chunk: int, **budget: Any
) -> list[RankedCandidate]:
    """Re-rank candidates with these inliers (None: no features) and first scores."""
    names = [f"i{k}" for k in range(len(inliers))]
    images = {name: SIZES[n] for name, n in zip(names, inliers, strict=True) if n is not None}
    shortlist: Any = names if first is None else list(zip(names, first, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RerankOptions, "verifier", lambda *_: pretended)
        patch.setattr(scheduling, "_CHUNK", chunk)
        reranking = RerankingConfig(top_n=budget.pop("top_n", 100), **budget)
        options = RerankOptions(reranking, THREADS, ranking, on_missing="ignore")
        seen: list[tuple[int, int]] = []
        lists = {"q": shortlist}
        found = rerank_batch({"q": SIZES[3]}, lists, images, options, progress=lambda *now: seen.append(now))
    assert all(done == total for done, total in seen[-1:])
    return found["q"]


def verified_of(ranking: list[RankedCandidate]) -> int:
    return sum(c.verification is not None for c in ranking)


@given(data=st.data(), top_k=st.integers(1, 6), chunk=st.integers(1, 4), falling=st.booleans())
def test_the_first_places_are_those_of_all_verifications(
    data: st.DataObject, top_k: int, chunk: int, falling: bool
) -> None:
    # Few different values, so that ties at the cap and below it abound.
    inliers = data.draw(st.lists(st.sampled_from([None, 0, 3, 9, 10, 11, 40]), max_size=25))
    values = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1e3, 1e3))
    first = data.draw(st.none() | st.lists(values, min_size=len(inliers), max_size=len(inliers)))
    if falling and first is not None:
        first.sort(reverse=True)
    cap = data.draw(st.sampled_from([1.0, 9.5, 10.0, 35.0]))
    ranking = rule(cap=cap, score=data.draw(st.sampled_from(["inliers", "weighted"])))
    top_n = data.draw(st.sampled_from([7, 100]))
    everything = stopped(inliers, first, ranking, chunk, top_n=top_n)
    found = stopped(inliers, first, ranking, chunk, top_n=top_n, top_k=top_k)
    assert [(c.id, c.ranking_score, c.first_rank) for c in found[:top_k]] == [
        (c.id, c.ranking_score, c.first_rank) for c in everything[:top_k]
    ]
    assert sorted(c.id for c in found) == sorted(c.id for c in everything)
    assert verified_of(found) <= verified_of(everything)
    known = {c.id: c.verification for c in everything}
    assert all(c.verification in (None, known[c.id]) for c in found)


FALLING = [1 - k / 100 for k in range(25)]


@pytest.mark.parametrize(
    ("inliers", "first", "cap", "chunk", "top_k", "verified"),
    [
        ([40] * 25, FALLING, 10.0, 4, 5, 8),  # two chunks hold five that are sure
        ([40] * 25, None, 10.0, 4, 5, 8),
        ([10] * 7 + [0] * 18, FALLING, 10.0, 1, 5, 5),
        ([9] * 25, FALLING, 10.0, 4, 5, 25),  # a later one could be better
        ([40] * 25, FALLING[::-1], 10.0, 4, 5, 8),  # the order of the list decides, whatever the scores
        ([40] * 25, FALLING, None, 4, 1, 25),
        ([40] * 25, FALLING, 10.0, 4, None, 25),
    ],
)
def test_fewer_pairs_are_verified_when_the_first_are_sure(
    inliers: Any, first: Any, cap: float | None, chunk: int, top_k: int | None, verified: int
) -> None:
    found = stopped(inliers, first, rule(cap=cap), chunk, top_k=top_k)
    assert verified_of(found) == verified
    assert found[0].id == "i0"
