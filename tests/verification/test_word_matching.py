"""Matching among descriptors that share a visual word, against the definition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.verification import match_by_words, match_pair

Array = npt.NDArray[np.float32]


def lattice_rows(rng: np.random.Generator, n: int) -> Array:
    """Rows of few different directions, so that ties abound."""
    rows = rng.integers(-1, 2, (n, 3)).astype(np.float64)
    rows[~rows.any(axis=1), 0] = 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def unit_rows(rng: np.random.Generator, n: int) -> Array:
    rows = rng.normal(size=(n, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 25),
    m=st.integers(0, 25),
    several=st.integers(1, 3),
    words=st.sampled_from([1, 3, 40]),
    ties=st.booleans(),
    mutual=st.booleans(),
    ratio=st.sampled_from([None, 0.7, 0.95]),
)
def test_equals_the_definition(
    seed: int, n: int, m: int, several: int, words: int, ties: bool, mutual: bool, ratio: float | None
) -> None:
    rng = np.random.default_rng(seed)
    make = lattice_rows if ties else unit_rows
    a, b = make(rng, n), make(rng, m)
    words_a, words_b = rng.integers(0, words, (n, several)), rng.integers(0, words, (m, several))
    found = match_by_words(a, b, words_a, words_b, mutual=mutual, ratio=ratio, max_distance=1.2)

    units = [(r.astype(np.float64) / np.linalg.norm(r.astype(np.float64), axis=1, keepdims=True)) for r in (a, b)]
    shared = (words_a[:, None, :, None] == words_b[None, :, None, :]).any(axis=(2, 3))
    distance = np.sqrt(((units[0][:, None] - units[1][None]) ** 2).sum(axis=2)).round(7)
    distance[~shared] = np.inf
    expected, both_ways = [], []
    for i in range(n):
        order = sorted(np.flatnonzero(shared[i]).tolist(), key=lambda j, i=i: (distance[i, j], j))
        if not order:
            continue
        j = order[0]
        is_mutual = min(np.flatnonzero(shared[:, j]).tolist(), key=lambda k, j=j: (distance[k, j], k)) == i
        both_ways += [i] if is_mutual else []
        second = distance[i, order[1]] if len(order) > 1 else 0.0
        good = distance[i, j] <= 1.2 and (is_mutual or not mutual)
        if good and (ratio is None or (second > 0 and distance[i, j] <= ratio * second)):
            expected.append([i, j])
    assert found.putative.pairs.tolist() == expected
    assert len(found.mutual_similarities) == len(both_ways)


def test_one_word_for_all_is_no_pruning() -> None:
    rng = np.random.default_rng(0)
    a, b = unit_rows(rng, 200), unit_rows(rng, 150)
    for mutual in (True, False):
        pruned = match_by_words(a, b, np.zeros(200, int), np.zeros(150, int), mutual=mutual, ratio=0.9)
        whole = match_pair(a, b, mutual=mutual, ratio=0.9)
        assert pruned.putative.pairs.tolist() == whole.putative.pairs.tolist()
        np.testing.assert_array_equal(pruned.putative.similarities, whole.putative.similarities)
        np.testing.assert_array_equal(pruned.mutual_similarities, whole.mutual_similarities)


def test_no_word_in_common_is_no_match() -> None:
    a = unit_rows(np.random.default_rng(0), 10)
    found = match_by_words(a, a, np.arange(10), np.arange(10, 20))
    assert (len(found.putative.pairs), len(found.mutual_similarities)) == (0, 0)
    assert match_by_words(a, a, np.arange(10), np.arange(10)).putative.pairs.tolist() == [
        [i, i] for i in range(10)
    ]


def test_bad_input() -> None:
    a = unit_rows(np.random.default_rng(0), 4)
    for words in (np.zeros(3, int), np.zeros(4), np.zeros((4, 1, 1), int)):
        with pytest.raises(MismatchError, match="words of B"):
            match_by_words(a, a, np.zeros(4, int), words)
    with pytest.raises(MismatchError, match="8 and 3 dimensions"):
        match_by_words(a, lattice_rows(np.random.default_rng(0), 4), np.zeros(4, int), np.zeros(4, int))
    with pytest.raises(ConfigError):
        match_by_words(a, a, np.zeros(4, int), np.zeros(4, int), ratio=2.0)
    with pytest.raises(FeatureError, match="descriptors of A"):
        match_by_words(a * np.nan, a, np.zeros(4, int), np.zeros(4, int))
