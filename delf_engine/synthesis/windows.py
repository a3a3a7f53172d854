"""Windows and doors, drawn on a wall: each kind once, each piece with differences of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.synthesis.painting import Colour, Paint, Random, varied

__all__ = ["WINDOWS", "Dress", "door", "pointed", "rounded"]


@dataclass(frozen=True, eq=False)
class Dress:
    """The colours that all windows and doors of a building share."""

    trim: Colour
    frame: Colour
    glass: Colour
    shutter: Colour
    bars: tuple[int, int]


def rounded(x0: float, x1: float, y0: float, y1: float) -> npt.NDArray[np.float64]:
    """Return the outline of an opening under a round arch."""
    return _arched(x0, x1, y0, y1, (x1 - x0) / 2, 0.0)


def pointed(x0: float, x1: float, y0: float, y1: float) -> npt.NDArray[np.float64]:
    """Return the outline of an opening under a pointed arch of two arcs as long as it is wide."""
    return _arched(x0, x1, y0, y1, x1 - x0, 60.0)


def _arched(x0: float, x1: float, y0: float, y1: float, radius: float, keep: float) -> npt.NDArray[np.float64]:
    rise = radius * np.sin(np.radians(keep)) if keep else radius
    spring = min(y0 + rise, y1)
    if keep:
        angles = np.radians(np.linspace(0, keep, 7))
        right = np.column_stack([x0 + radius * np.cos(angles), spring - radius * np.sin(angles)])
        left = np.column_stack([x1 - radius * np.cos(angles), spring - radius * np.sin(angles)])[::-1]
        arc = np.concatenate([right, left])
    else:
        angles = np.radians(np.linspace(0, 180, 15))
        arc = np.column_stack([(x0 + x1) / 2 + radius * np.cos(angles), spring - radius * np.sin(angles)])
    return np.concatenate([[(x1, y1)], arc, [(x0, y1)]])


def _grown(outline: npt.NDArray[np.float64], by: float) -> npt.NDArray[np.float64]:
    middle = (outline.min(axis=0) + outline.max(axis=0)) / 2
    half = (outline.max(axis=0) - outline.min(axis=0)) / 2
    return np.asarray(middle + (outline - middle) * (half + by) / half)


def _pane(rng: Random, dress: Dress) -> Colour:
    """Return what a window shows, which is its own: darkness, the sky, a curtain, a lamp."""
    seen = rng.random()
    if seen < 0.12:
        return varied(rng, (176, 190, 204), 0.15)
    if seen < 0.24:
        return varied(rng, (196, 186, 166), 0.2, 9)
    if seen < 0.28:
        return varied(rng, (226, 190, 110), 0.1)
    return varied(rng, dress.glass, 0.45, 6)


def _glazing(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    pane, (across, down) = _pane(rng, dress), dress.bars
    paint.box(x0, y0, x1, y1, dress.frame)
    edge = 0.06
    wide, tall = (x1 - x0 - edge) / across, (y1 - y0 - edge) / down
    for i in range(across):
        for j in range(down):
            shade = pane * rng.uniform(0.8, 1.2)
            left, top = x0 + edge + i * wide, y0 + edge + j * tall
            paint.box(left, top, left + wide - edge, top + tall - edge, shade)
    paint.polygon(
        [(x0, y0), (x1, y0), (x1, y0 + 0.14), (x0 + 0.1, y0 + 0.14), (x0 + 0.1, y1), (x0, y1)], pane * 0.35
    )


def _sill(paint: Paint, dress: Dress, x0: float, x1: float, y1: float) -> None:
    paint.box(x0 - 0.25, y1, x1 + 0.25, y1 + 0.18, dress.trim)
    paint.box(x0 - 0.2, y1 + 0.18, x1 + 0.2, y1 + 0.26, dress.trim * 0.5)


def _sash(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    paint.box(x0 - 0.18, y0 - 0.18, x1 + 0.18, y1, dress.trim)
    paint.box(x0 - 0.3, y0 - 0.42, x1 + 0.3, y0 - 0.18, dress.trim * 1.06)
    _glazing(rng, paint, dress, x0, y0, x1, y1)
    _sill(paint, dress, x0, x1, y1)


def _pediment(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    _sash(rng, paint, dress, x0, y0, x1, y1)
    low, high, middle = y0 - 0.4, y0 - 0.95, (x0 + x1) / 2
    if rng.random() < 0.75:
        paint.polygon([(x0 - 0.4, low), (middle, high), (x1 + 0.4, low)], dress.trim * 1.08)
        paint.polygon([(x0 - 0.05, low - 0.08), (middle, high + 0.2), (x1 + 0.05, low - 0.08)], dress.trim * 0.74)
    else:
        paint.disc(middle, low, (x1 - x0) / 2 + 0.35, dress.trim * 1.08, up=0.5)
        paint.box(x0 - 0.4, low, x1 + 0.4, low + 0.2, dress.trim)


def _round(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    outline = rounded(x0, x1, y0, y1)
    paint.polygon(_grown(outline, 0.3), dress.trim)
    paint.polygon(outline, dress.frame)
    pane = _pane(rng, dress)
    paint.polygon(_grown(outline, -0.07), pane * 0.5)
    middle, spring = (x0 + x1) / 2, y0 + (x1 - x0) / 2
    _glazing(rng, paint, dress, x0 + 0.05, spring, x1 - 0.05, y1)
    for angle in np.radians([45, 90, 135]):
        tip = (middle + (x1 - x0) / 2 * np.cos(angle), spring - (x1 - x0) / 2 * np.sin(angle))
        paint.line([(middle, spring), tip], dress.frame, 0.06)
    paint.polygon(
        [(middle - 0.2, y0 - 0.4), (middle + 0.2, y0 - 0.4), (middle + 0.12, y0), (middle - 0.12, y0)],
        dress.trim * 1.1,
    )
    _sill(paint, dress, x0, x1, y1)


def _gothic(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    outline = pointed(x0, x1, y0, y1)
    paint.polygon(_grown(outline, 0.35), dress.trim * 1.05)
    paint.polygon(_grown(outline, 0.16), dress.trim * 0.7)
    paint.polygon(outline, _pane(rng, dress) * 0.7)
    middle, wide = (x0 + x1) / 2, x1 - x0
    spring = y0 + min(0.866 * wide, 0.6 * (y1 - y0))
    for side in (-1, 1):
        light = pointed(middle + (side - 1) * wide / 4 + 0.05, middle + (side + 1) * wide / 4 - 0.05, spring, y1)
        paint.line(np.concatenate([light, light[:1]]), dress.trim, 0.1)
    paint.ring(middle, spring - 0.2 * wide, 0.2 * wide, dress.trim, 0.1)
    for y in np.arange(spring + 0.8, y1, 0.7):
        paint.line([(x0, y), (x1, y)], dress.glass * 0.5, 0.04)
    for _ in range(int(rng.integers(2, 7))):  # stained glass
        spot = (middle + rng.uniform(-0.4, 0.4) * wide, y1 - rng.uniform(0.1, 0.9) * (y1 - spring))
        paint.disc(*spot, rng.uniform(0.08, 0.2), rng.uniform(40, 190, 3))
    _sill(paint, dress, x0, x1, y1)


def _twin(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    paint.polygon(_grown(rounded(x0, x1, y0, y1), 0.25), dress.trim)
    middle = (x0 + x1) / 2
    for a, b in ((x0, middle - 0.1), (middle + 0.1, x1)):
        paint.polygon(rounded(a, b, y0 + (x1 - x0) * 0.25, y1), _pane(rng, dress) * 0.7)
    paint.disc(middle, y0 + (x1 - x0) * 0.2, 0.14 * (x1 - x0), dress.glass)
    paint.box(middle - 0.1, y0 + (x1 - x0) * 0.4, middle + 0.1, y1, dress.trim * 1.1)
    _sill(paint, dress, x0, x1, y1)


def _shuttered(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    _sash(rng, paint, dress, x0, y0, x1, y1)
    half = (x1 - x0) * 0.48
    for a, b in ((x0 - half, x0 - 0.05), (x1 + 0.05, x1 + half)):
        if rng.random() < 0.12:  # closed before the window
            a, b = (x0, (x0 + x1) / 2) if b < x0 else ((x0 + x1) / 2, x1)
        paint.box(a, y0, b, y1, dress.shutter * rng.uniform(0.85, 1.1))
        for y in np.arange(y0 + 0.15, y1 - 0.1, 0.22):
            paint.line([(a + 0.08, y), (b - 0.08, y)], dress.shutter * 0.6, 0.05)


def _balcony(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    _sash(rng, paint, dress, x0, y0, x1, y1)
    iron, foot, rail = np.array([38.0, 40, 44]), y1 + 0.12, y1 - 0.75
    paint.box(x0 - 0.45, foot, x1 + 0.45, foot + 0.16, dress.trim * 0.8)
    paint.line([(x0 - 0.4, rail), (x1 + 0.4, rail)], iron, 0.07)
    for x in np.arange(x0 - 0.4, x1 + 0.41, 0.2):
        paint.line([(x, rail), (x, foot)], iron, 0.04)
    if rng.random() < 0.35:
        for x in np.arange(x0 - 0.3, x1 + 0.3, 0.25):
            paint.disc(x, rail + rng.uniform(0, 0.2), rng.uniform(0.1, 0.2), varied(rng, (70, 110, 50), 0.3))
            paint.disc(x, rail + rng.uniform(-0.1, 0.1), 0.09, varied(rng, (200, 60, 70), 0.2, 30))


def _office(rng: Random, paint: Paint, dress: Dress, x0: float, y0: float, x1: float, y1: float) -> None:
    paint.box(x0 - 0.15, y0 - 0.1, x1 + 0.15, y1 + 0.1, dress.frame * 0.7)
    _glazing(rng, paint, dress, x0 - 0.1, y0, x1 + 0.1, y1)
    if rng.random() < 0.3:
        paint.box(x0, y0, x1, y0 + (y1 - y0) * rng.uniform(0.2, 0.8), varied(rng, (212, 208, 196)))


WINDOWS: dict[str, Callable[[Random, Paint, Dress, float, float, float, float], None]] = {
    "sash": _sash,
    "pediment": _pediment,
    "round": _round,
    "gothic": _gothic,
    "twin": _twin,
    "shuttered": _shuttered,
    "balcony": _balcony,
    "office": _office,
}


def door(
    rng: Random, paint: Paint, dress: Dress, x: float, foot: float, wide: float, tall: float, arch: str
) -> None:
    """Draw an entrance with steps, jambs and leaves, its middle at `x`."""
    x0, x1, top = x - wide / 2, x + wide / 2, foot - tall
    make = pointed if arch == "pointed" else rounded
    opening = (
        make(x0, x1, top, foot) if arch != "flat" else np.array([(x0, top), (x1, top), (x1, foot), (x0, foot)])
    )
    for step, shade in ((0.75, 1.05), (0.5, 0.72), (0.25, 0.95)):
        paint.polygon(_grown(opening, step), dress.trim * shade)
    wood = varied(rng, ((86, 54, 36), (44, 66, 52), (96, 36, 34), (52, 58, 74))[int(rng.integers(4))], 0.15)
    paint.polygon(opening, wood * 0.45)
    leaf = foot - tall + (wide * (0.9 if arch == "pointed" else 0.55) if arch != "flat" else 0.2)
    paint.box(x0 + 0.08, leaf, x - 0.03, foot, wood)
    paint.box(x + 0.03, leaf, x1 - 0.08, foot, wood * 0.93)
    for a, b in ((x0 + 0.25, x - 0.2), (x + 0.2, x1 - 0.25)):
        for y in np.linspace(leaf + 0.2, foot - 1.0, 3):
            paint.box(a, y, b, y + (foot - leaf) * 0.2, wood * 0.72)
    for i in range(3):
        paint.box(
            x0 - 0.4 - 0.3 * i,
            foot - 0.16 * (3 - i) + 0.32,
            x1 + 0.4 + 0.3 * i,
            foot,
            dress.trim * (0.85 + 0.07 * i),
        )
