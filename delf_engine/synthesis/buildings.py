"""Buildings of flat faces, and the places that they stand in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from delf_engine.synthesis.facades import Role, Style, draw_style, paint_surface
from delf_engine.synthesis.geometry import Face, Points, facet, rotated, wall
from delf_engine.synthesis.painting import Picture, Random

__all__ = ["FORMS", "Building", "Place", "Surface", "draw_building", "draw_place", "landmark", "town_place"]

_DENSE, _MEDIUM, _COARSE = 24.0, 14.0, 8.0  # pixels a metre of landmarks, other subjects, what stands around
_NEIGHBOURS = 6  # places of a town with the same houses around them
_PLACE, _FACE = 11, 12  # kinds of random streams


@dataclass(eq=False)
class Surface:
    """A face with its picture, painted when it is first seen, and the picture shrunk along one or both sides."""

    face: Face
    role: Role
    style: Style
    density: float
    stream: tuple[int, ...]
    _levels: dict[tuple[int, int], Picture] = field(default_factory=dict, repr=False)

    def texture(self, across: int, down: int) -> Picture:
        """Return the picture with its width halved `across` times and its height `down` times."""
        key = (across, down)
        if key not in self._levels:
            if key == (0, 0):
                rng = np.random.default_rng(self.stream)
                made = paint_surface(rng, self.style, self.role, self.face.bounds, self.density)
            else:
                whole = self.texture(0, 0)
                size = (max(2, whole.shape[1] >> across), max(2, whole.shape[0] >> down))
                made = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
            self._levels[key] = made
        return self._levels[key]


@dataclass(frozen=True, eq=False)
class Building:
    """Surfaces, and the bounds of what they enclose: middle of the foot, radius on the ground, height (metres)."""

    surfaces: tuple[Surface, ...]
    middle: Points
    radius: float
    height: float


@dataclass(frozen=True, eq=False)
class Place:
    """A building that is looked at, the houses around it, and where trees stand for good.

    Attributes
    ----------
    subject : Building
        Stands at the origin, its front towards negative y.
    houses : tuple of Building
    trees : (M, 4) float64
        x, y, height in metres and the number of its kind.
    ground : int
        Number of the paving.
    """

    subject: Building
    houses: tuple[Building, ...]
    trees: Points
    ground: int


Parts = Iterator[tuple[Face, Role]]


def _block(
    name: str,
    x: tuple[float, float],
    y: tuple[float, float],
    height: float,
    roles: tuple[Role, Role] = ("front", "wall"),
) -> Parts:
    """Yield the four walls of a box: its front in the first role, the other sides in the second."""
    corners = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
    for i, side in enumerate(("front", "right", "back", "left")):
        role = roles[0] if i == 0 else roles[1]
        yield wall(f"{name}-{side}", corners[i], corners[(i + 1) % 4], 0.0, height), role


def _ridge_roof(name: str, x: tuple[float, float], y: tuple[float, float], eaves: float, rise: float) -> Parts:
    """Yield a roof that is hipped on all sides, its ridge along x."""
    (x0, x1), (y0, y1) = x, y
    hip, middle, top = min(0.35 * (x1 - x0), (y1 - y0) / 2), (y0 + y1) / 2, eaves + rise
    a, b = (x0 + hip, middle, top), (x1 - hip, middle, top)
    yield facet(f"{name}-front", [a, b, (x1, y0, eaves), (x0, y0, eaves)]), "roof"
    yield facet(f"{name}-right", [b, (x1, y1, eaves), (x1, y0, eaves)]), "roof"
    yield facet(f"{name}-back", [b, a, (x0, y1, eaves), (x1, y1, eaves)]), "roof"
    yield facet(f"{name}-left", [a, (x0, y0, eaves), (x0, y1, eaves)]), "roof"


def _spire(name: str, corners: Points, foot: float, rise: float) -> Parts:
    """Yield a pyramid over corners (x, y) that are counter-clockwise from above."""
    top = (*corners.mean(axis=0), foot + rise)
    for i in range(len(corners)):
        a, b = corners[i], corners[(i + 1) % len(corners)]
        yield facet(f"{name}-{i}", [top, (*b, foot), (*a, foot)]), "dome"


def _rectangle(x: float, wide: float, y0: float, y1: float) -> Points:
    half = wide / 2
    return np.array([(x - half, y0), (x + half, y0), (x + half, y1), (x - half, y1)])


def _tower_at(name: str, x: float, y: float, side: float, height: float, rise: float) -> Parts:
    half = side / 2
    yield from _block(name, (x - half, x + half), (y - half, y + half), height, ("tower", "tower"))
    yield from _spire(f"{name}-roof", _rectangle(x, side, y - half, y + half), height, rise)


def _hall(rng: Random) -> Parts:
    wide, deep, tall = rng.uniform(24, 34), rng.uniform(12, 16), rng.uniform(10, 14)
    half, d = wide / 2, deep / 2
    yield from _block("main", (-half, half), (-d, d), tall)
    yield from _ridge_roof("roof", (-half, half), (-d, d), tall, rng.uniform(3, 6))
    x, w = rng.uniform(-0.25, 0.25) * wide, rng.uniform(7, 10)
    yield from _gabled("porch", x, -d - rng.uniform(1.5, 3.5), -d + 2, w, 0.7 * tall, 0.55 * w)


def _gabled(name: str, x: float, y0: float, y1: float, wide: float, eaves: float, rise: float) -> Parts:
    """Yield a wing whose front is a gable at y0, its ridge along y."""
    left, right, top = x - wide / 2, x + wide / 2, eaves + rise
    outline = [(x, y0, top), (right, y0, eaves), (right, y0, 0), (left, y0, 0), (left, y0, eaves)]
    yield facet(f"{name}-front", outline), "gable"
    back = [(x, y1, top), (left, y1, eaves), (left, y1, 0), (right, y1, 0), (right, y1, eaves)]
    yield facet(f"{name}-back", back), "gable"
    yield wall(f"{name}-right", (right, y0), (right, y1), 0, eaves), "wall"
    yield wall(f"{name}-left", (left, y1), (left, y0), 0, eaves), "wall"
    yield facet(f"{name}-roof-right", [(x, y0, top), (x, y1, top), (right, y1, eaves), (right, y0, eaves)]), "roof"
    yield facet(f"{name}-roof-left", [(x, y1, top), (x, y0, top), (left, y0, eaves), (left, y1, eaves)]), "roof"


def _tower_house(rng: Random) -> Parts:
    wide, deep, tall = rng.uniform(20, 28), rng.uniform(11, 15), rng.uniform(9, 12)
    half, d, side = wide / 2, deep / 2, rng.uniform(5.5, 7.5)
    yield from _block("main", (-half, half), (-d, d), tall)
    yield from _ridge_roof("roof", (-half, half), (-d, d), tall, rng.uniform(3, 5))
    x = rng.choice([-1, 1]) * rng.uniform(0.1, 0.48) * wide
    yield from _tower_at("tower", x, -d, side, rng.uniform(1.7, 2.3) * tall, rng.uniform(3, 8))


def _palace(rng: Random) -> Parts:
    wide, deep, tall = rng.uniform(30, 40), rng.uniform(12, 16), rng.uniform(12, 15)
    half, d, out = wide / 2, deep / 2, rng.uniform(1.5, 3)
    yield from _block("main", (-half, half), (-d, d), tall)
    yield from _ridge_roof("roof", (-half, half), (-d, d), tall, rng.uniform(2.5, 5))
    w = rng.uniform(9, 13)
    yield from _gabled("centre", 0.0, -d - out, -d + 3, w, tall + 1, 0.3 * w)
    if rng.random() < 0.6:
        for name, x in (("west", -half + 3.5), ("east", half - 3.5)):
            yield from _block(name, (x - 3.6, x + 3.6), (-d - out, -d + 2), tall + 1.5)
            yield from _spire(f"{name}-roof", _rectangle(x, 7.2, -d - out, -d + 2), tall + 1.5, rng.uniform(2, 4))


def _church(rng: Random) -> Parts:
    wide, deep, eaves = rng.uniform(13, 17), rng.uniform(26, 34), rng.uniform(12, 15)
    front = -deep / 2
    yield from _gabled("nave", 0.0, front, deep / 2, wide, eaves, rng.uniform(0.4, 0.6) * wide)
    side, tall = rng.uniform(5, 6.5), eaves * rng.uniform(1.4, 2.0)
    sides = (-1, 1) if rng.random() < 0.5 else (int(rng.choice([-1, 1])),)
    for s in sides:
        x = s * (wide / 2 + side / 2 - 0.5)
        yield from _tower_at(
            "north" if s < 0 else "south", x, front + side / 2 + 0.4, side, tall, rng.uniform(3, 11)
        )


def _rotunda(rng: Random) -> Parts:
    sides, radius, tall = 8, rng.uniform(10, 13), rng.uniform(9, 12)
    turn = 2 * np.pi * np.arange(sides) / sides - np.pi / 2 - np.pi / sides

    def ring(size: float) -> Points:
        return np.column_stack([size * np.cos(turn), size * np.sin(turn)])

    def tier(name: str, lower: float, upper: float, z0: float, z1: float, role: Role) -> Parts:
        a, b = ring(lower), ring(upper)
        for i in range(sides):
            j = (i + 1) % sides
            corners = [(*b[i], z1), (*b[j], z1), (*a[j], z0), (*a[i], z0)]
            yield facet(f"{name}-{i}", corners), "front" if role == "wall" and i == 0 else role

    yield from tier("drum", radius, radius, 0, tall, "wall")
    yield from tier("terrace", radius, 0.78 * radius, tall, tall + 0.4, "flat")
    upper, high = 0.76 * radius, tall + rng.uniform(5, 7)
    yield from tier("gallery", upper, upper, tall, high, "wall")
    bulge = rng.uniform(0.8, 0.9)
    yield from tier("dome", upper * 1.03, bulge * upper, high, high + 0.4 * radius, "dome")
    yield from tier("crown", bulge * upper, 0.25 * upper, high + 0.4 * radius, high + 0.72 * radius, "dome")
    yield from _spire("lantern", ring(0.25 * upper), high + 0.72 * radius, rng.uniform(2, 5))


def _gatehouse(rng: Random) -> Parts:
    wide, deep, tall = rng.uniform(19, 25), rng.uniform(7, 10), rng.uniform(16, 20)
    half, d = wide / 2, deep / 2
    for face, role in _block("gate", (-half, half), (-d, d), tall, ("gate", "wall")):
        yield face, "gate" if face.name == "gate-back" else role
    yield from _ridge_roof("roof", (-half, half), (-d, d), tall, rng.uniform(0.6, 3))


def _house(rng: Random) -> Parts:
    wide, deep, tall = rng.uniform(9, 22), rng.uniform(8, 12), rng.uniform(8, 18)
    yield from _block("house", (-wide / 2, wide / 2), (-deep / 2, deep / 2), tall)
    yield from _ridge_roof("roof", (-wide / 2, wide / 2), (-deep / 2, deep / 2), tall, rng.uniform(0.8, 4.5))


FORMS: dict[str, Callable[[Random], Parts]] = {
    "palace": _palace,
    "church": _church,
    "tower": _tower_house,
    "rotunda": _rotunda,
    "gate": _gatehouse,
    "hall": _hall,
    "house": _house,
}
_GRAND = tuple(form for form in FORMS if form != "house")


def draw_building(
    rng: Random,
    form: str,
    style: Style,
    stream: tuple[int, ...],
    *,
    density: float,
    turn: float = 0.0,
    at: tuple[float, float] = (0.0, 0.0),
) -> Building:
    """Draw a building of one of the `FORMS`.

    Parameters
    ----------
    rng : Generator
        Of its measures.
    form : str
    style : Style
    stream : tuple of int
        Seed of its surfaces, which are painted later.
    density : float
        Of their pictures, in pixels a metre.
    turn : float
        Degrees, counter-clockwise from above.
    at : (x, y)
        Where its middle stands, in metres.
    """
    turned, shift = rotated(turn), np.array([*at, 0.0])
    surfaces = tuple(
        Surface(face.moved(face.name, turned, shift), role, style, density, (*stream, i))
        for i, (face, role) in enumerate(FORMS[form](rng))
    )
    corners = np.concatenate([s.face.world(s.face.outline) for s in surfaces])
    away = np.linalg.norm(corners[:, :2] - shift[:2], axis=1)
    return Building(surfaces, shift, float(away.max()), float(corners[:, 2].max()))


def draw_place(rng: Random, subject: Building, houses: tuple[Building, ...]) -> Place:
    """Stand a building among houses, with trees and a paving of its own."""
    count = int(rng.integers(0, 5))
    # Not before the front: y is negative there.
    bearing, away = np.radians(rng.uniform(-35, 215, count)), subject.radius + rng.uniform(2, 30, count)
    trees = np.column_stack(
        [away * np.cos(bearing), away * np.sin(bearing), rng.uniform(5, 11, count), rng.integers(0, 6, count)]
    )
    return Place(subject, houses, trees, int(rng.integers(0, 4)))


@functools.lru_cache(maxsize=2)
def _neighbourhood(stream: tuple[int, ...], detail: float) -> tuple[Building, ...]:
    """Return a ring of houses, with room for any building in its middle."""
    rng = np.random.default_rng(stream)
    hands = [draw_style(rng, grand=False) for _ in range(4)]
    houses = []
    for i, angle in enumerate(np.arange(0, 360, 24)):
        if rng.random() < 0.3:
            continue
        bearing, away = np.radians(angle + rng.uniform(-7, 7)), rng.uniform(58, 92)
        at = (away * np.cos(bearing), away * np.sin(bearing))
        turn = np.degrees(bearing) - 90 + rng.uniform(-12, 12)  # its front towards the middle
        style = hands[int(rng.integers(len(hands)))]
        houses.append(
            draw_building(rng, "house", style, (*stream, i + 1), density=_COARSE * detail, turn=turn, at=at)
        )
    return tuple(houses)


def landmark(seed: int, number: int, detail: float = 1.0) -> Place:
    """Draw landmark `number` of the set of that seed.

    Two neighbours, 0 and 1, 2 and 3 and so on, share a style, and every other such pair the form as well: to tell
    them apart takes the arrangement and the ornaments.

    Parameters
    ----------
    seed, number : int
    detail : float
        1 for pictures of 640 pixels, more for larger ones; the measures do not depend on it.
    """
    pair = number // 2
    style, form = _hand(seed, pair)
    if pair % 2 and number % 2:
        form += 1 + pair % 3
    rng = np.random.default_rng([seed, _PLACE, 1, number])
    stream = (seed, _FACE, 0, number)
    subject = draw_building(rng, _GRAND[form % len(_GRAND)], style, (*stream, 0), density=_DENSE * detail)
    return draw_place(rng, subject, _neighbourhood((*stream, 1), detail))


def town_place(seed: int, number: int, landmarks: int, detail: float = 1.0) -> Place:
    """Draw a place that is none of the landmarks; some are by the hand that built one of them.

    A few of them in a row stand in one neighbourhood. Parameters as of `landmark`.
    """
    rng = np.random.default_rng([seed, _PLACE, 2, number])
    if rng.random() < 0.4:
        style, form = _hand(seed, int(rng.integers((landmarks + 1) // 2)))
    else:
        style, form = draw_style(rng, grand=rng.random() < 0.5), int(rng.integers(len(_GRAND)))
    name = "house" if rng.random() < 0.3 else _GRAND[form % len(_GRAND)]
    subject = draw_building(rng, name, style, (seed, _FACE, 1, number), density=_MEDIUM * detail)
    return draw_place(rng, subject, _neighbourhood((seed, _FACE, 2, number // _NEIGHBOURS), detail))


def _hand(seed: int, pair: int) -> tuple[Style, int]:
    """Return the style that a pair of landmarks shares, and the number of a form."""
    rng = np.random.default_rng([seed, _PLACE, 0, pair])
    return draw_style(rng, grand=True), int(rng.integers(len(_GRAND))) + pair
