"""Overlays: A lands where the transform says, on the pixel; what cannot be laid over B is said, not drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from delf_engine.errors import ConfigError, ImageError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.images import load_image
from delf_engine.plotting import draw_overlay, figure_pixels
from delf_engine.plotting.canvas import GAP
from delf_engine.plotting.overlay import mapped_points, oriented, outline, warped
from delf_engine.verification import Verification
from helpers import raises, random_features, random_photo

MODES = ("blend", "checkerboard", "colours")
TILTED = np.array([[0.9, -0.25, 30.0], [0.2, 0.8, 5.0], [4e-4, -3e-4, 1.0]])


def verification(transform: Any, **changes: Any) -> Verification:
    values: dict[str, Any] = {
        "model": "homography",
        "transform": transform,
        "matches": np.zeros((0, 2)),
        "similarities": np.zeros(0),
        "putative": 10,
        "residual_px": 5.0,
        "reference_size": None,
        "min_inliers": 1,
        "similarity": 1.0,
        "exponent": 1.0,
    }
    return Verification(**{**values, **changes})


def smooth_photo(width: int, height: int) -> np.ndarray:
    """Gradients only, so that another rounding of the place changes a pixel by little."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([255 * x, 255 * y, 127 * (x + 1 - y)], axis=2).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------- warping


def test_identity_and_whole_shifts_are_exact(rng: np.random.Generator) -> None:
    photo = random_photo(rng, 90, 70)
    pixels, covered = warped(photo, np.eye(3), (90, 70), (90, 70))
    assert covered.all()
    assert np.array_equal(pixels, photo)
    shift = np.array([[1.0, 0, 7], [0, 1, -4], [0, 0, 1]])
    pixels, covered = warped(photo, shift, (90, 70), (90, 70))
    expected = np.zeros((70, 90), bool)
    expected[:66, 7:] = True
    assert np.array_equal(covered, expected)
    assert np.array_equal(pixels[:66, 7:], photo[4:, :83])


@pytest.mark.parametrize("transform", [TILTED, -3 * TILTED, np.linalg.inv(TILTED)])
def test_warping_is_that_of_opencv(transform: np.ndarray) -> None:
    photo, size = smooth_photo(200, 150), (180, 160)
    H = oriented(transform, [(99.5, 74.5)])
    assert H is not None
    pixels, covered = warped(photo, H, size, size)
    expected = cv2.warpPerspective(photo, transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert covered.mean() > 0.2
    # Where A is shrunk a little, it is smoothed first; gradients stay what they are.
    assert np.abs(pixels[covered].astype(int) - expected[covered]).max() <= 3
    white = cv2.warpPerspective(np.full((150, 200), 255, np.uint8), transform, size)
    assert (covered[white == 255]).all()
    assert not covered[white == 0].any()


def test_what_lies_behind_the_horizon_is_left_out() -> None:
    # The horizon is x = 100: A's right half maps to places that a mirrored camera would see.
    H = oriented([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]], [(20, 50)])
    assert H is not None
    photo = smooth_photo(200, 100)
    size = (400, 100)
    _, covered = warped(photo, H, size, size)
    assert covered.any()
    v, u = np.nonzero(covered)
    back = np.linalg.inv(H) @ np.stack([u, v, np.ones(len(u))])
    assert (back[0] / back[2] < 100).all()
    assert np.isnan(mapped_points(H, [(150, 50)])).all()
    assert np.isfinite(mapped_points(H, [(50, 50)])).all()
    corners = outline(H, (200, 100), size)
    assert np.isfinite(corners).all()
    assert corners[:, 0].min() >= -0.51  # the mirrored half would be on the left of B


def test_the_outline_is_the_border_of_what_is_covered() -> None:
    H = oriented(TILTED, [(99.5, 74.5)])
    assert H is not None
    size = (260, 240)
    _, covered = warped(smooth_photo(200, 150), H, size, size)
    filled = np.zeros((240, 260), np.uint8)
    cv2.fillPoly(filled, [np.rint(outline(H, (200, 150), size)).astype(np.int32)], 1)
    assert (filled.astype(bool) != covered).mean() < 0.01


wild = st.one_of(
    st.floats(-10, 10), st.floats(-1e300, 1e300), st.sampled_from([0.0, 1.0, -1.0, 1e-300, np.nan, np.inf])
)


@given(arrays(np.float64, (3, 3), elements=wild), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_any_transform_gives_a_picture_or_none(transform: np.ndarray, size: tuple[int, int]) -> None:
    photo = smooth_photo(30, 20)
    H = oriented(transform, [(14.5, 9.5)])
    if H is None:
        assert not np.isfinite(transform).all() or not transform.any()
        return
    pixels, covered = warped(photo, H, size, size)
    assert pixels.shape == (size[1], size[0], 3)
    assert covered.shape == (size[1], size[0])
    corners = outline(H, (30, 20), size)
    assert np.isfinite(corners).all()
    margin = 0.1 * max(size) + 1e-6
    assert (corners >= -margin).all()
    assert (corners <= np.array(size) + margin).all()


# ------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("mode", MODES)
def test_overlay_shows_both(mode: Any) -> None:
    red, blue = np.full((100, 100, 3), (255, 0, 0), np.uint8), np.full((100, 200, 3), (0, 0, 255), np.uint8)
    shift = [[1.0, 0, 100], [0, 1, 0], [0, 0, 1]]  # A is the right half of B
    pixels = figure_pixels(draw_overlay(red, blue, verification(shift), mode=mode))
    left, right = (
        pixels[GAP + 20 : GAP + 500, GAP + 20 : GAP + 500],
        pixels[GAP + 20 : GAP + 500, GAP + 580 : 1080],
    )
    assert (left == (0, 0, 255)).all()
    shown = {tuple(colour) for colour in right.reshape(-1, 3).tolist()}
    assert (
        shown
        == {
            "blend": {(128, 0, 128)},
            "checkerboard": {(255, 0, 0), (0, 0, 255)},
            "colours": {(29, 29, 29)},  # flat, and as bright as B
        }[mode]
    )


def test_colours_are_grey_where_both_agree_at_any_exposure(rng: np.random.Generator) -> None:
    bright = (random_photo(rng, 220, 160) // 2 + 100).astype(np.uint8)
    dark = (bright // 2).astype(np.uint8)
    shifted = np.roll(dark, 20, axis=1)
    inside = (slice(GAP + 8, 600), slice(200, 800))
    tints = []
    for photo in (dark, shifted):
        pixels = figure_pixels(draw_overlay(photo, bright, verification(np.eye(3)), mode="colours"))[inside]
        assert (pixels[:, :, 1] == pixels[:, :, 2]).all()
        tints.append(np.abs(pixels[:, :, 0].astype(int) - pixels[:, :, 1]).mean())
    assert tints[0] < 2
    assert tints[1] > 10


@pytest.mark.parametrize(
    "transform",
    [
        None,
        np.full((3, 3), np.nan),
        np.zeros((3, 3)),
        [[1, 0, 0], [1, 0, 0], [0, 0, 1]],  # onto a line
        [[1, 0, 1e12], [0, 1, 0], [0, 0, 1]],  # out of sight
        [[1e-9, 0, -50], [0, 1e-9, 0], [0, 0, 1]],
        [[1e300, 0, 0], [0, 1e300, 0], [0, 0, 1e300]],
        [[1, 0, 0], [0, 1, 0], [1e9, 1e9, 1]],
    ],
)
@pytest.mark.parametrize("size", [(60, 40), (1, 1), (300, 2)])
def test_no_transform_or_a_wild_one_is_drawn(transform: Any, size: tuple[int, int]) -> None:
    photo = smooth_photo(*size)
    figure_pixels(draw_overlay(photo, photo, verification(transform)))


def test_inliers_are_marked(rng: np.random.Generator) -> None:
    a = random_features(rng, 30, image_size=(200, 150))
    grey = np.full((150, 200, 3), 128, np.uint8)
    found = verification(
        np.eye(3), matches=np.stack([np.arange(30)] * 2, axis=1), similarities=np.ones(30), putative=30
    )
    bare = figure_pixels(draw_overlay(grey, grey, found))
    marked = figure_pixels(draw_overlay(grey, grey, found, features=(a, a)))
    changed = (bare != marked).any(axis=2)
    x, y = ((a.keypoints[0] + 0.5) * (640 / 150)).round().astype(int)
    left = (bare.shape[1] - round(200 * 640 / 150)) // 2
    around = changed[GAP + y - 6 : GAP + y + 7, left + x - 6 : left + x + 7]
    assert around.any()
    assert 0 < changed.mean() < 0.05


def test_the_near_side_is_the_side_of_the_inliers() -> None:
    # With H[2, 2] = 1 the corner of A lies behind the horizon x = 10, and all inliers before it.
    H = np.array([[-1.0, 0, 0], [0, -1.0, 0], [-0.1, 0, 1.0]])
    keypoints = np.array([[30.0, 10], [35, 20], [38, 30]])
    features = LocalFeatures(keypoints, np.ones(3), np.ones(3), np.tile([1.0, 0], (3, 1)), (40, 40))
    turned = oriented(H, features.keypoints)
    assert turned is not None
    assert (mapped_points(turned, keypoints) > 0).all()
    assert np.isnan(mapped_points(turned, [(0, 0)])).all()


def test_wrong_input_is_refused(rng: np.random.Generator) -> None:
    photo, other = random_photo(rng, 100, 80), random_photo(rng, 90, 80)
    features = random_features(rng, 5, image_size=(100, 80))
    good = verification(np.eye(3))
    with raises(ConfigError, "stripes"):
        draw_overlay(photo, photo, good, mode="stripes")  # type: ignore[arg-type]
    for transform in (np.eye(3), None):
        with raises(ConfigError, "fundamental"):
            draw_overlay(photo, photo, replace(good, model="fundamental", transform=transform))
    with raises(MismatchError, "100 x 80"):
        draw_overlay(photo, other, good, features=(features, features))
    far = replace(good, matches=np.array([[0, 7]]), similarities=np.ones(1))
    with pytest.raises(MismatchError):
        draw_overlay(photo, photo, far, features=(features, features))
    with raises(ImageError, "none.jpg"):
        draw_overlay("none.jpg", photo, good)


def test_a_real_wall_lands_on_itself(data: Path) -> None:
    folder = data / "homography" / "graf"
    a, b = load_image(folder / "grafA.jpg"), load_image(folder / "grafB.jpg")
    size = (b.shape[1], b.shape[0])

    def likeness(H: np.ndarray) -> float:
        """Correlation of the warped A with B where A covers it."""
        turned = oriented(H, [((a.shape[1] - 1) / 2, (a.shape[0] - 1) / 2)])
        assert turned is not None
        pixels, covered = warped(a, turned, size, size)
        return float(np.corrcoef(pixels[covered].ravel(), b[covered].ravel())[0, 1])

    truth = np.loadtxt(folder / "H_A_B.txt")
    half_a_pixel = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    assert likeness(truth) > 0.8
    assert likeness(np.eye(3)) < 0.5
    # The centre of a pixel, not its corner, has whole coordinates.
    assert likeness(truth) > likeness(half_a_pixel @ truth)
    assert likeness(truth) > likeness(np.linalg.inv(half_a_pixel) @ truth)
