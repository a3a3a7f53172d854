"""A canvas that is measured in metres, and what walls, roofs and streets are made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Colour", "Paint", "Picture", "Random", "grain", "masonry", "smooth", "varied", "weathered"]

Picture: TypeAlias = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Colour: TypeAlias = npt.NDArray[np.float64]
Random: TypeAlias = np.random.Generator

_SHIFT = 4  # fractional bits of OpenCV's drawing functions


class Paint:
    """Draws on a surface in metres: x to the right and y down from its upper left corner.

    Parameters
    ----------
    picture : (H, W, 3) uint8
        Drawn upon in place.
    density : float
        Pixels a metre.
    """

    def __init__(self, picture: Picture, density: float) -> None:
        self.picture = picture
        self.density = density

    def polygon(self, points: Sequence[Sequence[float]] | npt.NDArray[np.float64], colour: Colour) -> None:
        """Fill a polygon of (M, 2) points."""
        corners = self._fixed(np.asarray(points, np.float64))
        cv2.fillPoly(self.picture, [corners], _ink(colour), cv2.LINE_AA, _SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Fill a rectangle."""
        unit, half = self.density * 2**_SHIFT, 2 ** (_SHIFT - 1)
        left, top, right, foot = (round(value * unit) - half for value in (x0, y0, x1, y1))
        corners = np.array([(left, top), (right, top), (right, foot), (left, foot)], np.int32)
        cv2.fillConvexPoly(self.picture, corners, _ink(colour), cv2.LINE_AA, _SHIFT)

    def disc(
        self, x: float, y: float, across: float, colour: Colour, *, up: float | None = None, turn: float = 0
    ) -> None:
        """Fill an ellipse of radii `across` and `up` (default: a circle), turned by degrees."""
        axes = self._lengths(across, across if up is None else up)
        cv2.ellipse(self.picture, self._point(x, y), axes, turn, 0, 360, _ink(colour), -1, cv2.LINE_AA, _SHIFT)

    def ring(self, x: float, y: float, radius: float, colour: Colour, thick: float) -> None:
        """Draw a circle as a line."""
        across = self._lengths(radius, radius)
        cv2.ellipse(
            self.picture,
            self._point(x, y),
            across,
            0,
            0,
            360,
            _ink(colour),
            self._thick(thick),
            cv2.LINE_AA,
            _SHIFT,
        )

    def line(
        self, points: Sequence[Sequence[float]] | npt.NDArray[np.float64], colour: Colour, thick: float
    ) -> None:
        """Draw a line through (M, 2) points, `thick` metres wide."""
        corners = self._fixed(np.asarray(points, np.float64))
        cv2.polylines(self.picture, [corners], False, _ink(colour), self._thick(thick), cv2.LINE_AA, _SHIFT)

    def text(
        self, words: str, x: float, y: float, size: float, colour: Colour, thick: float, font: int = 0
    ) -> None:
        """Write words from the foot of their first letter, capitals `size` metres high."""
        at = (round(x * self.density), round(y * self.density))
        scale = size * self.density / 21  # OpenCV's capitals are 21 pixels high
        cv2.putText(self.picture, words, at, font, scale, _ink(colour), self._thick(thick), cv2.LINE_AA)

    def _fixed(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        # Metres count from the corner of the first pixel, OpenCV's numbers from its centre.
        return np.rint((points * self.density - 0.5) * 2**_SHIFT).astype(np.int32)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        unit, half = self.density * 2**_SHIFT, 2 ** (_SHIFT - 1)
        return round(x * unit) - half, round(y * unit) - half

    def _lengths(self, a: float, b: float) -> tuple[int, int]:
        unit = self.density * 2**_SHIFT
        return max(1, round(a * unit)), max(1, round(b * unit))

    def _thick(self, metres: float) -> int:
        return max(1, round(metres * self.density))


def varied(rng: Random, colour: Sequence[float] | Colour, tone: float = 0.08, hue: float = 5) -> Colour:
    """Return the colour a little lighter or darker, a little redder or bluer."""
    return np.clip(
        np.asarray(colour, np.float64) * rng.uniform(1 - tone, 1 + tone) + rng.normal(0, hue, 3), 4, 250
    )


def smooth(rng: Random, height: int, width: int, cells: float, *, stretch: float = 1.0) -> npt.NDArray[np.float32]:
    """Return (height, width) noise of deviation about 1: `cells` cells down, each `stretch` times as wide."""
    rows = max(2, round(cells) + 1)
    columns = max(2, round(cells * width / (max(1, height) * stretch)) + 1)
    grid = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


@functools.lru_cache(maxsize=1)
def _grain() -> npt.NDArray[np.int16]:
    """Return white and coarser noise, the same in every process; parts of it are cut out at random."""
    rng = np.random.default_rng(20210)
    side = 2048
    field = rng.normal(0, 1, (side, side)).astype(np.float32)
    for step in (2, 4):
        coarse = rng.normal(0, 1, (side // step, side // step)).astype(np.float32)
        field += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.rint(64 * field / field.std()), np.int16)


def grain(rng: Random, height: int, width: int, strength: float) -> npt.NDArray[np.int16]:
    """Return (height, width) int16 noise of that deviation in grey levels, rough at all scales of some pixels."""
    field = _grain()
    if height > len(field) or width > len(field):
        more = ((0, max(0, height - len(field))), (0, max(0, width - len(field))))
        field = np.pad(field, more, mode="reflect" if max(max(more)) < len(field) else "wrap")
    y = int(rng.integers(0, field.shape[0] - height + 1))
    x = int(rng.integers(0, field.shape[1] - width + 1))
    part = field[y : y + height, x : x + width]
    return np.asarray((part * np.float32(strength / 64)).astype(np.int16))


# What a wall is built of: height and length of a stone, width of a joint (metres), contrast of the stones (grey
# levels), brightness of the joints against them.
_COURSES = {
    "ashlar": (0.42, 0.95, 0.05, 9.0, 0.78),
    "blocks": (0.66, 1.35, 0.09, 11.0, 0.6),
    "brick": (0.17, 0.46, 0.04, 15.0, 1.3),
    "rubble": (0.3, 0.5, 0.06, 17.0, 0.72),
}


def masonry(rng: Random, height: int, width: int, density: float, kind: str, colour: Colour) -> Picture:
    """Return the picture of a bare wall.

    Parameters
    ----------
    height, width : int
        In pixels.
    density : float
        Pixels a metre.
    kind : "ashlar", "blocks", "brick", "rubble" or "plaster"
    colour : (3,)
    """
    if kind == "plaster":
        flat = np.broadcast_to(np.asarray(colour, np.int16), (height, width, 3))
        return weathered(rng, flat, 4.0)
    tall, long, joint, contrast, mortar = _COURSES[kind]
    course, stone = max(2, round(tall * density)), max(3.0, long * density)
    gap = max(1, round(joint * density))
    rows, columns = -(-height // course), int(width / stone) + 3
    tones = rng.normal(0, contrast, (rows, columns, 1)) + rng.normal(0, 0.12 * contrast, (rows, columns, 3))
    start = (
        rng.uniform(0, 1, rows) if kind == "rubble" else 0.5 * (np.arange(rows) % 2) + rng.normal(0, 0.07, rows)
    )
    along = np.arange(width) / stone + np.mod(start, 1.0)[:, None]  # in stones, a row for each course
    which = along.astype(np.int64)
    lines = (np.clip(np.asarray(colour) + tones, 0, 255))[np.arange(rows)[:, None], which]
    joints = (along - which) * stone < gap
    lines[joints] = np.clip(np.asarray(colour) * mortar, 0, 235)
    picture = np.repeat(lines.astype(np.int16), course, axis=0)[:height]
    down = np.arange(height) % course
    picture[down < gap] = np.clip(np.asarray(colour) * mortar, 0, 235)
    if course > 6:  # the upper edge of each stone catches the light
        picture[down == gap] += 9
    return weathered(rng, picture, 5.0)


def weathered(rng: Random, picture: npt.NDArray[np.integer], strength: float) -> Picture:
    """Return a surface with grain, stains and streaks of rain; `strength` in grey levels."""
    height, width = picture.shape[:2]
    stains = (
        smooth(rng, height, width, 4)
        + 0.6 * smooth(rng, height, width, 13)
        + smooth(rng, height, width, 2, stretch=0.12)
    )
    shade = grain(rng, height, width, strength) + (1.1 * strength * stains).astype(np.int16)
    return np.asarray(np.clip(picture + shade[:, :, None], 0, 255), np.uint8)


def _ink(colour: Colour) -> list[float]:
    return [min(max(value, 0.0), 255.0) for value in colour.tolist()]
