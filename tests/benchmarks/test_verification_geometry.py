"""Corner errors, right inliers and epipolar distances by hand; the tables of both data sets at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.verification.geometry import (
    TENTATIVE,
    corner_error,
    main,
    plane_row,
    plane_ways,
    right_inliers,
)
from benchmarks.verification.homography import PlanarPair
from benchmarks.verification.strecha import (
    Camera,
    epipolar_distances,
    fundamental_between,
    load_cameras,
    load_views,
)
from delf_engine.errors import DataError
from delf_engine.features import LocalFeatures
from helpers import raises, random_features

SIZE = (101, 81)


def shift(dx: float, dy: float = 0.0) -> np.ndarray:
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])


def rotation(x: float, y: float) -> np.ndarray:
    turn_x = [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]
    turn_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    return np.array(turn_x) @ np.array(turn_y)


def seen(camera: Camera, points: np.ndarray) -> np.ndarray:
    at = (points - camera.C) @ camera.R @ camera.K.T
    return at[:, :2] / at[:, 2:]


# ------------------------------------------------------------------------------------------------------- planes


def test_corner_error_by_hand() -> None:
    assert corner_error(shift(3, 4), np.eye(3), SIZE, SIZE) == pytest.approx(5)
    # Corners at 0 and 100, 0 and 80: stretched by 1.1 they are off by 0, 10, 8 and hypot(10, 8).
    zoomed = corner_error(np.diag([1.1, 1.1, 1]), np.eye(3), SIZE, SIZE)
    assert zoomed == pytest.approx((0 + 10 + 8 + np.hypot(10, 8)) / 4)
    H = np.array([[0.9, 0.1, 3], [-0.1, 1.1, 2], [1e-3, -5e-4, 1]])
    assert corner_error(-2 * H, H, SIZE, SIZE) == pytest.approx(
        0, abs=1e-9
    )  # neither sign nor scale mean anything


def test_right_inliers_by_hand() -> None:
    # 3 % of 200 pixels are 6.
    a, b = [[10, 10], [20, 20], [30, 30]], [[15, 10], [25, 26], [41.1, 30]]
    assert right_inliers(a, b, shift(5), SIZE, (200, 100)) == pytest.approx(2 / 3)
    assert right_inliers(np.empty((0, 2)), np.empty((0, 2)), shift(5), SIZE, SIZE) is None


def test_a_plane_seen_twice_is_found_and_noise_is_not(rng: np.random.Generator) -> None:
    a = random_features(rng, 200)
    keypoints = a.keypoints + np.float32([20, -10])
    b = LocalFeatures(keypoints, a.scales, a.scores, a.descriptors, a.image_size)
    pair = PlanarPair("s", "s/a", "s/b", shift(20, -10))
    for config in plane_ways().values():
        row = plane_row(a, b, pair, config)
        assert row["corner_error_px"] == pytest.approx(0, abs=1e-2)
        assert row["corner_error_of_width"] == pytest.approx(row["corner_error_px"] / 640)
        assert (row["right_inliers"], row["right_tentative"], row["inliers"]) == (1, 1, 200)
    nothing = plane_row(a, LocalFeatures.empty((640, 480), 40), pair, plane_ways()["default"])
    assert (nothing["inliers"], nothing["corner_error_px"], nothing["right_inliers"]) == (0, None, None)


# -------------------------------------------------------------------------------------------------------- scenes


def cameras(x: float, y: float, step: float) -> tuple[Camera, Camera]:
    K = np.array([[900.0, 0, 500], [0, 910, 330], [0, 0, 1]])
    other = np.array([[700.0, 0, 400], [0, 700, 300], [0, 0, 1]])
    return Camera(K, np.eye(3), np.zeros(3)), Camera(other, rotation(x, y), np.array([step, 0.3, -0.2]))


@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4), st.floats(0.1, 2.0), st.integers(0, 99))
def test_true_matches_lie_on_their_epipolar_lines(x: float, y: float, step: float, seed: int) -> None:
    one, other = cameras(x, y, step)
    points = np.random.default_rng(seed).uniform([-2, -2, 5], [2, 2, 12], (20, 3))
    a, b = seen(one, points), seen(other, points)
    F = fundamental_between(one, other)
    np.testing.assert_allclose(epipolar_distances(F, a, b), 0, atol=1e-6)
    # The other way round it is the transposed matrix, and a true match moved across is as far off as it was moved.
    back = fundamental_between(other, one)
    np.testing.assert_allclose(back / back.flat[np.abs(back).argmax()], F.T / F.T.flat[np.abs(back).argmax()])


def test_epipolar_distance_by_hand() -> None:
    # Cameras side by side that look ahead: epipolar lines are rows, in both images.
    K = np.diag([100.0, 100, 1])
    side = [Camera(K, np.eye(3), np.array([x, 0, 0])) for x in (0.0, 1.0)]
    F = fundamental_between(side[0], side[1])
    np.testing.assert_allclose(epipolar_distances(F, [[0, 0], [5, 5]], [[50, 3], [-9, 1]]), [3, 4])
    assert len(epipolar_distances(F, np.empty((0, 2)), np.empty((0, 2)))) == 0
    assert not fundamental_between(side[0], side[0]).any()


def test_cameras_are_read_and_broken_ones_named(tmp_path: Path) -> None:
    (tmp_path / "castle").mkdir()
    path = tmp_path / "castle" / "cameras.json"
    values = {"K": np.eye(3).tolist(), "R_cam_to_world": rotation(0.1, 0.2).tolist(), "C": [1, 2, 3]}
    path.write_text(json.dumps({"0.jpg": values}))
    camera = load_cameras(tmp_path)["castle/0.jpg"]
    (view,) = load_views(tmp_path)
    assert (view.scene, view.name) == ("castle", "castle/0.jpg")
    np.testing.assert_allclose(view.direction, rotation(0.1, 0.2)[:, 2])
    np.testing.assert_allclose(camera.R, rotation(0.1, 0.2))
    assert camera.C.tolist() == [1, 2, 3]
    for broken in ({**values, "K": [1]}, {**values, "C": [1]}, {}, 3):
        path.write_text(json.dumps({"0.jpg": broken}))
        with raises(DataError, "cameras.json"):
            load_cameras(tmp_path)


@pytest.mark.timeout(900)
def test_transforms_of_real_photographs_are_right(data: Path, tmp_path: Path) -> None:
    """Floors that a wrong change would break, on the planes and on five photographs of two scenes."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "homography").symlink_to(data / "homography")
    for scene in ("fountain", "herzjesu"):
        (folder / "strecha" / scene).mkdir(parents=True)
        known = sorted(json.loads((data / "strecha" / scene / "cameras.json").read_text()).items())[:5]
        (folder / "strecha" / scene / "cameras.json").write_text(json.dumps(dict(known)))
        for name, _ in known:
            (folder / "strecha" / scene / name).symlink_to(data / "strecha" / scene / name)
    out = tmp_path / "out.json"
    main(["--data", str(folder), "--cache", str(tmp_path / "cache"), "--out", str(out)])
    result = json.loads(out.read_text())
    for name, floor in (("default", 0.85), ("accurate", 0.8)):
        rows = result["homography"][name]
        assert len(rows) == 6
        assert np.median([row["right_inliers"] for row in rows]) > floor
        assert all(row["right_inliers"] > row["right_tentative"] for row in rows)
    errors = [row["corner_error_of_width"] for row in result["homography"]["accurate"]]
    assert np.median(errors) < 0.06
    strecha = result["strecha"]
    assert strecha["default"]["median_px"] < strecha[TENTATIVE]["median_px"]
    assert strecha["accurate"]["judged"] == len(strecha["accurate"]["pairs"])
