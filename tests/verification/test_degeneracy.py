"""Matches that fix no transform, and squares that hold a point: the kernels against their definitions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.verification.geometry import is_degenerate, occupied_bins
from delf_engine.verification.kernels import different_matches, on_a_line

Float64 = npt.NDArray[np.float64]

TOLERANCE = 1e-3
FACTORS = st.sampled_from([1e-30, 1.0, 1e20, 3e38])


def line_by_definition(points: Float64) -> bool:
    """Spread across the best line over the spread along it, from the principal axes of scaled points."""
    p = points - points.mean(axis=0)
    largest = np.abs(p).max()
    if largest == 0:
        return True
    along, across = np.linalg.svd(p / largest)[1] ** 2
    return bool(along * across / (along + across) ** 2 <= TOLERANCE**2)


def points(kind: str, rng: np.random.Generator, n: int) -> Float64:
    free: Float64 = rng.uniform(-1, 1, (n, 2))
    along: Float64 = rng.uniform(-1, 1, (n, 1)) * rng.normal(size=2)
    return {
        "free": free,
        "few": np.round(free),
        "spot": np.full((n, 2), 0.5),
        "line": along,
        "nearly a line": along + 1e-2 * free,
        "a line but for dust": along + 1e-5 * free,
    }[kind]


KINDS = st.sampled_from(["free", "few", "spot", "line", "nearly a line", "a line but for dust"])


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 40),
    kinds=st.tuples(KINDS, KINDS),
    factor=FACTORS,
    minimum=st.sampled_from([4, 5, 8]),
)
def test_degenerate_as_defined(seed: int, n: int, kinds: tuple[str, str], factor: float, minimum: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (points(kind, rng, n) * factor for kind in kinds)
    expected = (
        len(np.unique(np.hstack([a, b]), axis=0)) < minimum or line_by_definition(a) or line_by_definition(b)
    )
    assert is_degenerate(a, b, minimum=minimum) == expected
    assert is_degenerate(b, a, minimum=minimum) == expected
    order = rng.permutation(n)
    assert is_degenerate(a[order], b[order], minimum=minimum) == expected


@given(
    rows=st.lists(st.tuples(*[st.sampled_from([-1.0, -0.0, 0.0, 1.0, 1e300])] * 4), max_size=30),
    enough=st.integers(1, 9),
)
def test_different_matches_are_counted_up_to_enough(rows: list[tuple[float, ...]], enough: int) -> None:
    matches = np.array(rows, np.float64).reshape(-1, 4)
    found = different_matches(np.ascontiguousarray(matches[:, :2]), np.ascontiguousarray(matches[:, 2:]), enough)
    assert found == min(enough, len(set(rows)))  # 0.0 and -0.0 are one


@pytest.mark.parametrize(("across", "expected"), [(0.0, True), (0.5e-3, True), (2e-3, False), (1.0, False)])
@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2])
def test_a_line_is_told_by_the_ratio_of_spreads(across: float, angle: float, expected: bool) -> None:
    # A cross: the spreads are those of its arms.
    cross = np.array([[1.0, 0], [-1, 0], [0, across], [0, -across]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert bool(on_a_line(cross @ turn.T * 300 + 1000, TOLERANCE)) is expected


def test_what_floats_do_not_hold_is_degenerate() -> None:
    rng = np.random.default_rng(0)
    free = rng.uniform(-1, 1, (20, 2))
    assert is_degenerate(free * 1e200, free, minimum=4)
    assert is_degenerate(free, free * 1e-200, minimum=4)
    assert is_degenerate(np.full((20, 2), np.inf), free, minimum=4)


def test_arrays_of_any_layout_are_taken() -> None:
    rng = np.random.default_rng(0)
    both = rng.uniform(0, 500, (20, 4))
    assert not is_degenerate(both[:, :2], both[:, 2:], minimum=20)
    assert not is_degenerate(both[::2, ::2], both.astype(np.float32)[::2, 1::2], minimum=10)  # type: ignore[arg-type]


@given(
    values=st.lists(
        st.tuples(*[st.one_of(st.integers(-50, 50).map(lambda i: i / 2), st.floats(-3e38, 3e38))] * 2),
        max_size=40,
    ),
    side=st.sampled_from([0.5, 1.0, 24.0, 1e9]),
)
def test_occupied_bins_equal_a_naive_count(values: list[tuple[float, float]], side: float) -> None:
    squares = {(math.floor((x + 0.5) / side), math.floor((y + 0.5) / side)) for x, y in values}
    # Above 2^53 neighbouring squares share one float: what floor gives is whole all the same.
    assert occupied_bins(np.array(values, np.float64).reshape(-1, 2), side) == len(squares)


def test_occupied_bins_by_hand() -> None:
    grid = np.array([[-0.5, -0.5], [23.4, 23.4], [23.5, 0.0], [0.0, 23.5], [-0.6, 0.0], [23.4, 23.4]])
    assert occupied_bins(grid, 24.0) == 4
    assert occupied_bins(grid, 1e6) == 2
    assert occupied_bins(grid, 0.05) == 5
    assert occupied_bins(np.empty((0, 2)), 24.0) == 0
    assert occupied_bins(np.full((9, 2), 7.0), 24.0) == 1
