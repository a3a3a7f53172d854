from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from delf_engine.copies.pixels import Grey, agreement, laid_over, read_grey
from helpers import random_photo, write_image


def grey_of(pixels: np.ndarray) -> Grey:
    height, width = pixels.shape[:2]
    grey = np.ascontiguousarray(pixels if pixels.ndim == 2 else pixels[..., 1])
    return Grey(grey, (width, height), (0, 0, width, height))


def shifted(x: float, y: float, zoom: float = 1.0) -> np.ndarray:
    return np.array([[zoom, 0, zoom * x], [0, zoom, zoom * y], [0, 0, 1.0]])


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    return random_photo(rng, 400, 300)


def test_a_crop_is_found_to_the_pixel_from_a_start_that_is_off(photo: np.ndarray) -> None:
    crop = grey_of(photo[60:220, 90:330])
    found = agreement(grey_of(photo), crop, np.array([[1.01, 0.005, -93], [0, 0.99, -57], [0, 0, 1.0]]))
    assert found is not None
    assert found.score > 0.98
    box = [*found.outline_a.min(axis=0), *found.outline_a.max(axis=0)]
    np.testing.assert_allclose(box, (90, 60, 330, 220), atol=1)
    assert found.part_b == pytest.approx(1, abs=0.02)
    assert found.part_a == pytest.approx(240 * 160 / (400 * 300), abs=0.01)
    assert found.scale == pytest.approx(1, abs=0.01)


def test_it_is_the_same_with_both_exchanged_and_at_another_scale(photo: np.ndarray) -> None:
    small = cv2.resize(photo[60:220, 90:330], (120, 80), interpolation=cv2.INTER_AREA)
    start = shifted(-90, -60, 0.5)
    one = agreement(grey_of(photo), grey_of(small), start)
    other = agreement(grey_of(small), grey_of(photo), np.linalg.inv(start))
    assert one is not None
    assert other is not None
    assert min(one.score, other.score) > 0.95
    assert one.scale * other.scale == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(one.outline_a.min(axis=0), other.outline_b.min(axis=0), atol=1.5)


@pytest.mark.parametrize("view", range(8))
def test_views_are_laid_over_each_other(photo: np.ndarray, view: int) -> None:
    side = photo if view < 4 else photo[:, ::-1]
    turned = grey_of(np.rot90(side, view % 4))
    found = agreement(grey_of(photo), turned, laid_over(grey_of(photo), turned, view))
    assert found is not None
    assert found.score > 0.99
    assert min(found.part_a, found.part_b) > 0.98


def test_colours_and_compression_do_not_matter_parallax_does(rng: np.random.Generator, photo: np.ndarray) -> None:
    paled = np.clip(0.6 * photo.astype(float) + 70, 0, 255).astype(np.uint8)
    same = agreement(grey_of(photo), grey_of(paled), np.eye(3))
    depth = cv2.GaussianBlur(rng.normal(size=(300, 400)), (0, 0), 30)  # what stands nearer moves further
    columns = np.arange(400) + 9 * depth / depth.std()
    rows = np.repeat(np.arange(300, dtype=np.float32)[:, None], 400, axis=1)
    moved = cv2.remap(photo, columns.astype(np.float32), rows, cv2.INTER_LINEAR)
    aside = agreement(grey_of(photo), grey_of(moved), np.eye(3))
    assert same is not None
    assert aside is not None
    assert same.score > 0.99
    assert aside.score < 0.8


def test_a_letter_is_no_copy_of_its_empty_letterhead(rng: np.random.Generator) -> None:
    empty = np.full((400, 300), 255, np.uint8)
    empty[20:60, 30:270] = rng.integers(0, 2, (20, 120)).repeat(2, 0).repeat(2, 1) * 255
    letter = empty.copy()
    letter[90:370, 30:270] = rng.integers(0, 2, (140, 120)).repeat(2, 0).repeat(2, 1) * 255
    for a, b in ((empty, letter), (letter, empty)):
        found = agreement(grey_of(a), grey_of(b), np.eye(3))
        assert found is not None
        assert found.score < 0.5
    same = agreement(grey_of(empty), grey_of(empty), np.eye(3))
    assert same is not None
    assert same.score == pytest.approx(1)


def test_what_cannot_be_compared_is_none(photo: np.ndarray) -> None:
    a = grey_of(photo)
    assert agreement(a, a, shifted(1000, 0)) is None  # no overlap
    assert agreement(a, a, shifted(-395, 0)) is None  # a few columns
    assert agreement(a, a, np.diag([1.0, 0.2, 1.0])) is None  # no copy is so skewed
    assert agreement(a, a, np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]])) is None  # behind the horizon
    assert agreement(a, a, np.full((3, 3), np.nan)) is None
    assert agreement(a, a, np.zeros((3, 3))) is None
    plain = grey_of(np.full((300, 400), 128, np.uint8))
    assert agreement(plain, plain, np.eye(3)) is None
    dot = grey_of(np.zeros((1, 1), np.uint8))
    assert agreement(a, dot, shifted(0, 0, 1 / 400)) is None
    assert agreement(dot, a, shifted(0, 0, 400)) is None


def test_frames_are_no_content(tmp_path: Path, photo: np.ndarray) -> None:
    framed = np.full((360, 480, 3), 250, np.uint8)
    framed[40:340, 30:430] = photo
    grey = read_grey(write_image(tmp_path / "framed.png", framed))
    assert grey.size == (480, 360)
    assert grey.content == (30, 40, 430, 340)
    assert grey.inside.shape == (300, 400)
    large = read_grey(write_image(tmp_path / "large.png", np.repeat(framed, 4, axis=1)))
    assert large.pixels.shape == (192, 1024)
    assert large.size == (1920, 360)
