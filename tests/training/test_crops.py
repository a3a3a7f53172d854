"""Crops of the published recipe, and the reader that makes batches of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.config import parse_config
from delf_engine.errors import ConfigError, DataError
from delf_engine.training.layouts import read_class_folders
from delf_engine.training.sources.classes import CropConfig, CropReader, centre_crop, draw_side, random_crop
from helpers import raises, random_photo, write_image
from training_helpers import fail

SMALL = CropConfig(square=40, window=32, smallest=0.5)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 3))
def test_random_crop_equals_plain_slices(width: int, height: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    edge = min(width, height)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = photo[top : top + edge, left : left + edge]
    flags = cv2.INTER_AREA if edge >= 40 else cv2.INTER_LINEAR
    square = cv2.resize(square, (40, 40), interpolation=flags)
    got = random_crop(photo, SMALL, 32, np.random.default_rng(seed))
    assert any(np.array_equal(got, square[y : y + 32, x : x + 32]) for y in range(9) for x in range(9))
    assert np.array_equal(centre_crop(photo, SMALL), square[4:36, 4:36])
    small = random_crop(photo, SMALL, 16, np.random.default_rng(seed))
    assert np.array_equal(small, cv2.resize(got, (16, 16), interpolation=cv2.INTER_AREA))


def test_windows_reach_every_place_and_sides_their_range() -> None:
    photo = np.zeros((40, 40, 3), np.uint8)
    photo[..., 0], photo[..., 1] = np.arange(40), np.arange(40)[:, None]
    places = {tuple(random_crop(photo, SMALL, 32, np.random.default_rng(i))[0, 0, :2]) for i in range(900)}
    assert places == {(x, y) for x in range(9) for y in range(9)}
    sides = {draw_side(SMALL, np.random.default_rng(i)) for i in range(400)}
    assert sides == set(range(16, 33))
    assert draw_side(CropConfig(square=250, window=224), np.random.default_rng(0)) == 224


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"square": 200, "window": 224}, "224"),
        ({"square": 900, "window": 720, "smallest": 0.01}, "16 pixels"),
        ({"square": 900, "window": 720, "smallest": 1.5}, "smallest"),
        ({"square": 900, "windows": 720}, "'window'"),
    ],
)
def test_crops_that_cannot_be(values: dict[str, float], fact: str) -> None:
    with raises(ConfigError, fact):
        parse_config(CropConfig, values, where="recipe")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2"):
        write_image(tmp_path / f"{name}.png", random_photo(rng, 60, 50))
    return tmp_path


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    data = read_class_folders(folder)
    one, many, other = (
        CropReader(data, SMALL, seed=seed, workers=workers, on_error=fail)
        for seed, workers in ((3, 1), (3, 5), (4, 1))
    )
    first = {step: one.training_batch(step, 6) for step in range(4)}
    for step in (2, 0, 3, 1):
        images, labels = many.training_batch(step, 6)
        assert np.array_equal(images, first[step][0])
        assert np.array_equal(labels, first[step][1])
        assert images.shape == (6, images.shape[1], images.shape[1], 3)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
    assert len({images.tobytes() for images, _ in first.values()}) == 4
    assert other.training_batch(0, 6)[0].tobytes() != first[0][0].tobytes()
    crops = [image.tobytes() for images, _ in first.values() for image in images]
    assert len(set(crops)) == len(crops)  # the same photograph comes with another window each time


def test_labels_are_those_of_the_photographs(tmp_path: Path) -> None:
    for c, value in enumerate((10, 120, 240)):
        for i in range(2):
            write_image(tmp_path / str(c) / f"{i}.png", np.full((40, 40, 3), value, np.uint8))
    reader = CropReader(read_class_folders(tmp_path), SMALL, seed=0, on_error=fail)
    images, labels = reader.training_batch(0, 30)
    assert set(labels.tolist()) == {0, 1, 2}
    assert np.array_equal(images[:, 0, 0, 0], np.array([10, 120, 240])[labels])
    parts = list(reader.measuring_batches(4))
    assert [len(images) for images, _ in parts] == [4, 2]
    assert np.concatenate([labels for _, labels in parts]).tolist() == [0, 0, 1, 1, 2, 2]
    assert all((images == np.array([10, 120, 240])[labels][:, None, None, None]).all() for images, labels in parts)
    (few,) = reader.measuring_batches(4, most=3)
    assert few[1].tolist() == [0, 1, 2]


def test_an_unreadable_photograph_is_reported_and_replaced_by_the_next_of_its_class(folder: Path) -> None:
    (folder / "a" / "1.png").write_bytes(b"no image")
    (folder / "a" / "3.png").write_bytes(b"")
    data = read_class_folders(folder)
    batches = []
    for workers in (1, 4):
        seen: list[str] = []
        reader = CropReader(data, SMALL, seed=0, workers=workers, on_error=lambda p, e, seen=seen: seen.append(p))
        batches.append([reader.training_batch(step, 8) for step in range(4)])
        assert sorted(set(seen)) == [str(folder / "a" / "1.png"), str(folder / "a" / "3.png")]
    for (images, labels), (images4, labels4) in zip(*batches, strict=True):
        assert np.array_equal(images, images4)
        assert np.array_equal(labels, labels4)
    ((images, labels),) = reader.measuring_batches(8)
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[2], images[1])  # behind the last of a class comes its first


def test_a_class_without_any_readable_photograph(folder: Path) -> None:
    for name in ("1", "2"):
        (folder / "b" / f"{name}.png").write_bytes(b"no image")
    seen: list[str] = []
    reader = CropReader(read_class_folders(folder), SMALL, seed=0, on_error=lambda p, e: seen.append(p))
    with raises(DataError, "'b'"):
        reader.training_batch(0, 8)
    assert len(set(seen)) == 2
    ((_, labels),) = reader.measuring_batches(8)
    assert labels.tolist() == [0, 0, 0]
