"""What stands or passes before buildings: trees, people, cars, lamp posts, railings, as upright flat pictures."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.synthesis.painting import Paint, Random, varied
from delf_engine.synthesis.rendering import Canvas

__all__ = ["HEIGHTS", "draw_sprite", "sprites"]

#: Metres that each kind is high; trees differ.
HEIGHTS = {"tree": 8.0, "person": 1.75, "car": 1.5, "lamp": 4.6, "railing": 1.1}

_DENSITY = {"tree": 34.0, "person": 110.0, "car": 80.0, "lamp": 55.0, "railing": 90.0}
_ASPECT = {"tree": 0.8, "person": 0.45, "car": 2.9, "lamp": 0.32, "railing": 3.6}
_COUNT = {"tree": 6, "person": 12, "car": 6, "lamp": 2, "railing": 2}
_NEAREST = 1.2  # metres from the camera

Sprite = npt.NDArray[np.uint8]  # (H, W, 4): RGB and opacity


@functools.lru_cache(maxsize=8)
def sprites(kind: str) -> tuple[Sprite, ...]:
    """Return the pictures of a kind, the same in every process and for every seed."""
    return tuple(_sprite(np.random.default_rng([77, number]), kind) for number in range(_COUNT[kind]))


def _sprite(rng: Random, kind: str) -> Sprite:
    tall = HEIGHTS[kind]
    wide = tall * _ASPECT[kind]
    rows, columns = round(tall * _DENSITY[kind]), round(wide * _DENSITY[kind])
    colours, cover = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns, 3), np.uint8)
    paint = _Pair(Paint(colours, _DENSITY[kind]), Paint(cover, _DENSITY[kind]))
    _DRAW[kind](rng, paint, wide, tall)
    return np.dstack([colours, cover[:, :, :1]])


class _Pair:
    """Draws the colours, and the same shape in white as their cover."""

    def __init__(self, colours: Paint, cover: Paint) -> None:
        self._both = ((colours, None), (cover, np.full(3, 255.0)))

    def __getattr__(self, name: str) -> Any:
        def draw(*arguments: Any, **options: Any) -> None:
            at = next(
                i for i, value in enumerate(arguments) if isinstance(value, np.ndarray) and value.shape == (3,)
            )
            for paint, white in self._both:
                colour = arguments[at] if white is None else white
                getattr(paint, name)(*arguments[:at], colour, *arguments[at + 1 :], **options)

        return draw


def _tree(rng: Random, paint: _Pair, wide: float, tall: float) -> None:
    bark, middle = varied(rng, (74, 60, 48)), wide / 2
    paint.polygon(
        [(middle - 0.22, tall), (middle - 0.1, 0.45 * tall), (middle + 0.1, 0.45 * tall), (middle + 0.25, tall)],
        bark,
    )
    for reach in rng.uniform(-0.3, 0.3, 7) * wide:
        paint.line([(middle, 0.62 * tall), (middle + reach, rng.uniform(0.12, 0.5) * tall)], bark, 0.12)
    green = varied(rng, ((66, 98, 42), (84, 104, 52), (52, 84, 44), (150, 118, 50))[int(rng.integers(4))], 0.15)
    lobes = np.column_stack([rng.uniform(-0.24, 0.24, 7) * wide, rng.uniform(-0.2, 0.16, 7) * tall])
    for _ in range(int(rng.choice([400, 1200, 1600]))):  # some in winter
        lobe = lobes[int(rng.integers(len(lobes)))]
        angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform())
        x = middle + lobe[0] + 0.24 * wide * radius * np.cos(angle)
        y = 0.34 * tall + lobe[1] + 0.17 * tall * radius * np.sin(angle)
        light = 1.25 - 0.9 * (y / tall) + 0.25 * (middle - x) / wide + 0.3 * np.sin(5 * x) * np.cos(4 * y)
        leaf = rng.uniform(0.07, 0.19)
        colour = green * light * rng.uniform(0.7, 1.3)
        paint.disc(x, y, leaf, colour, up=leaf * rng.uniform(0.5, 1), turn=rng.uniform(0, 180))


def _person(rng: Random, paint: _Pair, wide: float, tall: float) -> None:
    coat, legs = (
        rng.uniform(20, 220, 3),
        varied(rng, ((40, 46, 66), (30, 30, 34), (120, 104, 80))[int(rng.integers(3))]),
    )
    skin, middle = varied(rng, (206, 160, 132), 0.35, 4), wide / 2
    stride = rng.uniform(0.02, 0.22)
    for side in (-1, 1):
        paint.line(
            [(middle + 0.04 * side, 0.52 * tall), (middle + stride * side, tall - 0.04)],
            legs * (1 - 0.1 * side),
            0.15,
        )
        elbow = middle + side * rng.uniform(0.2, 0.3)
        paint.line(
            [(middle + 0.16 * side, 0.22 * tall), (elbow, 0.4 * tall), (middle + 0.22 * side, 0.54 * tall)],
            coat * 0.8,
            0.1,
        )
    paint.polygon(
        [
            (middle - 0.2, 0.18 * tall),
            (middle + 0.2, 0.18 * tall),
            (middle + 0.18, 0.58 * tall),
            (middle - 0.18, 0.58 * tall),
        ],
        coat,
    )
    paint.disc(middle, 0.09 * tall, 0.1, skin, up=0.13)
    paint.disc(middle, 0.065 * tall, 0.115, varied(rng, (60, 44, 32), 0.6), up=0.1)
    if rng.random() < 0.4:
        paint.box(middle - 0.13, 0.24 * tall, middle + 0.13, 0.46 * tall, rng.uniform(20, 220, 3))


def _car(rng: Random, paint: _Pair, wide: float, tall: float) -> None:
    body = ((180, 30, 32), (34, 40, 48), (196, 198, 200), (44, 72, 120), (232, 232, 228), (96, 100, 104))[
        int(rng.integers(6))
    ]
    colour = varied(rng, body)
    roof = [(0.2, 0.45), (0.32, 0.06), (0.72, 0.05), (0.88, 0.43)]
    paint.polygon([(x * wide, y * tall) for x, y in roof], colour * 0.9)
    paint.polygon(
        [
            (0.24 * wide, 0.43 * tall),
            (0.335 * wide, 0.13 * tall),
            (0.5 * wide, 0.12 * tall),
            (0.5 * wide, 0.43 * tall),
        ],
        np.array([54.0, 66, 78]),
    )
    paint.polygon(
        [
            (0.53 * wide, 0.43 * tall),
            (0.53 * wide, 0.12 * tall),
            (0.7 * wide, 0.13 * tall),
            (0.81 * wide, 0.43 * tall),
        ],
        np.array([48.0, 60, 72]),
    )
    hull = [(0.02, 0.55), (0.06, 0.44), (0.9, 0.42), (0.98, 0.55), (0.98, 0.84), (0.02, 0.84)]
    paint.polygon([(x * wide, y * tall) for x, y in hull], colour)
    paint.box(0.03 * wide, 0.72 * tall, 0.97 * wide, 0.84 * tall, colour * 0.6)
    paint.line([(0.515 * wide, 0.42 * tall), (0.515 * wide, 0.78 * tall)], colour * 0.55, 0.02)
    for x in (0.2, 0.8):
        paint.disc(x * wide, 0.8 * tall, 0.3, np.array([24.0, 24, 26]))
        paint.disc(x * wide, 0.8 * tall, 0.17, np.array([150.0, 152, 156]))


def _lamp(rng: Random, paint: _Pair, wide: float, tall: float) -> None:
    iron, middle = varied(rng, (36, 42, 42)), wide / 2
    paint.box(middle - 0.05, 0.15 * tall, middle + 0.05, tall, iron)
    paint.box(middle - 0.13, 0.8 * tall, middle + 0.13, tall, iron * 0.8)
    for x in (middle - 0.45, middle + 0.45):
        paint.line([(middle, 0.24 * tall), (x, 0.2 * tall)], iron, 0.06)
        paint.polygon(
            [(x - 0.12, 0.19 * tall), (x + 0.12, 0.19 * tall), (x + 0.18, 0.08 * tall), (x - 0.18, 0.08 * tall)],
            np.array([232.0, 222, 190]),
        )
        paint.polygon([(x - 0.2, 0.08 * tall), (x, 0.03 * tall), (x + 0.2, 0.08 * tall)], iron)


def _railing(rng: Random, paint: _Pair, wide: float, tall: float) -> None:
    iron = varied(rng, (44, 46, 50), 0.4)
    for y in (0.06, 0.2, 0.92):
        paint.line([(0, y * tall), (wide, y * tall)], iron, 0.05)
    for x in np.arange(0.06, wide, 0.14):
        paint.line([(x, 0.0), (x, tall)], iron, 0.025)


_DRAW = {"tree": _tree, "person": _person, "car": _car, "lamp": _lamp, "railing": _railing}


def draw_sprite(
    canvas: Canvas,
    sprite: Sprite,
    foot: tuple[float, float],
    height: float,
    light: npt.NDArray[np.float64],
    mirrored: bool,
) -> None:
    """Stand a flat picture on the ground, upright and turned to the camera, behind whatever is nearer.

    Parameters
    ----------
    canvas : Canvas
    sprite : (H, W, 4) uint8
    foot : (x, y)
        Middle of its lower edge, in metres.
    height : float
        In metres.
    light : (3,) float64
        By which its colours are multiplied.
    mirrored : bool
    """
    camera = canvas.camera
    base = np.array([*foot, 0.0])
    distance = float(camera.rotation[2] @ (base - camera.centre))
    if distance < _NEAREST:
        return
    x, y = camera.project(base[None])[0]
    tall = height * camera.intrinsics[1, 1] / distance
    wide = tall * sprite.shape[1] / sprite.shape[0]
    width, full = camera.size
    if tall < 2 or x + wide / 2 < 0 or x - wide / 2 > width or y < 0 or y - tall > full:
        return
    into = np.array([[wide / sprite.shape[1], 0, x - wide / 2], [0, tall / sprite.shape[0], y - tall]])
    x0, y0 = max(0, int(x - wide / 2)), max(0, int(y - tall))
    x1, y1 = min(width, int(np.ceil(x + wide / 2)) + 1), min(full, int(np.ceil(y)) + 1)
    if x1 <= x0 or y1 <= y0:
        return
    source = sprite[:, ::-1] if mirrored else sprite
    shrunk = min(into[0, 0], into[1, 1])
    if shrunk < 0.7:
        size = (max(1, round(sprite.shape[1] * shrunk)), max(1, round(sprite.shape[0] * shrunk)))
        source = np.asarray(cv2.resize(source, size, interpolation=cv2.INTER_AREA), np.uint8)
        into[:, :2] = np.diag([wide / size[0], tall / size[1]])
    into[:, 2] -= (x0, y0)
    layer = cv2.warpAffine(np.ascontiguousarray(source), into, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    part = np.s_[y0:y1, x0:x1]
    behind = canvas.nearness[part] < 1 / distance
    opacity = layer[:, :, 3] * behind
    share = (opacity.astype(np.float32) / 255)[:, :, None]
    colours = layer[:, :, :3] * light.astype(np.float32)
    mixed = canvas.picture[part] * (1 - share) + np.minimum(colours, 255) * share
    canvas.picture[part] = mixed.astype(np.uint8)
    solid = opacity > 127
    canvas.labels[part][solid] = 0
    canvas.nearness[part][solid] = 1 / distance
