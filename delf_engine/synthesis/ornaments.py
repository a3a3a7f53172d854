"""What makes one building unlike the next: clocks, rose windows, reliefs, statues, signs, flags, ivy, graffiti."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from delf_engine.synthesis.painting import Colour, Paint, Random, varied
from delf_engine.synthesis.windows import rounded

__all__ = ["ORNAMENTS", "clock", "ornament", "poster", "rose", "words"]

_LETTERS = "ABCDEFGHIKLMNOPRSTUVWXYZ"


def words(rng: Random, letters: int) -> str:
    """Return an invented inscription of that many letters or a few more."""
    out = ""
    while len(out) < letters:
        out += "".join(_LETTERS[i] for i in rng.integers(0, len(_LETTERS), int(rng.integers(3, 9)))) + " "
    return out.strip()


def clock(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    """Draw a clock of diameter `size` that shows one time on all days."""
    face = varied(rng, ((236, 230, 212), (34, 44, 70), (226, 206, 160))[int(rng.integers(3))])
    hand = np.array([20.0, 20, 24]) if face.mean() > 120 else np.array([222.0, 190, 110])
    radius = size / 2
    paint.disc(x, y, radius * 1.15, trim * 0.75)
    paint.disc(x, y, radius * 1.05, trim * 1.1)
    paint.disc(x, y, radius * 0.94, face)
    for hour in range(12):
        angle = hour * np.pi / 6
        a, b = 0.72 * radius, (0.9 if hour % 3 else 0.93) * radius
        ends = [(x + r * np.sin(angle), y - r * np.cos(angle)) for r in (a, b)]
        paint.line(ends, hand, 0.05 if hour % 3 else 0.1)
    for length, thick in ((0.5, 0.12), (0.75, 0.07)):
        angle = rng.uniform(0, 2 * np.pi)
        paint.line(
            [(x, y), (x + length * radius * np.sin(angle), y - length * radius * np.cos(angle))], hand, thick
        )


def rose(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    """Draw a rose window of diameter `size`."""
    radius, spokes = size / 2, int(rng.choice([6, 8, 10, 12]))
    paint.disc(x, y, radius * 1.12, trim * 1.1)
    paint.disc(x, y, radius * 1.0, trim * 0.65)
    paint.disc(x, y, radius * 0.92, np.array([34.0, 34, 46]))
    inner, start = rng.uniform(0.2, 0.35), rng.uniform(0, 1)
    for i in range(spokes):
        angle = 2 * np.pi * (i + start) / spokes
        petal = (x + 0.63 * radius * np.cos(angle), y + 0.63 * radius * np.sin(angle))
        paint.disc(*petal, 0.2 * radius, rng.uniform(30, 150, 3))
        paint.ring(*petal, 0.24 * radius, trim, 0.09)
        spoke = angle + np.pi / spokes
        ends = [(x + r * radius * np.cos(spoke), y + r * radius * np.sin(spoke)) for r in (inner, 0.92)]
        paint.line(ends, trim, 0.1)
    paint.disc(x, y, inner * radius, trim)
    paint.disc(x, y, 0.7 * inner * radius, rng.uniform(40, 190, 3))


def _relief(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    wide, tall = size * rng.uniform(0.9, 1.5), size * rng.uniform(0.6, 0.9)
    paint.box(x - wide / 2 - 0.15, y - tall / 2 - 0.15, x + wide / 2 + 0.15, y + tall / 2 + 0.15, trim * 1.08)
    paint.box(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2, trim * 0.6)
    for _ in range(int(rng.integers(5, 12))):
        at = (x + rng.uniform(-0.42, 0.42) * wide, y + rng.uniform(-0.36, 0.36) * tall)
        across, up, turn = rng.uniform(0.05, 0.16) * size, rng.uniform(0.08, 0.25) * size, rng.uniform(-50, 50)
        paint.disc(at[0] + 0.06, at[1] + 0.06, across, trim * 0.38, up=up, turn=turn)
        paint.disc(*at, across, trim * rng.uniform(0.85, 1.2), up=up, turn=turn)


def _arms(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    half, top, foot = 0.36 * size, y - 0.45 * size, y + 0.5 * size
    shield = np.array([(-half, top), (half, top), (half, y), (0.6 * half, y + 0.3 * size), (0, foot)])
    shield = np.concatenate([shield, shield[-2:1:-1] * (-1, 1)])
    paint.polygon(shield * 1.0 + (x, 0), trim * 0.5)
    tinctures = rng.uniform(20, 225, (4, 3))
    inner = shield * (0.84, 1) + (x, 0)
    paint.polygon(inner, tinctures[0])
    if rng.random() < 0.5:
        paint.box(x - 0.8 * half, top, x, y, tinctures[1])
        paint.box(x, y, x + 0.55 * half, y + 0.25 * size, tinctures[1])
    else:
        paint.polygon(
            [(x - 0.8 * half, top + 0.1), (x - 0.3 * half, top), (x + 0.8 * half, y), (x + 0.6 * half, y + 0.2)],
            tinctures[2],
        )
    for dx, dy in rng.uniform(-0.5, 0.5, (int(rng.integers(2, 6)), 2)):
        paint.disc(x + dx * half, y + dy * 0.6 * size, rng.uniform(0.04, 0.1) * size, tinctures[3])


def _statue(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    niche = rounded(x - 0.3 * size, x + 0.3 * size, y - 0.7 * size, y + 0.6 * size)
    paint.polygon((niche - (x, y)) * (1.25, 1.1) + (x, y), trim * 1.08)
    paint.polygon(niche, trim * 0.32)
    stone = varied(rng, trim * 1.05, 0.15)
    lean = rng.uniform(-0.05, 0.05) * size
    robe = [(-0.1, -0.3), (0.12, -0.3), (0.2, 0.5), (-0.2, 0.5)]
    paint.polygon([(x + a * size + lean, y + b * size) for a, b in robe], stone)
    paint.disc(x + lean, y - 0.4 * size, 0.08 * size, stone * 1.08, up=0.1 * size)
    arm = rng.uniform(-1, 1, 2)
    paint.line(
        [(x + lean, y - 0.2 * size), (x + 0.25 * arm[0] * size, y + (0.2 * arm[1] - 0.1) * size)],
        stone * 0.9,
        0.1 * size,
    )
    for dx in rng.uniform(-0.12, 0.12, 4):
        paint.line([(x + dx * size, y - 0.1 * size), (x + 1.4 * dx * size, y + 0.48 * size)], stone * 0.7, 0.03)
    paint.box(x - 0.32 * size, y + 0.5 * size, x + 0.32 * size, y + 0.62 * size, trim * 1.1)


def _sign(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    wide, tall = size * rng.uniform(1.6, 2.6), size * rng.uniform(0.35, 0.5)
    board = varied(rng, rng.uniform(20, 230, 3))
    ink = np.array([245.0, 240, 225]) if board.mean() < 128 else np.array([25.0, 25, 30])
    paint.box(x - wide / 2 - 0.06, y - tall / 2 - 0.06, x + wide / 2 + 0.06, y + tall / 2 + 0.06, board * 0.5)
    paint.box(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2, board)
    letters = max(3, int(wide / (0.62 * tall)))
    paint.text(
        words(rng, letters)[:letters],
        x - 0.46 * wide,
        y + 0.25 * tall,
        0.5 * tall,
        ink,
        0.1 * tall,
        int(rng.choice([0, 2, 3])),
    )


def _flag(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    wide, tall, stripes = 0.55 * size, 1.5 * size, int(rng.integers(2, 5))
    colours = rng.uniform(15, 235, (stripes, 3))
    for i in range(stripes):
        top = y - tall / 2 + tall * i / stripes
        paint.box(x - wide / 2, top, x + wide / 2, top + tall / stripes, colours[i])
    paint.disc(x, y + rng.uniform(-0.2, 0.2) * size, 0.2 * size, colours[0])
    paint.ring(x, y + rng.uniform(-0.4, 0.4) * size, 0.15 * size, rng.uniform(15, 235, 3), 0.08)
    paint.box(x - wide / 2 - 0.1, y - tall / 2 - 0.1, x + wide / 2 + 0.1, y - tall / 2, np.array([60.0, 50, 40]))


def _ivy(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    stem = np.cumsum(np.column_stack([rng.normal(0, 0.16, 14), np.full(14, -0.22)]) * size, axis=0)
    green = varied(rng, ((62, 92, 42), (120, 62, 40), (86, 104, 50))[int(rng.integers(3))], 0.2)
    for point in stem:
        for dx, dy in rng.normal(0, 0.28 * size, (16, 2)):
            colour = green * rng.uniform(0.55, 1.4)
            paint.disc(x + point[0] + dx, y + size + point[1] + dy, rng.uniform(0.09, 0.2), colour)


def _graffiti(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    for _ in range(int(rng.integers(2, 5))):
        knots = rng.uniform(-0.6, 0.6, (int(rng.integers(4, 8)), 2)) * (size, 0.6 * size) + (x, y)
        t = np.linspace(0, len(knots) - 1, 40)
        bend = np.column_stack([np.interp(t, np.arange(len(knots)), knots[:, i]) for i in (0, 1)])
        bend += 0.12 * size * np.column_stack([np.sin(3 * t), np.cos(2.3 * t)])
        paint.line(bend, rng.uniform(10, 240, 3), rng.uniform(0.05, 0.14) * size)


def poster(rng: Random, paint: Paint, trim: Colour, x: float, y: float, size: float) -> None:
    """Draw a printed bill of height `size`: a colour, shapes, lines of type."""
    wide, tall = 0.7 * size, size
    paint.box(x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2, varied(rng, rng.uniform(30, 240, 3)))
    for _ in range(int(rng.integers(2, 6))):
        at = (x + rng.uniform(-0.35, 0.35) * wide, y + rng.uniform(-0.4, 0.2) * tall)
        paint.disc(*at, rng.uniform(0.06, 0.22) * wide, rng.uniform(10, 245, 3), up=rng.uniform(0.06, 0.2) * tall)
    ink = rng.uniform(0, 255, 3)
    for row in range(int(rng.integers(2, 5))):
        high = rng.uniform(0.05, 0.09) * tall
        line = words(rng, 8)[: max(2, int(0.9 * wide / (0.9 * high)))]
        paint.text(
            line, x - 0.44 * wide, y + (0.2 + 0.1 * row) * tall, high, ink, 0.2 * high, int(rng.choice([0, 2, 3]))
        )


ORNAMENTS: dict[str, Callable[[Random, Paint, Colour, float, float, float], None]] = {
    "clock": clock,
    "rose": rose,
    "relief": _relief,
    "arms": _arms,
    "statue": _statue,
    "sign": _sign,
    "flag": _flag,
    "ivy": _ivy,
    "graffiti": _graffiti,
    "poster": poster,
}


def ornament(rng: Random, paint: Paint, trim: Colour, kind: str, x: float, y: float, size: float) -> None:
    """Draw one of the `ORNAMENTS` about `size` metres large around (x, y); every call gives another one."""
    ORNAMENTS[kind](rng, paint, trim, x, y, size)
