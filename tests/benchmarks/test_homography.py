from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verification.homography import (
    PlanarPair,
    corner_error,
    homography_pairs,
    matching_figures,
    oxford_pairs,
    planar_figures,
    project,
    repeatability,
)
from delf_engine import LocalFeatures
from delf_engine.errors import DataError
from helpers import raises

SIZE = (100, 80)
IDENTITY = np.eye(3)


def shift(dx: float, dy: float = 0.0) -> npt.NDArray[np.float64]:
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])


# --------------------------------------------------------------------------------------------------- projection


def test_projection_keeps_what_falls_inside() -> None:
    projected, visible = project(shift(50), [[0, 0], [49.4, 5], [49.6, 5], [10, 79.6]], SIZE, SIZE)
    np.testing.assert_allclose(projected[0], [50, 0])
    assert visible.tolist() == [True, True, False, False]  # pixels reach half a pixel beyond their centres


def test_points_beyond_the_horizon_are_not_visible() -> None:
    H = np.array([[1, 0, 0], [0, 1, 0], [-1 / 60, 0, 1.0]])  # the horizon is x = 60, the centre x = 49.5
    visible = project(H, [[10, 5], [60, 5], [90, 5]], SIZE, (10_000, 10_000))[1]
    assert visible.tolist() == [True, False, False]


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.1, 10))
def test_corner_error_is_the_mean_distance_of_corners(x: float, y: float, scale: float) -> None:
    assert corner_error(scale * shift(x, y), IDENTITY, SIZE) == pytest.approx(np.hypot(x, y))
    wider = np.diag([1 + 4 / 99, 1, 1])  # two corners by 4 pixels
    assert corner_error(wider, IDENTITY, SIZE) == pytest.approx(2)


@pytest.mark.parametrize("found", [None, np.zeros((3, 3)), np.full((3, 3), np.nan)])
def test_what_is_no_homography_is_infinitely_wrong(found: npt.NDArray[np.float64] | None) -> None:
    assert corner_error(found, IDENTITY, SIZE) == np.inf


def test_pairs_of_oxford_start_from_the_first_image(tmp_path: Path) -> None:
    (tmp_path / "wall").mkdir()
    for k in range(2, 7):
        np.savetxt(tmp_path / "wall" / f"H1to{k}p", shift(k))
    pairs = oxford_pairs(tmp_path)
    assert [(p.first, p.second) for p in pairs] == [("wall/img1.jpg", f"wall/img{k}.jpg") for k in range(2, 7)]
    assert [p.H[0, 2] for p in pairs] == [2, 3, 4, 5, 6]


# ------------------------------------------------------------------------------------------------- repeatability


POINTS = st.lists(st.tuples(st.integers(-5, 105), st.integers(-5, 85)), max_size=12)


def oracle_share(
    here: list[npt.NDArray[np.float64]], there: list[npt.NDArray[np.float64]], radius: float
) -> float:
    near = [any(np.hypot(*(p - q)) <= radius for q in there) for p in here]
    return sum(near) / len(near)


@given(POINTS, POINTS, st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([0.0, 1.0, 8.0, 200.0]))
def test_repeatability_as_counted_one_by_one(
    a: list[tuple[int, int]], b: list[tuple[int, int]], dx: int, dy: int, radius: float
) -> None:
    moved = np.array([dx, dy], float)

    def inside(point: npt.NDArray[np.float64]) -> bool:
        return bool(-0.5 <= point[0] <= 99.5 and -0.5 <= point[1] <= 79.5)

    in_b = [np.array(p) + moved for p in a if inside(np.array(p) + moved)]
    from_b = [np.array(q, float) for q in b if inside(np.array(q) - moved)]
    expected = 0.0
    if in_b and from_b:
        expected = (oracle_share(in_b, from_b, radius) + oracle_share(from_b, in_b, radius)) / 2
    H = shift(dx, dy)
    found = repeatability(a, b, H, SIZE, SIZE, radius=radius)
    assert found == pytest.approx(expected)
    back = repeatability(b, a, np.linalg.inv(H), SIZE, SIZE, radius=radius)
    assert back == pytest.approx(found)


# ----------------------------------------------------------------------------------------------------- matching


def test_matching_figures_by_hand() -> None:
    # Four keypoints in A, three of them in the shared region; five in B, four of them shared.
    a = [[10, 10], [20, 30], [30, 50], [80, 10]]
    b = [[62, 10], [70, 30], [95, 50], [5, 5], [70, 70]]
    # One right (2 px off), one wrong (15 px off), one from outside the shared region: 1 of 3 and 1 of 4.
    pairs = [[0, 0], [2, 2], [3, 3]]
    score, accuracy = matching_figures(a, b, pairs, shift(50), SIZE, SIZE)
    assert score == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert accuracy == pytest.approx(1 / 3)


def test_planar_figures_match_by_descriptor() -> None:
    def features(points: list[list[float]], rows: list[int]) -> LocalFeatures:
        n = len(points)
        return LocalFeatures(
            np.array(points, np.float32), np.ones(n), np.ones(n), np.eye(4, dtype=np.float32)[rows], SIZE
        )

    both = {
        "a": features([[10, 10], [20, 20], [30, 30]], [0, 1, 2]),
        "b": features([[10, 12], [60, 60], [30, 30]], [0, 1, 3]),
    }
    (figures,) = planar_figures(both, [PlanarPair("s", "a", "b", IDENTITY)]).values()
    # Descriptors 0 and 1 agree, the first of them in the right place; 2 and 3 are orthogonal to all that is left
    # and so their own nearest neighbours are ties, which go to the lowest index and are not mutual.
    assert figures["matches"] == 2
    assert figures["matching_score"] == pytest.approx(1 / 3)
    assert figures["matching_accuracy"] == pytest.approx(1 / 2)
    assert figures["repeatability"] == pytest.approx(2 / 3)
    assert figures["features"] == 3


# ------------------------------------------------------------------------------------------------------- reading


def test_a_missing_or_broken_homography_is_named(tmp_path: Path) -> None:
    with raises(DataError, "H_1_2.txt"):
        homography_pairs(tmp_path)
    (tmp_path / "v_dogman").mkdir()
    (tmp_path / "v_dogman" / "H_1_2.txt").write_text("1 0 0\n0 1 0\n0 0 0\n")
    with raises(DataError, "H_1_2.txt"):
        homography_pairs(tmp_path)
