"""Stopping early: with any cap and any first scores, the first places are those that all verifications give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.reranking import RankedCandidate, RerankOptions, rerank_batch, rerank_shortlist, scheduling
from delf_engine.verification import Verification
from helpers import random_features

VERIFICATION = load_profile("default").verification
#: Images of as many features as the verification below gives them inliers.
SIZES = {n: random_features(np.random.default_rng(n), n, 2) for n in range(41)}


def pretended(c: LocalFeatures) -> Verification:
    """Verify by saying that all features are inliers."""
    return Verification(
        model="affine",
        transform=np.eye(3) if len(c) else None,
        matches=np.repeat(np.arange(len(c), dtype=np.int32)[:, None], 2, axis=1),
        similarities=np.ones(len(c), np.float32),
        putative=len(c),
        residual_px=24.0,
        reference_size=1024,
        min_inliers=30,
        similarity=float(len(c)),
        exponent=3.0,
    )


def run(
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
        options = RerankOptions(reranking, VERIFICATION, ranking, on_missing="ignore")
        return rerank_shortlist(SIZES[3], shortlist, images, options)


def rule(**more: Any) -> RankingConfig:
    return RankingConfig(**{"score": "inliers", "exponent": 3.0, "blend": 0.0, **more})


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
    everything = run(inliers, first, ranking, chunk, top_n=top_n)
    stopped = run(inliers, first, ranking, chunk, top_n=top_n, top_k=top_k)
    assert [(c.id, c.ranking_score, c.first_rank) for c in stopped[:top_k]] == [
        (c.id, c.ranking_score, c.first_rank) for c in everything[:top_k]
    ]
    assert sorted(c.id for c in stopped) == sorted(c.id for c in everything)
    assert verified_of(stopped) <= verified_of(everything)
    known = {c.id: c.verification for c in everything}
    assert all(c.verification in (None, known[c.id]) for c in stopped)


def test_fewer_pairs_are_verified_when_the_first_are_sure() -> None:
    first = [1 - k / 100 for k in range(25)]
    assert verified_of(run([40] * 25, first, rule(cap=10.0), 4, top_k=5)) == 8  # two chunks hold five
    assert verified_of(run([40] * 25, None, rule(cap=10.0), 4, top_k=5)) == 8
    assert verified_of(run([10] * 7 + [0] * 18, first, rule(cap=10.0), 1, top_k=5)) == 5


def test_all_are_verified_while_a_later_one_could_be_better() -> None:
    first = [1 - k / 100 for k in range(25)]
    assert verified_of(run([9] * 25, first, rule(cap=10.0), 4, top_k=5)) == 25
    # A later candidate of a higher first score wins a tie at the cap.
    assert verified_of(run([40] * 25, sorted(first), rule(cap=10.0), 4, top_k=5)) == 25
    assert run([40] * 25, sorted(first), rule(cap=10.0), 4, top_k=1)[0].id == "i24"


def test_without_a_cap_nothing_stops() -> None:
    first = [1 - k / 100 for k in range(25)]
    assert verified_of(run([40] * 25, first, rule(), 4, top_k=1)) == 25
    assert verified_of(run([40] * 25, first, rule(cap=10.0), 4)) == 25


def test_progress_reaches_the_total_after_an_early_stop() -> None:
    seen: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RerankOptions, "verifier", lambda *_: pretended)
        options = RerankOptions(RerankingConfig(top_n=30, top_k=5), VERIFICATION, rule(cap=10.0))
        lists = {"q": [f"i{k}" for k in range(35)]}
        progress = lambda *now: seen.append(now)  # noqa: E731
        rerank_batch({"q": SIZES[3]}, lists, lambda _: SIZES[40], options, progress=progress)
    assert seen == [(10, 30), (30, 30)]
