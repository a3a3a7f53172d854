"""The ranking score: every rule against its definition, ties, tails, and independence of the candidates' order."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import RankingConfig, RerankingConfig, load_profile
from delf_engine.errors import DataError, MismatchError
from delf_engine.reranking import RerankOptions, rank_verified, ranking_score, rerank_batch, rerank_shortlist
from delf_engine.verification import Verification
from helpers import random_features, seen_again
from verification.answers import answer

Rule = Literal["inliers", "effective", "weighted", "similarity"]
RULES: tuple[Rule, ...] = ("inliers", "effective", "weighted", "similarity")


def verified(similarities: list[float], more: float = 0.0, exponent: float = 3.0) -> Verification:
    """A verification with these similarities of the inliers, and `more` over the other mutual matches."""
    inliers = float((np.float32(similarities).astype(np.float64) ** exponent).sum())
    return replace(
        answer(len(similarities)),
        similarities=np.array(similarities, np.float32),
        similarity=inliers + more,
        exponent=exponent,
        effective_inliers=len(similarities) // 2,
    )


def rule(score: Rule, exponent: float = 3.0, blend: float = 0.3) -> RankingConfig:
    return RankingConfig(score=score, exponent=exponent, blend=blend)


SIMILARITIES = st.lists(st.floats(0, 1, width=32), max_size=12)
EVIDENCE = st.builds(verified, SIMILARITIES, st.floats(0, 500))


@given(
    similarities=SIMILARITIES,
    more=st.floats(0, 1e3),
    exponent=st.one_of(st.sampled_from([1e-300, 1e300]), st.floats(0.1, 50)),
    blend=st.one_of(st.sampled_from([0.0, 1e6]), st.floats(0, 10)),
)
def test_scores_equal_their_definitions(
    similarities: list[float], more: float, exponent: float, blend: float
) -> None:
    found = verified(similarities, more, exponent)
    powers = np.clip(np.float32(similarities).astype(np.float64), 0, 1) ** exponent
    expected = {
        "inliers": len(similarities) + blend * (powers.sum() + more),
        "effective": len(similarities) // 2 + blend * (powers.sum() + more),
        "similarity": powers.sum() + more,
        "weighted": powers.sum() + blend * (powers.sum() + more),
    }
    for score in RULES:
        assert ranking_score(found, rule(score, exponent, blend)) == pytest.approx(expected[score], rel=1e-9)


def test_the_rules_differ() -> None:
    """Many poor inliers, few good ones, and none but similar descriptors: each rule has its own first."""
    found = {"many": verified([0.5] * 20), "good": verified([0.95] * 10), "similar": verified([], more=15.0)}
    found["apart"] = replace(verified([0.5] * 15), effective_inliers=15)
    first = {score: rank_verified(list(found), found, ranking=rule(score, blend=0.0))[0].id for score in RULES}
    assert first == {"inliers": "many", "effective": "apart", "weighted": "good", "similarity": "similar"}


def test_another_exponent_is_refused_where_it_matters() -> None:
    found = verified([0.9] * 5, exponent=2.0)
    assert ranking_score(found, rule("inliers", exponent=3.0, blend=0.0)) == 5
    assert ranking_score(found, rule("effective", exponent=3.0, blend=0.0)) == 2
    for score in RULES:
        with pytest.raises(MismatchError, match=r"\^2.*\^3"):
            ranking_score(found, rule(score, exponent=3.0))


@given(data=st.data(), score=st.sampled_from(RULES), scored=st.booleans(), n=st.integers(0, 12))
def test_ranks_do_not_depend_on_the_order_of_candidates(
    data: st.DataObject, score: Rule, scored: bool, n: int
) -> None:
    # Few different verifications and first scores, so that ties abound.
    kinds = data.draw(st.lists(EVIDENCE, min_size=1, max_size=3))
    found = {f"i{k}": data.draw(st.sampled_from(kinds)) for k in range(n)}
    first = {name: data.draw(st.sampled_from([0.5, 1.0, 2.0])) for name in found}
    shuffled = data.draw(st.permutations(list(found)))
    ranked, again = (
        rank_verified([(name, first[name]) if scored else name for name in order], found, ranking=rule(score))
        for order in (list(found), shuffled)
    )
    by_score = [(c.ranking_score, c.score) for c in ranked]
    assert by_score == [(c.ranking_score, c.score) for c in again]
    assert [c.rank for c in ranked] == list(range(1, n + 1))
    for order, ranking in ((list(found), ranked), (shuffled, again)):
        assert sorted(c.id for c in ranking) == sorted(found)
        keys = [(-(c.ranking_score or 0.0), -(c.score or 0.0), order.index(c.id)) for c in ranking]
        assert keys == sorted(keys)  # equal ones by their first score, then by their first place
        for c in ranking:
            assert (c.inliers, c.verification) == (found[c.id].inliers, found[c.id])


def test_what_is_not_verified_keeps_its_order_behind() -> None:
    found = {"c": verified([], more=0.0), "e": verified([0.9] * 9)}
    ranking = rank_verified(["a", "c", "b", "e", "a"], found, ranking=rule("weighted"))
    assert [(c.id, c.first_rank) for c in ranking] == [("e", 4), ("c", 2), ("a", 1), ("b", 3)]
    assert [c.ranking_score is None for c in ranking] == [False, False, True, True]
    assert rank_verified([], {}, ranking=rule("weighted")) == []
    with pytest.raises(DataError, match="'mine'"):
        rank_verified([3], found, ranking=rule("weighted"), query="mine")  # type: ignore[list-item]


@pytest.mark.parametrize("score", RULES)
def test_reranking_ranks_by_the_rule_with_any_number_of_workers(score: Rule) -> None:
    rng = np.random.default_rng(3)
    query = random_features(rng, 60)
    images = {f"i{k}": seen_again(rng, query, 6 * k) for k in range(8)}
    shortlist = list(images)
    by = rule(score, exponent=2.0, blend=0.5)
    options = RerankOptions(RerankingConfig(top_n=6), load_profile("default").verification, by)
    ranking = rerank_shortlist(query, shortlist, images, options)
    found = {c.id: c.verification for c in ranking if c.verification is not None}
    assert set(found) == set(shortlist[:6])
    assert ranking == rank_verified(shortlist, found, ranking=by)
    assert [c.id for c in ranking[6:]] == shortlist[6:]
    assert {v.exponent for v in found.values()} == {2.0}
    two = rerank_batch({"q": query}, {"q": shortlist}, images, replace(options, workers=2))
    assert two["q"] == ranking


@pytest.mark.parametrize("option", ["score", "exponent", "blend", "cap"])
def test_rules_out_of_range(option: str) -> None:
    with pytest.raises(ValidationError):
        RankingConfig(**{"score": "weighted", "exponent": 3.0, "blend": 0.3, option: float("inf")})


CAPS = st.one_of(st.sampled_from([5e-324, 1e-300, 1.0, 35.0, 1e300]), st.floats(0.01, 200))


@given(found=EVIDENCE, cap=CAPS, score=st.sampled_from(RULES))
def test_capped_scores_equal_their_definition(found: Verification, cap: float, score: Rule) -> None:
    capped = RankingConfig(score=score, exponent=3.0, blend=0.3, cap=cap)
    assert ranking_score(found, capped) == min(ranking_score(found, rule(score)), cap)


def test_a_cap_lets_first_scores_order_what_is_sure() -> None:
    found = {"a": verified([0.9] * 50), "b": verified([0.9] * 90), "c": verified([0.9] * 5)}
    shortlist = [("c", 0.9), ("a", 0.8), ("b", 0.5)]
    for cap, expected in ((None, "bac"), (40.0, "abc")):
        ranking = rank_verified(
            shortlist, found, ranking=rule("inliers", blend=0.0).model_copy(update={"cap": cap})
        )
        assert "".join(c.id for c in ranking) == expected
