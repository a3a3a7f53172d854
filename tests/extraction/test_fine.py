"""Fine features: RootSIFT in pixels of the image, whatever its size, frame, box and way in."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from delf_engine.config import FineConfig
from delf_engine.errors import ImageError
from delf_engine.extraction.fine import FINE_DIM, fine_features
from delf_engine.verification import fine_evidence
from helpers import raises, random_photo, write_image

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return random_photo(np.random.default_rng(1), 400, 300)


@pytest.mark.parametrize("zoom", [2, 5])
def test_keypoints_are_in_pixels_of_the_image(photo: Pixels, zoom: int) -> None:
    height, width = photo.shape[:2]
    large = cv2.resize(photo, (zoom * width, zoom * height), interpolation=cv2.INTER_CUBIC)
    own, found = fine_features(photo), fine_features(np.asarray(large, np.uint8))
    nearest = (own.descriptors @ found.descriptors.T).argmax(axis=1)
    off = (found.keypoints[nearest] + 0.5) / zoom - 0.5 - own.keypoints
    close = np.abs(off).max(axis=1) < 2
    assert close.mean() > 0.3
    np.testing.assert_allclose(np.median(off[close], axis=0), 0, atol=0.1)  # a shift of half a pixel would show


def test_descriptors_are_root_sift(photo: Pixels) -> None:
    config = FineConfig(min_image_size=1, max_image_size=4000, max_features=200)
    found = fine_features(photo, config=config)
    assert 0 < len(found) <= 200
    assert found.dim == FINE_DIM
    detector = cv2.SIFT_create(nfeatures=200, contrastThreshold=config.contrast, enable_precise_upscale=True)  # type: ignore[attr-defined]
    keypoints, raw = detector.detectAndCompute(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), None)
    for i in range(0, len(found), 17):
        near = [j for j, k in enumerate(keypoints) if np.hypot(*(np.array(k.pt) - found.keypoints[i])) < 1e-3]
        expected = np.sqrt(raw[near] / raw[near].sum(axis=1, keepdims=True))
        assert np.abs(expected - found.descriptors[i]).max(axis=1).min() < 1e-5
    assert fine_features(photo, config=config) == found


def test_frames_and_boxes(photo: Pixels) -> None:
    own = fine_features(photo)
    framed = fine_features(np.pad(photo, ((30, 30), (50, 50), (0, 0)), constant_values=255))
    assert np.array_equal(framed.descriptors, own.descriptors)
    np.testing.assert_allclose(framed.keypoints, own.keypoints + np.float32([50, 30]), atol=1e-2)
    height, width = photo.shape[:2]
    part = fine_features(photo, box=(width // 4, height // 4, width // 2, height // 2))
    assert part.image_size == (width, height)
    assert len(part) > 0
    assert (part.keypoints >= [width // 4 - 1, height // 4 - 1]).all()
    assert (part.keypoints <= [width // 2, height // 2]).all()


def test_a_large_jpeg_is_read_reduced(photo: Pixels, tmp_path: Path) -> None:
    large = np.asarray(cv2.resize(photo, (2400, 1800), interpolation=cv2.INTER_CUBIC), np.uint8)
    path = write_image(tmp_path / "large.jpg", np.pad(large, ((90, 90), (60, 60), (0, 0))), quality=95)
    whole, reduced = fine_features(path), fine_features(path, max_pixels=2_000_000)
    assert reduced.image_size == whole.image_size == (2520, 1980)
    nearest = (whole.descriptors @ reduced.descriptors.T).argmax(axis=1)
    off = reduced.keypoints[nearest] - whole.keypoints
    close = np.abs(off).max(axis=1) < 8
    assert close.mean() > 0.3
    np.testing.assert_allclose(np.median(off[close], axis=0), 0, atol=0.8)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 200)])
def test_nothing_where_there_is_nothing(size: tuple[int, int]) -> None:
    found = fine_features(np.full((size[1], size[0], 3), 77, np.uint8))
    assert (len(found), found.dim, found.image_size) == (0, FINE_DIM, size)


def test_what_is_no_image() -> None:
    with raises(ImageError, "none.jpg"):
        fine_features("none.jpg")
    with raises(ImageError, "box"):
        fine_features(np.zeros((40, 40, 3), np.uint8), box=(900, 900, 950, 950))


def test_a_thumbnail_shows_details_or_says_nothing(photo: Pixels) -> None:
    large = np.asarray(cv2.resize(photo, (1000, 750), interpolation=cv2.INTER_CUBIC), np.uint8)
    other = random_photo(np.random.default_rng(2), 400, 300)
    small = np.asarray(cv2.resize(photo, (100, 75), interpolation=cv2.INTER_AREA), np.uint8)
    own, whole, else_where = fine_features(small), fine_features(large), fine_features(other)
    found = fine_evidence(own, whole)
    assert found.planar > 20
    assert (found.small, found.conclusive) == (True, True)
    assert found.transform is not None
    np.testing.assert_allclose(found.transform @ [50, 37, 1], [504.5, 374.5, 1], atol=6)
    for one, small in ((own, True), (whole, False)):  # a thumbnail is too small to deny it
        other_place = fine_evidence(one, else_where)
        assert (other_place.details, other_place.small, other_place.conclusive) == (0, small, not small)
