"""Whole surfaces of a building: fronts with courses, storeys and bays, towers, gables, roofs.

Two buildings of one style have the same stone and the same kind of window; how these are arranged, each stone's
and each pane's shade, and the ornaments are a building's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from delf_engine.synthesis.ornaments import clock, ornament, rose
from delf_engine.synthesis.painting import Colour, Paint, Picture, Random, masonry, varied, weathered
from delf_engine.synthesis.windows import WINDOWS, Dress, door, pointed, rounded

__all__ = ["Role", "Style", "draw_style", "paint_surface"]

Role: TypeAlias = Literal["front", "wall", "tower", "gable", "gate", "roof", "flat", "dome"]

# Wall colours by what the wall is built of.
_STONE = ((206, 184, 140), (196, 186, 166), (172, 168, 160), (214, 204, 184), (184, 150, 108), (158, 146, 128))
_PLASTER = ((224, 208, 168), (222, 190, 140), (208, 214, 216), (206, 152, 118), (178, 190, 168), (232, 226, 214))
_BRICK = ((150, 78, 58), (170, 98, 70), (128, 72, 60), (176, 130, 92))
_ROOFS = {
    "tiles": ((162, 84, 60), (148, 96, 72)),
    "slate": ((84, 90, 102), (98, 96, 98)),
    "copper": ((112, 158, 138),),
}
_GRAND = ("sash", "pediment", "round", "gothic", "twin", "balcony")
_PLAIN = ("sash", "shuttered", "balcony", "office", "round")
_SIGHTS = ("relief", "arms", "statue", "statue", "relief", "arms", "flag", "ivy")
_STREET = ("sign", "poster", "graffiti", "ivy", "sign", "flag")


@dataclass(frozen=True, eq=False)
class Style:
    """What buildings of one hand have in common. Lengths are in metres."""

    built_of: str
    wall: Colour
    dress: Dress
    upper: str
    lower: str
    bay: float
    storey: float
    filled: tuple[float, float]
    quoins: bool
    pilasters: bool
    courses: bool
    arch: str
    roof: str
    roof_colour: Colour
    grand: bool


def draw_style(rng: Random, *, grand: bool) -> Style:
    """Draw a style: `grand` for landmarks, else for the houses of a town."""
    kinds = (
        ("ashlar", "ashlar", "blocks", "rubble", "brick", "plaster")
        if grand
        else ("plaster", "plaster", "brick", "rubble", "ashlar")
    )
    built_of = kinds[int(rng.integers(len(kinds)))]
    palette = _BRICK if built_of == "brick" else _PLASTER if built_of == "plaster" else _STONE
    wall = varied(rng, palette[int(rng.integers(len(palette)))], 0.1)
    light = built_of in ("brick", "plaster") or rng.random() < 0.4
    trim = varied(rng, (216, 206, 184)) if light else np.clip(wall * rng.uniform(1.04, 1.16), 0, 245)
    frames = ((232, 230, 222), (92, 70, 52), (60, 74, 66), (46, 48, 54))
    dress = Dress(
        trim,
        varied(rng, frames[int(rng.integers(len(frames)))]),
        varied(rng, ((52, 60, 70), (70, 76, 82), (38, 40, 46))[int(rng.integers(3))], 0.2),
        varied(rng, ((64, 96, 78), (92, 72, 58), (72, 92, 120), (140, 60, 50))[int(rng.integers(4))], 0.2),
        (int(rng.integers(1, 4)), int(rng.integers(2, 5))),
    )
    windows = _GRAND if grand else _PLAIN
    upper, lower = (windows[int(i)] for i in rng.integers(0, len(windows), 2))
    roof = tuple(_ROOFS)[int(rng.choice(3, p=(0.4, 0.45, 0.15)))]
    return Style(
        built_of, wall, dress, upper, lower,
        bay=rng.uniform(2.8, 4.6), storey=rng.uniform(3.4, 5.4 if grand else 4.2),
        filled=(rng.uniform(0.34, 0.5), rng.uniform(0.48, 0.66)),
        quoins=rng.random() < 0.5, pilasters=grand and rng.random() < 0.45, courses=rng.random() < 0.7,
        arch="pointed" if upper == "gothic" else str(rng.choice(["flat", "round", "round"])),
        roof=roof, roof_colour=varied(rng, _ROOFS[roof][int(rng.integers(len(_ROOFS[roof])))], 0.12), grand=grand,
    )  # fmt: skip


def paint_surface(rng: Random, style: Style, role: Role, size: tuple[float, float], density: float) -> Picture:
    """Paint one face of a building.

    Parameters
    ----------
    rng : Generator
        Another one gives another face of the same style.
    style : Style
    role : Role
    size : (width, height)
        In metres.
    density : float
        Pixels a metre.

    Returns
    -------
    (H, W, 3) uint8
    """
    columns, rows = (max(8, round(side * density)) for side in size)
    if role in ("roof", "flat", "dome"):
        return _roof(rng, style, role, rows, columns, density)
    picture = masonry(rng, rows, columns, density, style.built_of, varied(rng, style.wall, 0.03, 1.5))
    paint = Paint(picture, density)
    width, height = size
    if role == "tower":
        _tower(rng, paint, style, width, height)
    elif role == "gable":
        _gable(rng, paint, style, width, height)
    elif role == "gate":
        _gate(rng, paint, style, width, height)
    else:
        _storeys(rng, paint, style, width, height, entered=role == "front")
    shade = np.ones((rows, 1, 1), np.float32)  # damp at the foot, dark under the eaves
    foot = min(rows, round(1.2 * density))
    shade[rows - foot :] *= np.linspace(1, 0.82, foot, dtype=np.float32)[:, None, None]
    return weathered(rng, (picture * shade).astype(np.int16), 2.5)


def _cornice(paint: Paint, style: Style, width: float, y: float, tall: float) -> None:
    trim = style.dress.trim
    paint.box(0, y, width, y + tall, trim)
    paint.box(0, y, width, y + 0.3 * tall, trim * 1.1)
    for x in np.arange(0.1, width, 0.55):
        paint.box(x, y + 0.45 * tall, x + 0.28, y + 0.8 * tall, trim * 0.72)
    paint.box(0, y + tall, width, y + tall + 0.25, style.wall * 0.55)


def _corners(rng: Random, paint: Paint, style: Style, width: float, height: float) -> None:
    if not style.quoins:
        return
    for row, y in enumerate(np.arange(0.8, height - 0.6, 0.62)):
        long = 0.85 if row % 2 else 0.5
        for x0, x1 in ((0, long), (width - long, width)):
            stone = style.dress.trim * rng.uniform(0.86, 1.08)
            paint.box(x0, y, x1, y + 0.55, stone)


def _storeys(rng: Random, paint: Paint, style: Style, width: float, height: float, *, entered: bool) -> None:
    trim, top = style.dress.trim, min(1.1 if style.grand else 0.6, 0.2 * height)
    bays = max(1, round(width / (style.bay * rng.uniform(0.92, 1.1))))
    floors = max(1, round((height - top) / style.storey))
    bay, storey = width / bays, (height - top) / floors
    _corners(rng, paint, style, width, height)
    paint.box(0, height - 0.9, width, height, style.wall * 0.74)
    way_in = int(rng.integers(0, bays)) if not style.grand or rng.random() < 0.3 else bays // 2
    blind = {int(i) for i in rng.integers(0, bays * floors, max(1, bays * floors // 7))}
    for floor in range(floors):
        y = top + floor * storey
        kind = style.lower if floor == floors - 1 else style.upper
        shrink = 0.8 if floor == 0 and floors > 2 else 1.0
        for i in range(bays):
            x = (i + 0.5) * bay
            half, tall = style.filled[0] * bay / 2, style.filled[1] * storey * shrink
            if floor == floors - 1 and entered and i == way_in:
                wide = min(0.62 * bay, 2.8)
                door(rng, paint, style.dress, x, height, wide, min(0.8 * storey, 1.9 * wide), style.arch)
            elif floor * bays + i in blind and entered:
                kinds = _SIGHTS if style.grand else _STREET
                ornament(
                    rng,
                    paint,
                    trim,
                    kinds[int(rng.integers(len(kinds)))],
                    x,
                    y + 0.5 * storey,
                    0.5 * min(bay, storey),
                )
            else:
                at = y + 0.56 * storey
                WINDOWS[kind](rng, paint, style.dress, x - half, at - tall / 2, x + half, at + tall / 2)
        if style.courses and floor:
            paint.box(0, y - 0.12, width, y + 0.12, trim)
            paint.box(0, y + 0.12, width, y + 0.2, style.wall * 0.6)
    if style.pilasters:
        _pilasters(paint, style, np.arange(bays + 1) * bay, top, height)
    _cornice(paint, style, width, 0.15, top - 0.3)
    if style.grand and entered and rng.random() < 0.5:
        paint.text(
            "".join(rng.choice(list("AEIOVXLMSTRCN "), max(4, int(width / 1.1)))),
            0.12 * width,
            0.8 * top,
            0.4,
            trim * 0.4,
            0.07,
        )
    if not style.grand and entered and rng.random() < 0.6:  # a shop below
        x0, x1 = sorted(rng.uniform(0.05, 0.95, 2) * width)
        ornament(rng, paint, trim, "sign", (x0 + x1) / 2, height - 0.78 * storey, max(1.6, 0.4 * (x1 - x0)))


def _pilasters(paint: Paint, style: Style, places: np.ndarray, top: float, height: float) -> None:
    trim = style.dress.trim
    for x in places:
        paint.box(x - 0.3, top, x + 0.3, height, trim)
        paint.box(x + 0.12, top + 0.5, x + 0.3, height - 0.5, trim * 0.8)
        paint.box(x - 0.42, top, x + 0.42, top + 0.45, trim * 1.1)
        paint.box(x - 0.42, height - 0.8, x + 0.42, height, trim * 0.95)


def _tower(rng: Random, paint: Paint, style: Style, width: float, height: float) -> None:
    trim = style.dress.trim
    _corners(rng, paint, style, width, height)
    paint.box(0, height - 0.9, width, height, style.wall * 0.74)
    belfry = min(0.3 * height, 1.3 * width)
    make = pointed if style.arch == "pointed" else rounded
    lights = int(rng.integers(1, 4))
    for i in range(lights):
        x = width * (i + 0.5) / lights
        half = min(0.3 * width / lights, 0.9)
        opening = make(x - half, x + half, 1.5, 1.5 + belfry * 0.8)
        paint.polygon((opening - (x, 1.5)) * (1.3, 1.05) + (x, 1.35), trim)
        paint.polygon(opening, style.dress.glass * 0.6)
        for y in np.arange(1.9 + half, 1.5 + belfry * 0.78, 0.45):
            paint.line([(x - half, y), (x + half, y)], trim * 0.75, 0.12)
    y = 1.6 + belfry
    paint.box(0, y, width, y + 0.35, trim)
    signs = ["clock", "arms", "relief", "statue", "window", "window"]
    rng.shuffle(signs)
    y += 0.8
    for kind in signs:
        size = min(0.55 * width, 0.2 * height)
        if y + 1.5 * size > height - 4:
            break
        if kind == "clock":
            clock(rng, paint, trim, width / 2, y + 0.75 * size, 1.15 * size)
        elif kind == "window":
            half = 0.16 * width
            WINDOWS[style.upper](
                rng, paint, style.dress, width / 2 - half, y + 0.2 * size, width / 2 + half, y + 1.2 * size
            )
        else:
            ornament(rng, paint, trim, kind, width / 2, y + 0.75 * size, size)
        y += 1.6 * size
        paint.box(0, y, width, y + 0.2, trim * 0.95)
        y += 0.4
    door(rng, paint, style.dress, width / 2, height, min(0.4 * width, 2.2), 3.2, style.arch)
    _cornice(paint, style, width, 0.1, 0.8)


def _gable(rng: Random, paint: Paint, style: Style, width: float, height: float) -> None:
    """Paint the end of a nave: the uppermost part becomes the triangle that the face's outline cuts out."""
    trim, eaves = style.dress.trim, 0.36 * height
    middle, size = width / 2, min(0.4 * width, 0.34 * height)
    _corners(rng, paint, style, width, height)
    paint.box(0, height - 0.9, width, height, style.wall * 0.74)
    for a, b in (((0, eaves), (middle, 0)), ((middle, 0), (width, eaves))):
        paint.line([a, b], trim * 1.1, 0.9)
        paint.line([(a[0], a[1] + 0.7), (b[0], b[1] + 0.7)], style.wall * 0.55, 0.15)
    choice = rng.random()
    if choice < 0.45:
        rose(rng, paint, trim, middle, 1.05 * eaves, size)
    elif choice < 0.7:
        clock(rng, paint, trim, middle, 0.7 * eaves, 0.5 * size)
        half = 0.11 * width
        for x in (0.3 * width, 0.5 * width, 0.7 * width):
            WINDOWS[style.upper](
                rng, paint, style.dress, x - half * 0.7, 1.05 * eaves, x + half * 0.7, 1.05 * eaves + 2.4 * half
            )
    else:
        ornament(rng, paint, trim, "relief", middle, 0.7 * eaves, 0.7 * size)
        half = 0.18 * width
        WINDOWS[style.upper](rng, paint, style.dress, middle - half, 1.1 * eaves, middle + half, 0.68 * height)
    for side in (-1, 1):
        x = middle + side * 0.34 * width
        kind = ("window", "statue", "relief", "arms")[int(rng.integers(4))]
        if kind == "window":
            half = 0.07 * width
            WINDOWS[style.lower](
                rng, paint, style.dress, x - half, 0.55 * height, x + half, 0.55 * height + 3 * half
            )
        else:
            ornament(rng, paint, trim, kind, x, 0.62 * height, 0.16 * width)
    door(rng, paint, style.dress, middle, height, min(0.26 * width, 3.6), min(0.27 * height, 6.0), style.arch)


def _gate(rng: Random, paint: Paint, style: Style, width: float, height: float) -> None:
    trim, top = style.dress.trim, 0.24 * height
    _cornice(paint, style, width, top, 0.9)
    _cornice(paint, style, width, 0.1, 0.8)
    half = 0.17 * width
    for step, shade in ((0.16, 1.1), (0.08, 0.75), (0.0, 1.0)):
        arch = rounded(width / 2 - half - step * 4, width / 2 + half + step * 4, 0.38 * height - step * 4, height)
        paint.polygon(arch, trim * shade if step else np.array([62.0, 58, 56]))
    far = rounded(width / 2 - 0.6 * half, width / 2 + 0.6 * half, 0.6 * height, height)
    paint.polygon(far, np.array([176.0, 184, 190]))  # daylight at the other end
    for side in (-1, 1):
        x = width / 2 + side * 0.335 * width
        ornament(
            rng, paint, trim, ("relief", "arms", "statue")[int(rng.integers(3))], x, 0.5 * height, 0.1 * width
        )
        ornament(rng, paint, trim, ("statue", "relief")[int(rng.integers(2))], x, 0.75 * height, 0.12 * width)
    ornament(rng, paint, trim, "relief", width / 2, 0.145 * height, 0.16 * height)
    letters = "".join(rng.choice(list("AEIOVXLMSTRCN "), max(6, int(width / 1.3))))
    paint.text(letters, 0.1 * width, top + 1.9, 0.6, trim * 0.4, 0.1)
    _pilasters(paint, style, np.array([0.035, 0.26, 0.74, 0.965]) * width, top + 1.2, height)
    for x in (0.14, 0.86):
        ornament(rng, paint, trim, "arms", x * width, 0.15 * height, 0.1 * height)


def _roof(rng: Random, style: Style, role: Role, rows: int, columns: int, density: float) -> Picture:
    colour = varied(rng, style.roof_colour if role != "flat" else (118, 114, 110), 0.04)
    course = max(2, round(0.38 * density))
    tones = rng.normal(0, 8, (-(-rows // course), -(-columns // course) + 1, 1)) + colour
    picture = np.repeat(np.repeat(tones, course, axis=0), course, axis=1)[:rows, :columns].astype(np.int16)
    picture[np.arange(rows) % course == 0] -= 22
    if style.roof == "copper" or role == "dome":  # standing seams
        picture[:, np.arange(columns) % (3 * course) < max(1, course // 6)] -= 25
    shown = weathered(rng, picture, 6.0)
    paint = Paint(shown, density)
    if role == "roof" and columns > 8 * density and rows > 4 * density and rng.random() < 0.7:
        count = int(rng.integers(2, 6))
        for i in range(count):  # dormers and skylights
            x, y = columns / density * (i + 0.5) / count, 0.6 * rows / density
            paint.box(x - 0.7, y - 0.8, x + 0.7, y + 0.8, style.dress.trim * 0.9)
            paint.box(x - 0.5, y - 0.6, x + 0.5, y + 0.7, style.dress.glass)
    return shown
