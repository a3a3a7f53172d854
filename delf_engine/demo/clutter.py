"""Things that are not the place: drawn scenes that fill a collection, and objects that stand in the way.

Nothing here is cut from a photograph, so a match with one of these scenes is always wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["OBSTACLES", "SCENES", "add_obstacle", "draw_scene", "smooth_noise"]

Picture: TypeAlias = npt.NDArray[np.float32]  # (H, W, 3) of 0 to 255, or (H, W) of anything
Colour: TypeAlias = npt.NDArray[np.floating] | tuple[float, float, float]
Random: TypeAlias = np.random.Generator


def smooth_noise(rng: Random, height: int, width: int, cell: float, *, stretch: float = 1.0) -> Picture:
    """Return (height, width) float32 noise of mean 0, smooth over `cell` pixels (`stretch` times that across)."""
    rows = max(2, round(height / cell) + 1)
    columns = max(2, round(width / (cell * stretch)) + 1)
    grid = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def draw_scene(rng: Random, width: int, height: int, kind: str) -> Picture:
    """Draw a scene of one of the `SCENES` as (height, width, 3) float32; every call gives another one."""
    return SCENES[kind](rng, height, width)


def add_obstacle(rng: Random, picture: Picture, kind: str) -> Picture:
    """Return `picture` with one of the `OBSTACLES` in front of it, soft at its edges."""
    height, width = picture.shape[:2]
    layer = np.zeros((height, width, 4), np.float32)
    OBSTACLES[kind](rng, layer)
    soft = np.asarray(cv2.GaussianBlur(layer, (0, 0), 0.0015 * max(height, width)), np.float32)
    # Colours were drawn on black: blurred with their alpha they are already weighted by it.
    return np.asarray(picture * (1 - soft[:, :, 3:]) + soft[:, :, :3], np.float32)


# ----------------------------------------------------------------------------------------------------- scenes


def _octaves(rng: Random, height: int, width: int, cell: float, *, stretch: float = 1.0) -> Picture:
    layers = [smooth_noise(rng, height, width, cell / 2**i, stretch=stretch) / 2**i for i in range(4)]
    return np.asarray(sum(layers), np.float32)


def _textured(rng: Random, picture: Picture, strength: float, cell: float = 12.0) -> Picture:
    height, width = picture.shape[:2]
    return np.asarray(picture + strength * _octaves(rng, height, width, cell)[:, :, None], np.float32)


def _gradient(height: int, width: int, top: Colour, bottom: Colour) -> Picture:
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    row = np.asarray(top, np.float32) * (1 - t) + np.asarray(bottom, np.float32) * t
    return np.repeat(row, width, axis=1)


def _sky(rng: Random, height: int, width: int) -> Picture:
    tops = ((95, 140, 205), (150, 165, 185), (70, 80, 130), (205, 215, 225))
    bottoms = ((190, 215, 235), (215, 215, 210), (245, 180, 130), (235, 235, 230))
    i = rng.integers(len(tops))
    sky = _gradient(height, width, tops[i], bottoms[i])
    clouds = np.clip(_octaves(rng, height, width, height / 3, stretch=2.5), 0, 1.6)[:, :, None]
    return np.asarray(sky + (245 - sky) * 0.45 * clouds, np.float32)


def _colour(rng: Random, low: float, high: float, spread: float = 9) -> npt.NDArray[np.float64]:
    return np.clip(rng.uniform(low, high) + rng.normal(0, spread, 3), 10, 250)


def _one_of(rng: Random, *colours: Colour) -> npt.NDArray[np.float64]:
    return np.clip(
        np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.85, 1.12) + rng.normal(0, 6, 3), 10, 250
    )


def _wall(rng: Random, height: int, width: int) -> Picture:
    """Front of a house: rows of windows with frames, sills and panes, cornices between some storeys."""
    plaster = _one_of(rng, (224, 205, 168), (205, 150, 110), (214, 214, 206), (190, 178, 160), (172, 182, 188))
    wall = np.full((height, width, 3), plaster, np.float32)
    if rng.random() < 0.4:
        wall = _bricks(rng, height, width)
    wall = _textured(rng, wall, 7)
    storeys, columns = int(rng.integers(3, 8)), int(rng.integers(3, 9))
    frame, pane, sill = _colour(rng, 40, 240), _colour(rng, 30, 90), _colour(rng, 90, 200)
    fill_y, fill_x, arched = rng.uniform(0.45, 0.75), rng.uniform(0.35, 0.65), rng.random() < 0.35
    for row in range(storeys):
        y0, y1 = height * (row + 0.5 - fill_y / 2) / storeys, height * (row + 0.5 + fill_y / 2) / storeys
        for column in range(columns):
            x0 = width * (column + 0.5 - fill_x / 2) / columns
            x1 = width * (column + 0.5 + fill_x / 2) / columns
            shade = pane + rng.normal(0, 22)
            edge = max(2, int(0.06 * (x1 - x0)))
            _box(wall, x0 - edge, y0 - edge, x1 + edge, y1 + edge, frame)
            _box(wall, x0, y0, x1, y1, shade)
            if arched:
                centre = (int((x0 + x1) / 2), int(y0))
                cv2.ellipse(wall, centre, (int((x1 - x0) / 2), int((y1 - y0) / 4)), 0, 180, 360, list(shade), -1)
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
        line = height * (0.45 + 0.42 * depth) + height * 0.07 * smooth_noise(rng, 2, width, width / 5)[0]
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


def _leaves(rng: Random, height: int, width: int) -> Picture:
    picture = np.full((height, width, 3), (25, 40, 22), np.float32)
    base = _one_of(rng, (75, 120, 45), (110, 125, 50), (150, 90, 40), (50, 100, 60))
    for depth in np.linspace(0.35, 1, 900):
        length = rng.uniform(0.03, 0.075) * width * (0.5 + 0.7 * depth)
        colour = np.clip(base * depth + rng.normal(0, 12) + rng.normal(0, 6, 3), 0, 255)
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        angle, axes = rng.uniform(0, 180), (int(length), int(length * rng.uniform(0.3, 0.5)))
        cv2.ellipse(picture, centre, axes, angle, 0, 360, [float(c) for c in colour], -1)
        tip = length * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
        ends = [tuple(int(v) for v in np.array(centre) + sign * tip) for sign in (-1, 1)]
        cv2.line(picture, ends[0], ends[1], [float(c) for c in colour * 1.2], 1)
    return picture


def _arcade(rng: Random, height: int, width: int) -> Picture:
    stone = _one_of(rng, (214, 200, 170), (190, 185, 178), (200, 160, 125))
    picture = _textured(rng, np.full((height, width, 3), stone, np.float32), 10)
    count = int(rng.integers(3, 6))
    floor = int(height * 0.9)
    for i in range(count):
        x = width * (i + 0.5) / count
        half, spring = 0.33 * width / count, int(height * rng.uniform(0.34, 0.38))
        dark = stone * 0.28 + rng.normal(0, 5)
        for ring, shade in ((1.25, stone * 0.8), (1.0, dark)):
            reach = half * ring
            cv2.ellipse(picture, (int(x), spring), (int(reach), int(reach)), 0, 180, 360, list(shade), -1)
            _box(picture, x - reach, spring, x + reach, floor, shade)
        _box(
            picture,
            x - width / count / 2 - half * 0.3,
            spring - 8,
            x - width / count / 2 + half * 0.3,
            spring,
            stone * 1.1,
        )
    picture[floor:] = stone * 0.6
    return _textured(rng, picture, 5, 5)


# -------------------------------------------------------------------------------------------------- obstacles


def _paint(colour: Colour) -> list[float]:
    return [*(float(c) for c in np.clip(colour, 0, 255)), 1.0]


def _branches(rng: Random, layer: Picture) -> None:
    height, width = layer.shape[:2]
    side = rng.choice([-1, 1])
    corner = np.array([width * (0.5 + 0.5 * side), -0.02 * height])
    green = np.array([55, 85, 35]) + rng.normal(0, 12, 3)
    for _ in range(6):
        reach = np.array([-side * rng.uniform(0.15, 0.42) * width, rng.uniform(0.05, 0.38) * height])
        twig = [corner + t * reach + rng.normal(0, 0.01 * width, 2) for t in np.linspace(0, 1, 12)]
        cv2.polylines(layer, [np.array(twig, np.int32)], False, _paint((50, 40, 30)), max(1, width // 220))
        for point in twig[2:]:
            for _ in range(9):
                at = point + rng.normal(0, 0.02 * width, 2)
                axes = (int(rng.uniform(0.006, 0.015) * width), int(rng.uniform(0.003, 0.006) * width) + 1)
                colour = _paint(green + rng.normal(0, 22))
                cv2.ellipse(layer, (int(at[0]), int(at[1])), axes, rng.uniform(0, 180), 0, 360, colour, -1)


def _people(rng: Random, layer: Picture) -> None:
    height, width = layer.shape[:2]
    for x in rng.uniform(0.03, 0.97, int(rng.integers(4, 9))) * width:
        head = rng.uniform(0.017, 0.028) * height
        y = height - rng.uniform(1.5, 5.5) * head
        coat = rng.uniform(20, 200, 3)
        body = [(-1.1, 1.0), (1.1, 1.0), (2.0, 1.9), (2.2, 8), (-2.2, 8), (-2.0, 1.9)]
        outline = np.array([(x + a * head, y + b * head) for a, b in body], np.int32)
        cv2.fillPoly(layer, [outline], _paint(coat))
        cv2.line(layer, (int(x), int(y + 2 * head)), (int(x), height), _paint(coat * 0.7), max(1, int(head / 5)))
        skin = _paint(np.array([205, 160, 130]) * rng.uniform(0.5, 1.1))
        cv2.ellipse(layer, (int(x), int(y)), (int(head * 0.85), int(head * 1.1)), 0, 0, 360, skin, -1)
        hair = _paint(rng.uniform(15, 120) * np.array([1, 0.85, 0.7]))
        cv2.ellipse(layer, (int(x), int(y - head * 0.2)), (int(head * 0.9), int(head)), 0, 180, 360, hair, -1)


def _lamp_post(rng: Random, layer: Picture) -> None:
    height, width = layer.shape[:2]
    x, top, thick = rng.uniform(0.2, 0.8) * width, rng.uniform(0.15, 0.35) * height, 0.008 * width
    iron = _paint(np.array([35, 38, 40]) + rng.normal(0, 5))
    for reach, y0 in ((1.0, top), (1.8, 0.6 * height), (2.8, 0.88 * height)):
        cv2.rectangle(layer, (int(x - reach * thick), int(y0)), (int(x + reach * thick), height), iron, -1)
    for side in (-1, 1):
        lamp = np.array([x + side * 0.055 * width, top + 0.02 * height])
        cv2.line(layer, (int(x), int(top + 0.03 * height)), (int(lamp[0]), int(lamp[1])), iron, max(2, int(thick)))
        size = 0.019 * width
        glass = [(-0.7, 2.4), (0.7, 2.4), (1, 0), (-1, 0)]
        outline = np.array([(lamp[0] + a * size, lamp[1] + b * size) for a, b in glass], np.int32)
        cv2.fillPoly(layer, [outline], _paint((225, 215, 180)))
        cv2.polylines(layer, [outline], True, iron, max(1, int(thick / 2)))


def _archway(rng: Random, layer: Picture) -> None:
    height, width = layer.shape[:2]
    stone = 0.5 * _textured(rng, _bricks(rng, height, width), 9)
    opening = np.zeros((height, width), np.float32)
    half, spring, x = 0.4 * width, 0.42 * height, width * rng.uniform(0.47, 0.53)
    cv2.ellipse(opening, (int(x), int(spring)), (int(half), int(0.38 * height)), 0, 180, 360, 1.0, -1)
    cv2.rectangle(opening, (int(x - half), int(spring)), (int(x + half), int(0.97 * height)), 1.0, -1)
    rim = np.clip(cv2.GaussianBlur(opening, (0, 0), 0.02 * width) * 2.2, 0, 1)[:, :, None]
    layer[:, :, :3] = stone * (0.55 + 0.6 * rim)
    layer[:, :, 3] = 1
    layer *= 1 - opening[:, :, None]


SCENES: dict[str, Callable[[Random, int, int], Picture]] = {
    "street": _street,
    "hills": _hills,
    "bricks": _brick_wall,
    "leaves": _leaves,
    "arcade": _arcade,
    "facade": _wall,
}

OBSTACLES: dict[str, Callable[[Random, Picture], None]] = {
    "branches": _branches,
    "people": _people,
    "lamp post": _lamp_post,
    "archway": _archway,
}
