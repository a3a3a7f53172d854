from __future__ import annotations

import numpy as np
import pytest

from delf_engine.copies.signature import VIEWS, distances, grid_of, levels, turned_grids
from helpers import random_photo


def naive_levels(grid: np.ndarray) -> np.ndarray:
    """The comparisons one by one, as Wong, Bern and Goldberg describe them."""
    differences = []
    for y in range(9):
        for x in range(9):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if dy or dx:
                        inside = 0 <= y + dy < 9 and 0 <= x + dx < 9
                        differences.append(grid[y + dy, x + dx] - grid[y, x] if inside else 0.0)
    out = []
    brighter = np.median([d for d in differences if d > 2] or [np.inf])
    darker = np.median([-d for d in differences if d < -2] or [np.inf])
    for d in differences:
        level = sum(map(int, (d > 2, d > brighter))) - sum(map(int, (d < -2, -d > darker)))
        out.append(level)
    return np.array(out)


def test_levels_are_the_648_comparisons(rng: np.random.Generator) -> None:
    grids = rng.uniform(0, 255, (5, 9, 9)).astype(np.float32)
    grids[1] = 7  # plain
    grids[2] = np.round(grids[2] / 40)  # ties, and differences that are too small
    found = levels(grids)
    assert found.shape == (5, 648)
    assert found.dtype == np.int8
    for grid, own in zip(grids, found, strict=True):
        np.testing.assert_array_equal(own, naive_levels(grid))


def test_grid_is_the_mean_around_its_points() -> None:
    grey = np.add.outer(np.arange(300), 2 * np.arange(200)).astype(np.float64)  # changes evenly
    grid = grid_of((grey / grey.max() * 255).astype(np.uint8))
    assert grid.shape == (9, 9)
    assert (np.diff(grid, axis=0) > 5).all()
    assert (np.diff(grid, axis=1) > 5).all()
    np.testing.assert_allclose(np.diff(grid, n=2, axis=0), 0, atol=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 3), (300, 1)])
def test_the_smallest_photographs_have_a_grid(shape: tuple[int, int]) -> None:
    grid = grid_of(np.full(shape, 9, np.uint8))
    np.testing.assert_array_equal(grid, np.full((9, 9), 9, np.float32))
    plain = levels(grid[None])
    assert distances(plain, plain) == 1  # says nothing


def test_distances(rng: np.random.Generator) -> None:
    a, b = (rng.integers(-2, 3, (n, 648)).astype(np.int8) for n in (4, 3))
    found = distances(a, b)
    for i in range(4):
        for j in range(3):
            x, y = a[i].astype(float), b[j].astype(float)
            expected = np.linalg.norm(x - y) / (np.linalg.norm(x) + np.linalg.norm(y))
            assert found[i, j] == pytest.approx(expected, abs=1e-6)
    assert (np.diag(distances(a, a)) == 0).all()


def test_a_turned_or_mirrored_photograph_has_the_signature_of_one_view(rng: np.random.Generator) -> None:
    grey = random_photo(rng, 240, 160)[..., 1]
    views = levels(turned_grids(grid_of(grey)))
    for view in range(VIEWS):
        turned = np.rot90(grey if view < 4 else grey[:, ::-1], view % 4)
        apart = distances(views, levels(grid_of(np.ascontiguousarray(turned))[None]))[:, 0]
        assert apart.argmin() == view
        assert apart[view] < 0.3
