from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.synthesis.buildings import landmark, town_place
from delf_engine.synthesis.facades import Role, draw_style, paint_surface
from delf_engine.synthesis.painting import grain, masonry, smooth


@settings(max_examples=40)
@given(
    role=st.sampled_from(get_args(Role)),
    seed=st.integers(0, 999),
    grand=st.booleans(),
    size=st.tuples(st.floats(0.5, 45), st.floats(0.5, 35)),
    density=st.floats(0.3, 5),
)
def test_a_surface_of_any_measures_can_be_painted(
    role: Role, seed: int, grand: bool, size: tuple[float, float], density: float
) -> None:
    first, again = (
        paint_surface(rng, draw_style(rng, grand=grand), role, size, density)
        for rng in (np.random.default_rng(seed), np.random.default_rng(seed))
    )
    assert first.shape == (max(8, round(size[1] * density)), max(8, round(size[0] * density)), 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("shape", [(1, 1), (8, 3000), (2100, 8)])
def test_walls_and_noise_of_any_shape(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for kind in ("ashlar", "blocks", "brick", "rubble", "plaster"):
        assert masonry(rng, *shape, 12.0, kind, np.array([150.0, 120, 90])).shape == (*shape, 3)
    assert grain(rng, *shape, 5.0).shape == shape
    assert smooth(rng, *shape, 4).shape == shape


def test_neighbours_share_a_style_and_nothing_else() -> None:
    a, b, c = (landmark(5, number, 0.2) for number in (0, 1, 2))
    styles = [place.subject.surfaces[0].style for place in (a, b, c)]
    assert styles[0].upper == styles[1].upper
    np.testing.assert_array_equal(styles[0].wall, styles[1].wall)
    assert not np.array_equal(styles[0].wall, styles[2].wall)
    first, second = (place.subject.surfaces[0] for place in (a, b))
    assert not np.array_equal(first.face.outline, second.face.outline)


def test_measures_do_not_depend_on_the_detail_nor_on_the_rest() -> None:
    coarse, fine = landmark(5, 3, 0.2), landmark(5, 3, 0.5)
    for a, b in zip(coarse.subject.surfaces, fine.subject.surfaces, strict=True):
        np.testing.assert_array_equal(a.face.corner, b.face.corner)
        np.testing.assert_array_equal(a.face.outline, b.face.outline)
    texture = coarse.subject.surfaces[0].texture(1, 2)
    np.testing.assert_array_equal(landmark(5, 3, 0.2).subject.surfaces[0].texture(1, 2), texture)
    whole = coarse.subject.surfaces[0].texture(0, 0)
    assert texture.shape == (whole.shape[0] // 4, whole.shape[1] // 2, 3)


def test_other_places_are_no_landmark() -> None:
    landmarks = [landmark(5, number, 0.2).subject for number in range(4)]
    for number in range(6):
        surface = town_place(5, number, 4, 0.2).subject.surfaces[0]
        assert all(surface.stream != s.stream for subject in landmarks for s in subject.surfaces)
