from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation import (
    SETUPS,
    GroundTruth,
    Setup,
    candidates_to_verify,
    evaluate,
    restrict,
    setup_shortlists,
)
from evaluation.oracles import awkward_ranking, sets_of, synthetic


def test_by_hand(truth: GroundTruth) -> None:
    lists = {"q1": ["h", "a"], "q0": list("daecbf")}  # easy a b, hard c, junk d e
    assert setup_shortlists(lists, truth, setup="medium", top_n=2) == {"q0": ["a", "c"], "q1": ["h", "a"]}
    assert setup_shortlists(lists, truth, setup="easy", top_n=2)["q0"] == ["a", "b"]
    assert setup_shortlists(lists, truth, setup="hard", top_n=9)["q0"] == ["c", "f"]
    assert list(setup_shortlists(lists, truth, setup="hard")) == ["q0", "q1"]
    for setup in SETUPS:
        after = setup_shortlists(lists, truth, setup=setup, top_n=2, junk="after")
        assert after == {"q0": ["d", "a"], "q1": ["h", "a"]}
    scored = {"q0": [("d", 0.5), ("a", 0.25)], "q1": []}
    assert setup_shortlists(scored, truth, setup="medium") == {"q0": [("a", 0.25)], "q1": []}


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 40), top_n=st.integers(1, 45))
def test_what_is_verified(seed: int, images: int, top_n: int) -> None:
    rng = np.random.default_rng(seed)
    truth = synthetic(rng, images, 3)
    lists = {
        name: [truth.names[i] for i in awkward_ranking(rng, truth, q)] for q, name in enumerate(truth.query_names)
    }
    for setup in SETUPS:
        before = setup_shortlists(lists, truth, setup=setup, top_n=top_n)
        after = setup_shortlists(lists, truth, setup=setup, top_n=top_n, junk="after")
        whole = setup_shortlists(lists, truth, setup=setup, top_n=None)
        for q, name in enumerate(truth.query_names):
            positives, ignored = ({truth.names[i] for i in each} for each in sets_of(truth, q, setup))
            counted = [image for image in lists[name] if image not in ignored]
            assert before[name] == counted[:top_n]
            assert whole[name] == counted
            assert after[name] == lists[name][:top_n]
            # Whatever counts and is verified in the one order is verified in the other.
            assert {image for image in after[name] if image not in ignored} <= set(before[name])
            assert len(positives & set(after[name])) <= len(positives & set(before[name]))
        figures = [evaluate(each, truth, setup=setup).to_dict() for each in (lists, whole)]
        assert figures[0] == figures[1]


@given(seed=st.integers(0, 2**32 - 1))
def test_the_union_holds_each_candidate_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = synthetic(rng, 30, 2)
    lists = {
        name: [(truth.names[i], float(-k)) for k, i in enumerate(rng.permutation(30))]
        for name in truth.query_names
    }
    parts = [setup_shortlists(lists, truth, setup=setup, top_n=5) for setup in SETUPS]
    union = candidates_to_verify(parts)
    for name in truth.query_names:
        assert sorted(union[name]) == sorted({entry for part in parts for entry in part[name]})
    assert candidates_to_verify([]) == {}


@pytest.mark.parametrize("setup", SETUPS)
def test_no_candidates_and_no_queries(truth: GroundTruth, setup: Setup) -> None:
    empty: dict[str, list[str]] = {"q0": [], "q1": []}
    assert setup_shortlists(empty, truth, setup=setup) == empty
    assert setup_shortlists({}, restrict(truth, ["a"], []), setup=setup) == {}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"q0": ["a"]}, "no ranking of 1 of 2 queries, such as 'q1'"),
        ({"q0": [], "q1": [], "q2": []}, "'q2', which is no query of this ground truth"),
        ({"q0": ["a", "x", "b"], "q1": []}, "candidates of query q0: 'x' is no image of the gallery$"),
        (
            {"q0": ["x", "y", "b"], "q1": []},
            r"\(2 of 3 are unknown\): the ground truth seems to be of another set",
        ),
        ({"q0": ["a", "b", "a", "a"], "q1": []}, "'a' stands in them 3 times"),
        ({"q0": [("a", float("nan"))], "q1": []}, "expected an id or .id, score., a number, got .'a', nan."),
        ({"q0": [("a", "1")], "q1": []}, "a number, got"),
        ({"q0": [3], "q1": []}, "got 3"),
    ],
    ids=str,
)
def test_lists_that_are_refused(truth: GroundTruth, lists: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        setup_shortlists(lists, truth, setup="easy")


@pytest.mark.parametrize("options", [{"setup": "x"}, {"top_n": 0}, {"junk": "never"}], ids=str)
def test_options_that_do_not_exist(truth: GroundTruth, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        setup_shortlists({"q0": [], "q1": []}, truth, **{"setup": "easy", **options})
