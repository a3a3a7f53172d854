from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.index.kdtree.exact_tree import ExactTree
from index.oracles import brute_force


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 60),
    asked=st.sampled_from([0, 1, 7, 300]),
    dim=st.sampled_from([1, 3, 40]),
    values=st.sampled_from(["normal", "grid", "equal", "huge", "tiny"]),
    k=st.integers(1, 60),
)
@settings(deadline=None)
def test_neighbours_equal_the_oracle(seed: int, rows: int, asked: int, dim: int, values: str, k: int) -> None:
    rng = np.random.default_rng(seed)
    scale = {"huge": 1e18, "tiny": 1e-18}.get(values, 1.0)

    def draw(n: int) -> np.ndarray:
        if values == "grid":
            return rng.integers(-1, 2, (n, dim)).astype(np.float32)
        return (
            np.ones((n, dim), np.float32)
            if values == "equal"
            else (scale * rng.normal(size=(n, dim)).astype(np.float32)).astype(np.float32)
        )

    data, queries, k = draw(rows), draw(asked), min(k, rows)
    found, squared = ExactTree(data).nearest(queries, k)
    assert (found.shape, squared.shape) == ((asked, k), (asked, k))
    for i, x in enumerate(queries.astype(np.float64)):
        wanted = brute_force(x, data.astype(np.float64), np.zeros(rows), k)
        assert found[i].tolist() == [row for _, row, _ in wanted]
        assert squared[i].tolist() == [distance for distance, _, _ in wanted]


def test_of_equal_descriptors_the_first_are_taken() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 40)).astype(np.float32)
    data = np.array([other, *[one] * 500, other])
    rows, squared = ExactTree(data).nearest(np.array([one, other]), 7)
    assert rows.tolist() == [[1, 2, 3, 4, 5, 6, 7], [0, 501, 1, 2, 3, 4, 5]]
    assert (squared[0] == 0).all()
