from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.index.kdtree.votes import _firsts, gathered
from index.oracles import voted


@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(0, 8),
    k=st.integers(1, 9),
    images=st.integers(1, 5),
    ties=st.booleans(),
)
@settings(deadline=None)
def test_votes_equal_the_oracle(seed: int, queries: int, k: int, images: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    owners = np.sort(rng.integers(0, images, 30))
    found = []
    rows, squared = np.full((queries, k), -1), np.full((queries, k), 7.0)
    for q in range(queries):
        count = int(rng.integers(0, k + 1))
        chosen = rng.permutation(30)[:count]
        distances = rng.integers(0, 4, count) / 2 if ties else rng.uniform(0, 3, count)
        neighbours = sorted(zip(distances.tolist(), chosen.tolist(), owners[chosen].tolist(), strict=True))
        found.append(neighbours)
        squared[q, :count] = [distance for distance, _, _ in neighbours]
        rows[q, :count] = [row for _, row, _ in neighbours]
    scores = gathered(rows, squared, owners[rows], images)
    assert (scores.shape, scores.dtype) == ((images,), np.float32)
    np.testing.assert_allclose(scores, voted(found, images), rtol=1e-5, atol=1e-6)


def test_the_number_of_images_is_that_of_the_scores() -> None:
    scores = gathered(np.array([[3]]), np.zeros((1, 1)), np.array([[999_999]]), 1_000_000)
    assert scores.shape == (1_000_000,)
    assert np.flatnonzero(scores).tolist() == [999_999]


@given(st.lists(st.sampled_from([0, 1, 7, 2**40, 2**61, 2**62 - 1]), max_size=30))
def test_where_keys_occur_first(keys: list[int]) -> None:
    assert _firsts(np.array(keys, np.int64)).tolist() == [keys.index(key) for key in sorted(set(keys))]


@given(st.integers(0, 2**32))
def test_neighbours_that_are_equally_near_may_come_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.array([rng.permutation(20)[:9] for _ in range(5)])
    squared = np.sort(rng.integers(0, 3, (5, 9)) / 4, axis=1)
    rows[2, 6:] = -1
    owners = np.sort(rng.integers(0, 6, 20))
    found = [
        sorted((d, r, int(owners[r])) for d, r in zip(a.tolist(), b.tolist(), strict=True) if r >= 0)
        for a, b in zip(squared, rows, strict=True)
    ]
    np.testing.assert_allclose(gathered(rows, squared, owners[rows], 6), voted(found, 6), rtol=1e-5, atol=1e-6)
