from __future__ import annotations

import numpy as np
import pytest

from delf_engine.config import FineConfig, load_profile
from delf_engine.mining.geometry import composed, fit_fine, fit_pair, near_duplicate
from delf_engine.verification import verify_features
from helpers import random_features
from mining.moving import TURNED, moved

CONFIG = load_profile("default").verification


def direct_linear_transform(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hartley and Zisserman 4.1, with their normalisation, row by row."""

    def normalised(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = np.sqrt(2) / np.linalg.norm(points - points.mean(0), axis=1).mean()
        t = np.array(
            [[scale, 0, -scale * points[:, 0].mean()], [0, scale, -scale * points[:, 1].mean()], [0, 0, 1]]
        )
        return np.c_[points, np.ones(len(points))] @ t.T, t

    (p, ta), (q, tb) = normalised(a), normalised(b)
    rows = []
    for x, y in zip(p, q, strict=True):
        rows.append(np.r_[np.zeros(3), -y[2] * x, y[1] * x])
        rows.append(np.r_[y[2] * x, np.zeros(3), -y[0] * x])
    h = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
    h = np.linalg.inv(tb) @ h @ ta
    return h / h[2, 2]


def transfer(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved_points = np.c_[points, np.ones(len(points))] @ homography.T
    return moved_points[:, :2] / moved_points[:, 2:]


@pytest.mark.parametrize("model", ["homography", "affine", "fundamental"])
@pytest.mark.parametrize("size", [(640, 480), (2400, 1800)])
def test_homography_and_points_are_the_true_ones(
    rng: np.random.Generator, model: str, size: tuple[int, int]
) -> None:
    zoom = np.diag([size[0] / 640, size[1] / 480, 1])
    truth = zoom @ TURNED @ np.linalg.inv(zoom)
    a = random_features(rng, 300, image_size=size)
    b = moved(rng, a, truth, noise=0.5, strangers=100)
    config = CONFIG.model_copy(update={"estimator": "ransac", "model": model})
    found = verify_features(a, b, config=config)
    fit = fit_pair(a, b, found, config)
    assert fit is not None
    homography, points = fit
    assert homography[2, 2] == 1
    errors = np.linalg.norm(transfer(homography, points[:, :2]) - transfer(truth, points[:, :2]), axis=1)
    assert errors.max() < 0.6 * size[0] / 640
    assert len(points) > 0.9 * found.inliers
    # The points are matches of the verification, as the features have them.
    matched = {(*a.keypoints[i].tolist(), *b.keypoints[j].tolist()) for i, j in found.matches}
    assert {tuple(row) for row in points.tolist()} <= matched
    # Least squares over them, not the best sample of RANSAC.
    oracle = direct_linear_transform(points[:, :2], points[:, 2:])
    difference = transfer(homography, points[:, :2]) - transfer(oracle, points[:, :2])
    assert np.abs(difference).max() < 0.15 * size[0] / 640


def test_matches_off_the_plane_are_left_out(rng: np.random.Generator) -> None:
    a = random_features(rng, 300)
    b = moved(rng, a, TURNED)
    config = CONFIG.model_copy(update={"residual_px": 60.0})
    keypoints = b.keypoints.copy()
    keypoints[:40, 0] = np.clip(
        keypoints[:40, 0] + 55, 0, 639
    )  # within reach of verification, beyond the fit's 30 px
    b = type(b)(keypoints, b.scales, b.scores, b.descriptors, b.image_size)
    found = verify_features(a, b, config=config)
    fit = fit_pair(a, b, found, config)
    assert fit is not None
    points = fit[1]
    assert found.inliers > len(points)
    errors = transfer(TURNED, points[:, :2]) - points[:, 2:]
    assert np.linalg.norm(errors, axis=1).max() < 30 * np.sqrt(2) + 5


def test_no_homography_without_matches_or_across_the_horizon(rng: np.random.Generator) -> None:
    a = random_features(rng, 300)
    nothing = verify_features(a, random_features(rng, 3))
    assert fit_pair(a, random_features(rng, 3), nothing, CONFIG) is None
    # w falls below 0 at x > 500: the plane of the matches, left of it, ends inside photograph a.
    left = random_features(rng, 300, image_size=(300, 480))
    left = type(left)(left.keypoints, left.scales, left.scores, left.descriptors, (640, 480))
    steep = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 500, 0, 1]])
    b = moved(rng, left, steep, size=(900, 1400))
    found = verify_features(left, b, config=CONFIG)
    assert found.inliers > 40
    assert fit_pair(left, b, found, CONFIG) is None


@pytest.mark.parametrize(
    ("homography", "size", "strangers", "expected"),
    [
        (np.diag([0.5, 0.5, 1]), (320, 240), 0, True),  # resized
        (np.eye(3), (640, 480), 0, True),  # recompressed
        (np.eye(3), (640, 480), 250, True),  # other features, but those that match agree
        (np.array([[1, 0, 40], [0, 1, 0], [0, 0, 1.0]]), (640, 480), 0, False),  # a step aside
        (np.array([[1.3, 0, -96], [0, 1.3, -72], [0, 0, 1]]), (640, 480), 0, False),  # a crop
        (TURNED, (640, 480), 0, False),
    ],
)
def test_near_duplicates(
    rng: np.random.Generator, homography: np.ndarray, size: tuple[int, int], strangers: int, expected: bool
) -> None:
    a = random_features(rng, 300)
    b = moved(rng, a, homography, strangers=strangers, size=size)
    found = verify_features(a, b)
    fit = fit_pair(a, b, found, CONFIG)
    assert fit is not None
    assert near_duplicate(fit[0], found, a, b) == expected


def test_same_viewpoint_with_few_agreeing_matches_is_no_duplicate(rng: np.random.Generator) -> None:
    """Other light from the same tripod: many nearest neighbours are wrong now."""
    a = random_features(rng, 300)
    b = moved(rng, a, np.eye(3))
    order = np.r_[rng.permutation(120), np.arange(120, 300)]
    b = type(b)(b.keypoints, b.scales, b.scores, b.descriptors[order], b.image_size)
    found = verify_features(a, b)
    assert found.inliers < 0.8 * found.putative
    assert not near_duplicate(np.eye(3), found, a, b)


def test_details_give_their_points(rng: np.random.Generator) -> None:
    a = random_features(rng, 400)
    b = moved(rng, a, TURNED, noise=0.3, strangers=50)
    fit = fit_fine(TURNED, a, b, FineConfig())
    assert fit is not None
    homography, points = fit
    assert homography is TURNED
    assert 64 < len(points) <= 128
    errors = np.linalg.norm(transfer(TURNED, points[:, :2]) - points[:, 2:], axis=1)
    assert errors.max() < 3
    # Strangers stand there by chance at most, and look otherwise.
    strangers = fit_fine(TURNED, a, random_features(rng, 5000), FineConfig())
    assert strangers is not None
    assert len(strangers[1]) == 0
    steep = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 500, 0, 1]])
    assert fit_fine(steep, a, b, FineConfig()) is None


def test_two_hops_carry_what_both_pairs_share(rng: np.random.Generator) -> None:
    shift = np.array([[1.0, 0, -30], [0, 1, 20], [0, 0, 1]])
    in_a, in_b = rng.uniform((100, 100), (500, 400), (2, 60, 2))
    in_b[:30] = transfer(TURNED, in_a[:30])  # these are seen by both pairs, the others by one
    in_b[30:] = rng.uniform((0, 0), (20, 20), (30, 2))
    in_a[30:] = in_a[30:] * 0.01 + 550
    first, second = np.hstack([in_a, transfer(TURNED, in_a)]), np.hstack([in_b, transfer(shift, in_b)])
    fit = composed((TURNED, first), (shift, second), ((640, 480),) * 3)
    assert fit is not None
    homography, points = fit
    np.testing.assert_allclose(homography, shift @ TURNED / (shift @ TURNED)[2, 2])
    np.testing.assert_allclose(transfer(homography, points[:, :2]), points[:, 2:], atol=1e-6)
    seen = np.hstack([in_a[:30], transfer(homography, in_a[:30])])
    seen = seen[((seen >= 0) & (seen <= [639, 479, 639, 479])).all(1)]
    assert len(seen) > 20
    assert {tuple(row) for row in seen.round(6)} <= {tuple(row) for row in points.round(6)}
    assert len(points) == 2 * len(seen)
    nothing = composed((TURNED, first), (shift, second[30:]), ((640, 480),) * 3)
    assert nothing is not None
    assert len(nothing[1]) == 0
    steep = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 500, 0, 1]])
    assert composed((steep, first), (shift, second), ((640, 480),) * 3) is None
