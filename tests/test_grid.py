"""The rigid grid of R-MAC against its authors' code, and which features lie in which region of it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from delf_engine.features import LocalFeatures
from delf_engine.grid import inside_regions, rigid_grid


def published(width: int, height: int) -> list[list[int]]:
    """R-MAC's sampling as its authors' code states it, in exact numbers: steps, overplus, starts."""
    shorter = min(width, height)
    steps = range(2, 8)
    misfit = [
        abs(
            Fraction(shorter**2 - shorter * Fraction(max(width, height) - shorter, s - 1), shorter**2)
            - Fraction(2, 5)
        )
        for s in steps
    ]
    plus = misfit.index(min(misfit)) + 1
    plus_x, plus_y = plus if width > height else 0, plus if height > width else 0
    out = []
    for level in (1, 2, 3):
        side = 2 * shorter // (level + 1)
        if side == 0:
            continue
        step_x = Fraction(width - side, level + plus_x - 1) if level + plus_x > 1 else Fraction(0)
        step_y = Fraction(height - side, level + plus_y - 1) if level + plus_y > 1 else Fraction(0)
        for i in range(level + plus_y):
            for j in range(level + plus_x):
                x, y = int(j * step_x), int(i * step_y)
                out.append([x, y, x + side, y + side])
    return out


@settings(max_examples=300)
@given(st.integers(1, 4000), st.integers(1, 4000))
def test_the_grid_is_the_published_one(width: int, height: int) -> None:
    assume(max(width, height) <= 4.8 * min(width, height))
    assert rigid_grid((width, height)).tolist() == published(width, height)


def test_a_grid_known_from_elsewhere() -> None:
    """Of an image of 496 x 280, as code of others lists it (with inclusive ends there)."""
    assert rigid_grid((496, 280))[:8].tolist() == [
        [0, 0, 280, 280],
        [216, 0, 496, 280],
        *([x, y, x + 186, y + 186] for y in (0, 94) for x in (0, 155, 310)),
    ]


def test_of_two_numbers_as_close_the_smaller_is_taken() -> None:
    """Two regions share 20 % of a side, three 60 %: levels of two, three and four along the longer side."""
    for size in ((900, 500), (500, 900)):
        assert len(rigid_grid(size)) == 2 + 2 * 3 + 3 * 4


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_any_grid_lies_in_the_image_and_covers_it(width: int, height: int) -> None:
    grid = rigid_grid((width, height))
    assert (grid >= 0).all()
    assert (grid[:, 2:] <= (width, height)).all()
    first = grid[grid[:, 2] - grid[:, 0] == min(width, height)]
    assert first[:, :2].min() == 0
    assert first[:, 2:].max(axis=0).tolist() == [width, height]
    starts = np.unique(first[:, :2].max(axis=1))
    assert (np.diff(starts) <= min(width, height)).all()  # no gaps, however long the image


@given(st.lists(st.tuples(st.sampled_from([0, 99.4, 99.5, 150.25, 249]), st.floats(0, 199)), max_size=9))
def test_features_inside_equal_a_loop(points: list[tuple[float, float]]) -> None:
    keypoints, one = np.array(points, np.float32).reshape(-1, 2), np.ones(len(points))
    features = LocalFeatures(keypoints, one, one, np.ones((len(points), 1)), (250, 200))
    boxes = rigid_grid((250, 200)).tolist()
    wanted = [
        [x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x, y in keypoints.astype(np.float64).tolist()]
        for x0, y0, x1, y1 in boxes
    ]
    found = inside_regions(features)
    assert found.shape == (len(boxes), len(points))
    assert found.tolist() == wanted
