"""Cross-validation between places: who shares a place, how places are dealt, what is judged by what."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.verification.calibrating import connected_places, cross_validated, fold_of_places
from delf_engine.verification.calibration import Calibration
from verification.answers import answer, labelled

IMAGES = st.sampled_from("abcdefgh")
PAIRS = st.lists(st.tuples(IMAGES, IMAGES, st.booleans()), max_size=15)


@given(PAIRS)
def test_places_are_connected_components(rows: list[tuple[str, str, bool]]) -> None:
    joined = {name: {name} for a, b, _ in rows for name in (a, b)}
    for _ in rows:  # long enough to reach along any chain
        for a, b, same in rows:
            if same:
                for name in (union := joined[a] | joined[b]):
                    joined[name] = union
    expected = [(min(joined[a]), min(joined[b])) for a, b, _ in rows]
    assert connected_places([(a, b) for a, b, _ in rows], [same for _, _, same in rows]) == expected


@given(rows=PAIRS, folds=st.integers(1, 5), seed=st.integers(0, 9))
def test_places_are_dealt_evenly_and_in_no_order(rows: list[tuple[str, str, bool]], folds: int, seed: int) -> None:
    places, labels = [(a, b) for a, b, _ in rows], np.array([same for _, _, same in rows], bool)
    dealt = fold_of_places(places, labels, folds)
    assert set(dealt) == {name for pair in places for name in pair}
    assert set(dealt.values()) <= set(range(folds))
    order = np.random.default_rng(seed).permutation(len(rows))
    assert fold_of_places([places[i] for i in order], labels[order], folds) == dealt
    paired = {name for pair, same in zip(places, labels, strict=True) if same for name in pair}
    used = [dealt[name] for name in paired]
    assert len(set(used)) == min(folds, len(paired))  # none is empty while another has two


def world(seed: int, places: int = 8) -> tuple[list, np.ndarray, list[tuple[str, str]]]:  # type: ignore[type-arg]
    found, labels = labelled(seed, 200, 300)
    rng = np.random.default_rng(seed)
    ends = []
    for same in labels:
        a, b = rng.choice(places, 2, replace=False)
        ends.append((f"p{a}", f"p{a}" if same else f"p{b}"))
    return found, labels, ends


def test_each_pair_is_judged_by_pairs_of_other_places() -> None:
    found, labels, ends = world(0)
    p = cross_validated(found, labels, ends, folds=4)
    fold = fold_of_places(ends, labels, 4)
    assert not np.isnan(p).any()
    for i in range(0, len(found), 23):
        held = {fold[name] for name in ends[i]}
        learnt = [j for j in range(len(found)) if not {fold[name] for name in ends[j]} & held]
        other = Calibration.fit([found[j] for j in learnt], labels[learnt], trained_on="others")
        assert p[i] == other.probability(found[i])
    order = np.random.default_rng(1).permutation(len(found))
    again = cross_validated([found[i] for i in order], labels[order], [ends[i] for i in order], folds=4)
    assert again.tolist() == p[order].tolist()


def test_what_others_do_not_tell_stays_unjudged() -> None:
    found, labels, _ = world(0)
    alone = [("p", "p")] * len(found)
    assert np.isnan(cross_validated(found, labels, alone)).all()
    two = [("p0", "p0") if i % 2 else ("p1", "p1") for i in range(len(found))]
    assert not np.isnan(cross_validated(found, labels, two)).any()
    across = [("p0", "p1") if not same else pair for pair, same in zip(two, labels, strict=True)]
    assert np.isnan(cross_validated(found, labels, across)).all()  # no negative without the place itself


def test_refusals() -> None:
    found, labels, ends = world(0)
    with pytest.raises(ConfigError, match="got 2"):
        cross_validated(found, labels, ends, folds=2)
    with pytest.raises(DataError, match="places"):
        cross_validated(found, labels, ends[1:])
    with pytest.raises(DataError, match=r"label [01]"):
        cross_validated([answer(3)], [1], [("a", "b")])
    assert list(itertools.chain(connected_places([], []), fold_of_places([], [], 3))) == []
