from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from delf_engine.training import load_training_config, views
from delf_engine.training.correspondence import cell_grid, sample_cells
from delf_engine.training.views import _random_homography, random_view, read_photograph
from helpers import random_photo, write_image

VIEWS = load_training_config("delf_contrast").views


def test_homography_maps_photo_to_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paint one spot of the photograph and find it where the homography says."""
    monkeypatch.setattr(views, "_photometric", lambda view, *_: view)
    photo = np.zeros((240, 320, 3), np.uint8)
    photo[110:117, 150:157] = 255
    found = 0
    for seed in range(40):
        view, h = random_view(photo, VIEWS, np.random.default_rng(seed))
        x, y, w = h @ (153, 113, 1)
        if not (20 < x / w < 268 and 20 < y / w < 268):
            continue
        found += 1
        grey = view[..., 0].astype(np.float64)
        rows, columns = np.mgrid[:288, :288]
        centre = (columns * grey).sum() / grey.sum(), (rows * grey).sum() / grey.sum()
        assert np.hypot(centre[0] - x / w, centre[1] - y / w) < 0.5
    assert found > 5


def test_light_changes_the_view_but_not_its_geometry() -> None:
    photo = random_photo(np.random.default_rng(0), 300, 300)
    still = VIEWS.model_copy(update={"crop": (1.0, 1.0), "rotation_deg": 0.0, "corner_jitter": 0.0, "aspect": 0.0})
    for seed in range(5):
        view, h = random_view(photo, still, np.random.default_rng(seed))
        assert np.array_equal(view, random_view(photo, still, np.random.default_rng(seed))[0])
        plain = cv2.warpPerspective(photo, h, (288, 288))
        assert np.corrcoef(view.mean(2).ravel(), plain.mean(2).ravel())[0, 1] > 0.6


def test_crop_stays_inside_when_it_fits() -> None:
    small = VIEWS.model_copy(update={"crop": (0.3, 0.4), "corner_jitter": 0.1})
    for seed in range(50):
        h = _random_homography(400, 300, small, np.random.default_rng(seed))
        corners = np.linalg.inv(h) @ np.array([[0, 287, 287, 0], [0, 0, 287, 287], [1, 1, 1, 1]])
        corners = corners[:2] / corners[2]
        assert corners.min() > -0.5
        assert corners[0].max() < 399.5
        assert corners[1].max() < 299.5


def test_cells_equal_a_plain_projection() -> None:
    rng = np.random.default_rng(0)
    h = np.stack([np.array([[1.1, 0.1, -20], [0.05, 0.9, 15], [1e-4, -2e-4, 1]]), np.eye(3)])
    sample = sample_cells(h, (18, 18), size=288, stride=16, count=1000, rng=rng)
    grid = cell_grid(18, 18, 16)
    assert grid[19].tolist() == [16, 16]
    expected = {}
    for pair in range(2):
        for cell, (x, y) in enumerate(grid):
            u, v, w = h[pair] @ (x, y, 1)
            if 0 <= u / w <= 287 and 0 <= v / w <= 287:
                expected[pair, cell] = (u / w, v / w)
    got = {
        (int(p), int(c)): tuple(place)
        for p, c, place in zip(sample.pair, sample.cell, sample.place.numpy(), strict=True)
    }
    assert got.keys() == expected.keys()
    for key, place in got.items():
        np.testing.assert_allclose(place, expected[key], atol=1e-3)
    assert len(sample_cells(h, (18, 18), size=288, stride=16, count=5, rng=rng).pair) == 10


def test_photographs_too_large_to_be_decoded_whole_are_read_smaller(tmp_path: Path) -> None:
    photo = write_image(tmp_path / "a.jpg", Image.new("L", (10_000, 9_000), 90))
    assert read_photograph(str(photo)).shape == (2250, 2500, 3)
