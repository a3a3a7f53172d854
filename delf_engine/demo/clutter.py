"""Drawn scenes that fill a collection.

Nothing here is cut from a photograph, so a match with one of these scenes is always wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Picture: TypeAlias = npt.NDArray[np.float32]  # (H, W, 3) of 0 to 255, or (H, W) of anything
Colour: TypeAlias = npt.NDArray[np.floating] | tuple[float, float, float]
Random: TypeAlias = np.random.Generator


def _smooth_noise(rng: Random, height: int, width: int, cell: float, *, stretch: float = 1.0) -> Picture:
    """Return (height, width) float32 noise of mean 0, smooth over `cell` pixels (`stretch` times that across)."""
    rows = max(2, round(height / cell) + 1)
    columns = max(2, round(width / (cell * stretch)) + 1)
    grid = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _octaves(rng: Random, height: int, width: int, cell: float, *, stretch: float = 1.0) -> Picture:
    layers = [_smooth_noise(rng, height, width, cell / 2**i, stretch=stretch) / 2**i for i in range(4)]
    return np.asarray(sum(layers), np.float32)


def _textured(rng: Random, picture: Picture, strength: float, cell: float = 12.0) -> Picture:
    height, width = picture.shape[:2]
    return np.asarray(picture + strength * _octaves(rng, height, width, cell)[:, :, None], np.float32)


def _sky(rng: Random, height: int, width: int) -> Picture:
    tops = ((95, 140, 205), (150, 165, 185), (70, 80, 130), (205, 215, 225))
    bottoms = ((190, 215, 235), (215, 215, 210), (245, 180, 130), (235, 235, 230))
    i = rng.integers(len(tops))
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    sky = np.array(tops[i], np.float32) * (1 - down) + np.array(bottoms[i], np.float32) * down
    clouds = np.clip(_octaves(rng, height, width, height / 3, stretch=2.5), 0, 1.6)[:, :, None]
    return np.asarray(sky + (245 - sky) * 0.45 * clouds, np.float32)


def _colour(rng: Random, low: float, high: float, spread: float = 9) -> npt.NDArray[np.float64]:
    return np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 10, 250)


def _wall(rng: Random, height: int, width: int) -> Picture:
    """Front of a house: rows of windows with frames, sills and panes, cornices between some storeys."""
    plasters = ((224, 205, 168), (205, 150, 110), (214, 214, 206), (190, 178, 160), (172, 182, 188))
    plaster = np.array(plasters[rng.integers(len(plasters))]) * rng.uniform(0.85, 1.1)
    plain = np.full((height, width, 3), plaster, np.float32)
    wall = _textured(rng, _bricks(rng, height, width) if rng.random() < 0.4 else plain, 7)
    storeys, columns = int(rng.integers(3, 8)), int(rng.integers(3, 9))
    frame, pane, sill = _colour(rng, 40, 240), _colour(rng, 30, 90), _colour(rng, 90, 200)
    fill_y, fill_x = rng.uniform(0.45, 0.75), rng.uniform(0.35, 0.65)
    for row in range(storeys):
        y0, y1 = height * (row + 0.5 - fill_y / 2) / storeys, height * (row + 0.5 + fill_y / 2) / storeys
        for column in range(columns):
            x0 = width * (column + 0.5 - fill_x / 2) / columns
            x1 = width * (column + 0.5 + fill_x / 2) / columns
            shade = pane + rng.normal(0, 22)
            edge = max(2, int(0.06 * (x1 - x0)))
            _box(wall, x0 - edge, y0 - edge, x1 + edge, y1 + edge, frame)
            _box(wall, x0, y0, x1, y1, shade)
            _box(wall, (x0 + x1) / 2 - edge / 2, y0, (x0 + x1) / 2 + edge / 2, y1, frame)
            _box(wall, x0, y0 + (y1 - y0) * 0.4, x1, y0 + (y1 - y0) * 0.4 + edge / 2, frame)
            _box(wall, x0 - 2 * edge, y1 + edge, x1 + 2 * edge, y1 + 2 * edge, sill)
        if rng.random() < 0.4:
            _box(wall, 0, height * (row + 1) / storeys - 4, width, height * (row + 1) / storeys, sill)
    return wall


def _box(picture: Picture, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    cv2.rectangle(picture, (int(x0), int(y0)), (int(x1), int(y1)), [float(c) for c in colour], -1)


def _bricks(rng: Random, height: int, width: int) -> Picture:
    tall = int(rng.integers(9, 22))
    wide, mortar = int(tall * rng.uniform(1.8, 3)), _colour(rng, 120, 200, 8)
    picture = np.full((height, width, 3), mortar, np.float32)
    brick = np.array([165, 85, 65]) + rng.normal(0, 25, 3)
    for row, y in enumerate(range(0, height, tall)):
        for x in range(-(row % 2) * wide // 2, width, wide):
            _box(picture, x, y, x + wide - 3, y + tall - 3, np.clip(brick + rng.normal(0, 14), 0, 255))
    return picture


def _street(rng: Random, height: int, width: int) -> Picture:
    picture = _sky(rng, height, width)
    ground = int(height * rng.uniform(0.8, 0.93))
    picture[ground:] = _textured(
        rng, np.full((height - ground, width, 3), _colour(rng, 90, 150, 6), np.float32), 9
    )
    x = -rng.uniform(0, 0.2) * width
    while x < width:
        wide = rng.uniform(0.35, 0.75) * width
        top, slant = ground - rng.uniform(0.5, 0.85) * height, rng.uniform(-0.16, 0.16) * height
        wall = _wall(rng, 360, 360)
        corners = np.array(
            [[x, top + slant], [x + wide, top - slant], [x + wide, ground], [x, ground]], np.float32
        )
        square = np.array([[0, 0], [359, 0], [359, 359], [0, 359]], np.float32)
        onto = cv2.getPerspectiveTransform(square, corners)
        mask = cv2.warpPerspective(np.ones(wall.shape[:2], np.float32), onto, (width, height))[:, :, None]
        picture = picture * (1 - mask) + cv2.warpPerspective(wall, onto, (width, height)) * mask
        x += wide + rng.uniform(0, 0.08) * width
    return np.asarray(picture, np.float32)


def _hills(rng: Random, height: int, width: int) -> Picture:
    picture = _sky(rng, height, width)
    rows = np.arange(height)[:, None]
    for depth in np.linspace(0, 1, 5):
        line = height * (0.45 + 0.42 * depth) + height * 0.07 * _smooth_noise(rng, 2, width, width / 5)[0]
        land = np.array([90, 120, 130]) * (1 - depth) + np.array([70, 105, 45]) * depth + rng.normal(0, 10, 3)
        hill = _textured(rng, np.full((height, width, 3), land, np.float32), 6 + 22 * depth, 6 + 18 * depth)
        picture = np.where((rows >= line)[:, :, None], hill, picture)
    for _ in range(int(rng.integers(3, 9))):
        _tree(rng, picture, rng.uniform(0, width), height * rng.uniform(0.8, 1), height * rng.uniform(0.12, 0.3))
    return np.asarray(picture, np.float32)


def _tree(rng: Random, picture: Picture, x: float, foot: float, size: float) -> None:
    bark = [float(c) for c in _colour(rng, 45, 75, 8)]
    cv2.line(picture, (int(x), int(foot)), (int(x), int(foot - size)), bark, max(2, int(size / 14)))
    green = np.array([60, 95, 40]) + rng.normal(0, 14, 3)
    for dx, dy in rng.normal(0, 0.23, (130, 2)) * size:
        colour = [float(c) for c in np.clip(green + rng.normal(0, 20) - dy / size * 60, 0, 255)]
        radius = max(1, int(size * rng.uniform(0.02, 0.06)))
        cv2.circle(picture, (int(x + dx), int(foot - size + dy)), radius, colour, -1)


def _brick_wall(rng: Random, height: int, width: int) -> Picture:
    picture = _textured(rng, _bricks(rng, height, width), 10)
    for _ in range(int(rng.integers(2, 5))):  # posters
        x, y = rng.uniform(0, 0.8) * width, rng.uniform(0.05, 0.6) * height
        wide, tall = rng.uniform(0.12, 0.3) * width, rng.uniform(0.2, 0.4) * height
        _box(picture, x, y, x + wide, y + tall, _colour(rng, 60, 230, 40))
        for _ in range(int(rng.integers(3, 9))):
            centre = (int(x + wide * rng.uniform(0.2, 0.8)), int(y + tall * rng.uniform(0.2, 0.8)))
            axes = (int(wide * rng.uniform(0.05, 0.2)), int(tall * rng.uniform(0.03, 0.2)))
            ink = [float(c) for c in _colour(rng, 20, 240, 60)]
            cv2.ellipse(picture, centre, axes, rng.uniform(0, 180), 0, 360, ink, -1)
    return picture


#: From a generator, height and width to a scene, (height, width, 3) float32; every call draws another one.
SCENES: dict[str, Callable[[Random, int, int], Picture]] = {
    "street": _street,
    "hills": _hills,
    "bricks": _brick_wall,
    "facade": _wall,
}
