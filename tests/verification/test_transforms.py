"""Residuals, frames, plausibility, degenerate matches, occupied squares, affine fits: against brute force."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from delf_engine.verification.affine import fit_least_squares, ransac_affine
from delf_engine.verification.geometry import (
    fundamental_residuals,
    is_degenerate,
    occupied_bins,
    pixel_frame,
    planar_residuals,
    plausible,
)

Float64 = npt.NDArray[np.float64]

AFFINE = np.array([[0.9, 0.2, 30.0], [-0.1, 1.1, -12.0], [0.0, 0.0, 1.0]])
HOMOGRAPHY = np.array([[0.9, 0.1, 20.0], [-0.05, 1.05, 8.0], [2e-4, -1e-4, 1.0]])


def apply(H: Float64, points: Float64) -> Float64:
    mapped = np.c_[points, np.ones(len(points))] @ H.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


@pytest.mark.parametrize("H", [AFFINE, HOMOGRAPHY])
def test_sampson_distance_is_the_least_move_that_makes_a_match_fit(H: Float64, rng: np.random.Generator) -> None:
    a = rng.uniform(0, 500, (8, 2))
    b = apply(H, a) + rng.normal(0, 3, (8, 2))
    found = planar_residuals(H, a, b)
    for i in range(8):  # oracle: the point x of A that minimises |x - a|^2 + |H x - b|^2

        def cost(x: Float64, i: int = i) -> float:
            return float(((x - a[i]) ** 2).sum() + ((apply(H, x[None])[0] - b[i]) ** 2).sum())

        best = np.sqrt(minimize(cost, a[i], tol=1e-12).fun)
        assert found[i] == pytest.approx(best, rel=1e-6 if H is AFFINE else 0.02)


@pytest.mark.parametrize("H", [AFFINE, HOMOGRAPHY])
def test_residual_is_the_same_both_ways(H: Float64, rng: np.random.Generator) -> None:
    a = rng.uniform(0, 500, (50, 2))
    b = apply(H, a) + rng.normal(0, 5, (50, 2))
    np.testing.assert_allclose(planar_residuals(H, a, b), planar_residuals(np.linalg.inv(H), b, a), rtol=0.05)
    np.testing.assert_allclose(planar_residuals(H, a, b), planar_residuals(-3 * H, a, b))


def test_residuals_of_many_transforms_at_once(rng: np.random.Generator) -> None:
    a, b = rng.uniform(0, 100, (2, 7, 2))
    both = planar_residuals(np.stack([AFFINE, HOMOGRAPHY]), a, b)
    np.testing.assert_allclose(both, [planar_residuals(AFFINE, a, b), planar_residuals(HOMOGRAPHY, a, b)])


def test_undefined_residuals_are_infinite() -> None:
    a = np.zeros((2, 2))
    assert np.isinf(planar_residuals(np.zeros((3, 3)), a, a)).all()
    assert np.isinf(fundamental_residuals(np.zeros((3, 3)), a, a)).all()


def test_fundamental_residual_of_a_sideways_camera_is_the_row_difference(rng: np.random.Generator) -> None:
    # Translation along x: epipolar lines are the image rows.
    F = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    a, b = rng.uniform(0, 500, (2, 20, 2))
    np.testing.assert_allclose(fundamental_residuals(F, a, b), np.abs(a[:, 1] - b[:, 1]) / np.sqrt(2))


def test_pixel_frame_shrinks_but_never_enlarges() -> None:
    frame = pixel_frame((2048, 1000), 1024)
    # The centre of a 2 x 2 block of the large image is a pixel centre of the small one.
    assert apply(frame, np.array([[0.5, 0.5], [2.5, 4.5]])).tolist() == [[0, 0], [1, 2]]
    np.testing.assert_array_equal(pixel_frame((640, 480), 1024), np.eye(3))
    np.testing.assert_array_equal(pixel_frame((4000, 3000), None), np.eye(3))


@pytest.mark.parametrize(
    ("H", "expected"),
    [
        (np.eye(3), True),
        (AFFINE, True),
        (HOMOGRAPHY, True),
        (np.diag([1.0, 1.0, -1.0]), False),  # behind the horizon
        (np.diag([-1.0, 1.0, 1.0]), False),  # mirrored
        (np.diag([0.05, 0.05, 1.0]), False),  # collapse
        (np.diag([20.0, 20.0, 1.0]), False),  # blow-up
        (np.diag([9.0, 1.0, 1.0]), False),  # squeezed
        (np.diag([7.0, 1.0, 1.0]), True),
        (np.zeros((3, 3)), False),
        (np.full((3, 3), np.nan), False),
    ],
)
def test_what_a_camera_can_do(H: Float64, expected: bool) -> None:
    assert plausible(H, np.array([[100.0, 50.0], [3.0, 4.0]])).tolist() == [expected] * 2


def test_plausibility_is_judged_at_each_point() -> None:
    H = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])  # the horizon is x = 100
    x = np.array([[0.0, 0], [20, 0], [99, 0], [150, 0]])
    assert plausible(H, x).tolist() == [True, True, False, False]


def test_least_squares_fit_of_matches_that_fix_no_map_does_not_raise(rng: np.random.Generator) -> None:
    free, spot = rng.uniform(0, 500, (5, 2)), np.full((5, 2), 7.0)
    for a, b in ((free, spot), (spot, free), (spot, spot), (free * 1e200, free)):
        fitted = fit_least_squares(a, b)
        assert fitted is None or np.isfinite(fitted).all()


def test_least_squares_fit_minimises_the_sampson_distance(rng: np.random.Generator) -> None:
    a = rng.uniform(0, 500, (30, 2))
    b = apply(AFFINE, a) + rng.normal(0, 5, (30, 2))
    fitted = fit_least_squares(a, b)
    assert fitted is not None
    best = (planar_residuals(fitted, a, b) ** 2).sum()
    for _ in range(200):
        other = fitted.copy()
        other[:2] += rng.normal(0, [1e-3, 1e-3, 0.3], (2, 3))
        assert (planar_residuals(other, a, b) ** 2).sum() > best


def test_ransac_without_a_plausible_sample_finds_nothing(rng: np.random.Generator) -> None:
    a = rng.uniform(0, 800, (30, 2))
    mirrored = a * [-1, 1]
    options = {"threshold": 1e-6, "max_iterations": 300, "confidence": 0.99, "seed": 1}
    assert ransac_affine(a, mirrored, **options) is None  # type: ignore[arg-type]


# --------------------------------------------------------------------------- degenerate matches, occupied squares

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
