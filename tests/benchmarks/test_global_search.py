"""Whitenings and rankings of the benchmark of global descriptors, on vectors that were never pooled."""

from __future__ import annotations

import numpy as np

from benchmarks.index.global_search import _by_vectors, _measured, _whitenings
from benchmarks.index.pooled import LEVELS, heads
from benchmarks.verification.searched_sets import SearchedSet
from delf_engine.evaluation import GroundTruth
from delf_engine.model.pooling import POOLINGS


def toy() -> SearchedSet:
    """Two queries, one of them in the gallery, and what each should find."""
    names, nothing = ("a", "b", "c", "d"), (np.zeros(0, np.int64),) * 2
    easy = (np.array([0, 1]), np.array([3]))
    junk = (np.zeros(0, np.int64), np.array([2]))  # itself
    return SearchedSet("toy", GroundTruth(names, ("q", "c"), np.ones((2, 4)), easy, nothing, junk), {})


def test_every_pooling_is_measured_with_each_number_of_levels() -> None:
    assert set(heads({})) == {f"{name} {levels}" for name in POOLINGS for levels in LEVELS}


def test_right_vectors_reach_all_of_it() -> None:
    angles = {"q": 0.0, "a": 0.1, "b": 0.2, "c": 2.0, "d": 2.1}
    vectors = {name: np.array([np.cos(v), np.sin(v)], np.float32) for name, v in angles.items()}
    found = _measured([toy()], lambda searched: _by_vectors(vectors, searched))
    assert found == {"map": {"toy": 100.0}, "recall": {"toy": 100.0}, "mean": 100.0}
    assert _by_vectors(vectors, toy())["c"] == ["d", "b", "a"]  # without itself


def test_whitenings_keep_as_many_components_as_there_are(rng: np.random.Generator) -> None:
    fit = rng.normal(size=(60, 12)).astype(np.float32)
    pairs = np.arange(60).reshape(30, 2)
    for name, whiten in _whitenings(fit, pairs, 5).items():
        assert whiten(fit).shape == (60, 12 if name == "plain" else 5)
