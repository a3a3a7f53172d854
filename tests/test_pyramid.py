from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.pyramid import Level, cell_centres, cell_count, plan_levels, resize
from helpers import random_photo

SCALES = (0.25, 0.35355339, 0.5, 0.70710678)


def plan(size: tuple[int, int], **options: object) -> list[Level]:
    return plan_levels(size, SCALES, **{"max_image_size": 1024, "min_side": 10, **options})  # type: ignore[arg-type]


def test_small_images_are_not_enlarged_to_the_limit() -> None:
    assert plan((640, 480)) == plan((640, 480), max_image_size=None)
    assert plan((640, 480))[0] == Level(0.25, 160, 120)


def test_large_images_are_shrunk_to_the_limit_first() -> None:
    levels = plan((4096, 3072))
    assert [(level.width, level.height) for level in levels] == [(256, 192), (362, 272), (512, 384), (724, 543)]
    assert levels[0].scale == pytest.approx(0.25 * 0.25)  # relative to the original image, not to the shrunk one


def test_levels_below_min_side_are_left_out() -> None:
    assert [level.scale for level in plan((1000, 20))] == [0.5, 0.70710678]
    assert plan((9, 9)) == []
    assert plan((1, 1)) == []
    assert plan((1, 5000), min_side=1) != []


@given(
    size=st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)),
    limit=st.none() | st.integers(64, 4096),
    min_side=st.integers(1, 64),
)
def test_every_level_is_a_rounded_copy_of_the_image(
    size: tuple[int, int], limit: int | None, min_side: int
) -> None:
    for level in plan_levels(size, SCALES, max_image_size=limit, min_side=min_side):
        assert min(level.width, level.height) >= min_side
        assert abs(level.width - size[0] * level.scale) <= 0.5 + 1e-6 or level.width == 1
        assert abs(level.height - size[1] * level.scale) <= 0.5 + 1e-6 or level.height == 1
        if limit is not None:
            assert max(level.width, level.height) <= limit


def test_a_crop_keeps_the_scale_of_the_whole_image() -> None:
    whole, cropped = plan((2048, 1536)), plan((500, 400), whole_size=(2048, 1536))
    assert [level.scale for level in cropped] == [level.scale for level in whole]
    assert (cropped[-1].width, cropped[-1].height) == (round(250 * SCALES[-1]), round(200 * SCALES[-1]))


def test_fill_scales_are_taken_only_while_cells_are_missing() -> None:
    base = plan((1024, 768))
    assert plan((1024, 768), fill_scales=(1.0, 1.4142), fill_to=1000) == base
    small = plan((400, 300), fill_scales=(1.0, 1.4142, 2.0), fill_to=1000)
    assert small == [*plan((400, 300)), Level(1.0, 400, 300), Level(1.4142, 566, 424)]
    assert plan((400, 300), fill_scales=(1.0, 1.4142), fill_to=500)[-1].scale == 1.0
    crop = plan((400, 300), whole_size=(2048, 1536), fill_scales=(1.0,), fill_to=1000)
    assert crop[-1] == Level(0.5, 200, 150)  # a crop keeps the scale of the whole image
    assert plan((12, 9), fill_scales=(1.0,), fill_to=1000) == []  # too small stays too small


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), fill_to=st.integers(0, 3000))
def test_fill_levels_against_the_rule(width: int, height: int, fill_to: int) -> None:
    fill = (1.0, 1.5, 2.0)
    levels = plan((width, height), fill_scales=fill, fill_to=fill_to)
    base = plan((width, height))
    assert levels[: len(base)] == base
    counts = [-(-level.width // 16) * (-(-level.height // 16)) for level in levels]
    assert counts == [cell_count(level, stride=16) for level in levels]
    assert all(sum(counts[:i]) < fill_to for i in range(len(base), len(levels)))
    if sum(counts) < fill_to and min(width, height) >= 10:
        assert len(levels) == len(base) + len(fill)


@pytest.mark.parametrize("method", ["area", "bilinear"])
@pytest.mark.parametrize("size", [(64, 48), (17, 11), (200, 31), (1, 1), (30, 300)])
def test_resize_gives_the_size_asked_for(rng: np.random.Generator, method: str, size: tuple[int, int]) -> None:
    photo = random_photo(rng, 64, 48)
    before = photo.copy()
    out = resize(photo, *size, method)  # type: ignore[arg-type]
    assert out.shape == (size[1], size[0], 3)
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(photo, before)


def test_resize_area_averages_whole_cells(rng: np.random.Generator) -> None:
    photo = random_photo(rng, 64, 48)
    means = photo.reshape(12, 4, 16, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(photo, 16, 12, "area"), means, atol=0.51)


def test_resize_takes_views_and_growing_is_bilinear(rng: np.random.Generator) -> None:
    view = random_photo(rng, 64, 48)[4:40:2, 3:50]
    np.testing.assert_array_equal(resize(view, 47, 18, "area"), view)
    np.testing.assert_array_equal(resize(view, 94, 36, "area"), resize(view, 94, 36, "bilinear"))


def test_cell_centres_of_the_full_resolution_level() -> None:
    level = Level(1.0, 640, 480)
    cells = np.array([[0, 0], [1, 0], [39, 29]])
    np.testing.assert_array_equal(cell_centres(cells, level, (640, 480), stride=16), [[0, 0], [16, 0], [624, 464]])


def test_cell_centres_follow_the_pixel_centre_convention() -> None:
    # Halving the image: pixel 0 of the level covers pixels 0 and 1, so its centre is 0.5.
    cells = np.array([[0, 0], [2, 1]])
    centres = cell_centres(cells, Level(0.5, 50, 30), (100, 60), stride=8)
    np.testing.assert_array_equal(centres, [[0.5, 0.5], [32.5, 16.5]])
    assert centres.dtype == np.float32


def test_cell_centres_of_patches_lie_in_the_image() -> None:
    cells = np.array([[0, 0], [1, 2], [3, 3]])  # of 45 x 43 pixels; the last patch has 3 of its columns, 1 row
    centres = cell_centres(cells, Level(1.0, 45, 43), (45, 43), stride=14, offset=6.5)
    np.testing.assert_array_equal(centres, [[6.5, 6.5], [20.5, 34.5], [44, 42]])


def test_cell_centres_of_no_cells() -> None:
    assert cell_centres(np.zeros((0, 2), int), Level(0.5, 50, 30), (100, 60), stride=16).shape == (0, 2)


@pytest.mark.parametrize("method", ["area", "bilinear"])
@pytest.mark.parametrize("size", [(320, 240), (333, 250), (157, 118)])
def test_a_dot_is_found_where_it_was(size: tuple[int, int], method: str) -> None:
    """The centre of mass of a blurred dot, mapped back, is the place where it was drawn."""
    rows, columns = np.mgrid[:480, :640]
    x, y = 402.0, 131.0
    dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2))
    image = np.repeat(dot.astype(np.uint8)[:, :, None], 3, axis=2)
    small = resize(image, *size, method)[:, :, 0].astype(float)  # type: ignore[arg-type]
    rows, columns = np.mgrid[: size[1], : size[0]]
    centre = np.array([[(small * columns).sum(), (small * rows).sum()]]) / small.sum()
    back = cell_centres(centre, Level(size[0] / 640, *size), (640, 480), stride=1)
    np.testing.assert_allclose(back, [[x, y]], atol=0.1)
