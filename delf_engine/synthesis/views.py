"""Photographs of a place: where the camera stands, what it is turned to, who passes, in which light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.synthesis.buildings import Building, Place
from delf_engine.synthesis.geometry import Camera, Points, look_at
from delf_engine.synthesis.ground import draw_ground
from delf_engine.synthesis.lighting import MILD, Lens, Light, developed, draw_lens, draw_light, draw_sky
from delf_engine.synthesis.painting import Picture, Random
from delf_engine.synthesis.rendering import Canvas
from delf_engine.synthesis.sprites import HEIGHTS, draw_sprite, sprites

__all__ = ["GALLERY", "QUERY", "TOWN", "Aim", "View", "draw_view", "render"]

_SHAPES = (
    (1.0, 0.75),
    (0.75, 1.0),
    (1.0, 0.75),
    (1.0, 0.667),
    (0.85, 0.6375),
    (0.6375, 0.85),
    (1.0, 0.5625),
    (0.8, 0.8),
)


Passer: TypeAlias = tuple[str, int, float, float, float, bool]


@dataclass(frozen=True)
class Aim:
    """How a photographer goes about it: ranges that each view is drawn from.

    Attributes
    ----------
    azimuth : (lowest, highest)
        Degrees to either side of the front.
    fill : (least, most)
        Share of the picture that the building's longer side takes.
    off : float
        Shift of the building from the middle, in shares of its size, at most.
    lights : tuple of str
    crowd, cars : (least, most)
    before : (least, most)
        Trees and lamp posts that stand in the way.
    poor : float
        Probability of a blurred, noisy picture.
    """

    azimuth: tuple[float, float]
    fill: tuple[float, float]
    off: float
    lights: tuple[str, ...]
    crowd: tuple[int, int]
    before: tuple[int, int]
    poor: float


_DAY = ("clear", "clear", "evening", "overcast")
QUERY = Aim((0, 24), (0.8, 1.1), 0.08, _DAY, (0, 4), (0, 0), 0.0)

#: How the views of a landmark in the gallery come about, and how often.
GALLERY: dict[str, tuple[float, Aim]] = {
    "plain": (0.44, Aim((0, 30), (0.6, 1.15), 0.12, _DAY, (0, 7), (0, 1), 0.1)),
    "turned": (0.13, Aim((35, 78), (0.6, 1.1), 0.12, (*_DAY, "haze"), (0, 7), (0, 2), 0.2)),
    "far": (0.07, Aim((0, 45), (0.22, 0.45), 0.8, (*_DAY, "haze"), (0, 9), (0, 2), 0.2)),
    "detail": (0.09, Aim((0, 40), (1.7, 3.2), 0.3, _DAY, (0, 4), (0, 1), 0.2)),
    "hidden": (0.08, Aim((0, 45), (0.6, 1.1), 0.15, (*_DAY, "haze"), (5, 14), (2, 5), 0.2)),
    "dim": (0.08, Aim((0, 50), (0.6, 1.1), 0.12, ("dusk", "night", "haze", "dusk"), (0, 7), (0, 1), 0.3)),
    "sliver": (0.05, Aim((0, 60), (1.0, 2.2), 0.95, _DAY, (0, 9), (0, 2), 0.2)),
    "behind": (0.06, Aim((110, 180), (0.6, 1.1), 0.12, _DAY, (0, 7), (0, 2), 0.1)),
}

#: Of other places: from all sides, in all lights.
TOWN = Aim((0, 180), (0.5, 1.6), 0.3, (*_DAY, *_DAY, "haze", "dusk", "night"), (0, 8), (0, 2), 0.2)


@dataclass(frozen=True, eq=False)
class View:
    """One photograph before it is taken.

    Attributes
    ----------
    camera : Camera
    light : Light
    lens : Lens
    passing : tuple of (kind, number, x, y, height, mirrored)
        What happens to be between the camera and the place.
    clear : bool
        Whether light and lens are good.
    """

    camera: Camera
    light: Light
    lens: Lens
    passing: tuple[Passer, ...]
    clear: bool


def draw_view(rng: Random, place: Place, aim: Aim, longer_side: int) -> View:
    """Draw a photograph of a place.

    Parameters
    ----------
    rng : Generator
    place : Place
    aim : Aim
        `QUERY`, `TOWN` or one of `GALLERY`.
    longer_side : int
        Of the largest pictures, in pixels.
    """
    subject = place.subject
    azimuth = rng.uniform(*aim.azimuth) * rng.choice([-1, 1])
    away = subject.radius * rng.uniform(1.25, 2.6) + rng.uniform(3, 12)
    eye = rng.uniform(1.5, 2.2) if rng.random() < 0.7 else rng.uniform(3, 9)
    angle = np.radians(azimuth)
    centre = np.array([away * np.sin(angle), -away * np.cos(angle), eye])
    shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
    size = (max(32, round(longer_side * shape[0])), max(32, round(longer_side * shape[1])))
    camera = _framed(rng, subject, centre, size, rng.uniform(*aim.fill), aim.off)
    light = draw_light(rng, aim.lights[int(rng.integers(len(aim.lights)))], azimuth)
    poor = bool(rng.random() < aim.poor)
    lens = draw_lens(rng, light, poor=poor)
    passing = [
        *_crowd(rng, camera, aim),
        *_before(rng, camera, subject, int(rng.integers(aim.before[0], aim.before[1] + 1))),
    ]
    return View(camera, light, lens, tuple(passing), light.kind in MILD and not poor)


def _framed(
    rng: Random, subject: Building, centre: Points, size: tuple[int, int], fill: float, off: float
) -> Camera:
    """Return a camera whose focal length lets the building take its share of the picture."""
    corners = np.concatenate([s.face.world(s.face.outline) for s in subject.surfaces])
    target = np.array([0.0, 0.0, 0.47 * subject.height])
    plain = look_at(centre, target, focal=1.0, size=(1, 1)).project(corners)
    low, high = np.nanpercentile(plain, (2, 98), axis=0)
    wanted = fill * min(size[0] / (high[0] - low[0]), size[1] / (high[1] - low[1]))
    focal = float(np.clip(wanted, 0.55 * max(size), 5.0 * max(size)))
    # Not one above the other in a picture: x of the shift is any, y is less.
    shift = rng.uniform(-off, off, 2) * (high - low) * (1.0, 0.5)
    forward = target - centre
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    aimed = centre + forward + shift[0] * right + shift[1] * np.cross(forward, right)
    return look_at(centre, aimed, focal=focal, size=size, roll=float(rng.normal(0, 2.0)))


def _crowd(rng: Random, camera: Camera, aim: Aim) -> list[Passer]:
    out = []
    for kind, count in (("person", rng.integers(aim.crowd[0], aim.crowd[1] + 1)), ("car", rng.integers(0, 3))):
        for _ in range(int(count)):
            x, y = _on_ground(rng, camera, rng.uniform(4 if kind == "person" else 9, 28))
            height = HEIGHTS[kind] * rng.uniform(0.92, 1.08)
            out.append((kind, int(rng.integers(0, 1000)), x, y, height, bool(rng.random() < 0.5)))
    return out


def _before(rng: Random, camera: Camera, subject: Building, count: int) -> list[Passer]:
    out = []
    away = float(np.linalg.norm(camera.centre[:2] - subject.middle[:2]))
    for _ in range(count):
        kind = ("tree", "tree", "lamp", "railing")[int(rng.integers(4))]
        x, y = _on_ground(rng, camera, rng.uniform(0.2, 0.75) * away if kind != "railing" else rng.uniform(2.5, 6))
        out.append(
            (
                kind,
                int(rng.integers(0, 1000)),
                x,
                y,
                HEIGHTS[kind] * rng.uniform(0.7, 1.2),
                bool(rng.random() < 0.5),
            )
        )
    return out


def _on_ground(rng: Random, camera: Camera, distance: float) -> tuple[float, float]:
    """Return a point of the ground at that distance that lies in the picture, or would if it were taller."""
    forward, right = camera.rotation[2, :2], camera.rotation[0, :2]
    forward = forward / np.linalg.norm(forward)
    half = 0.5 * camera.size[0] / camera.intrinsics[0, 0]
    x, y = camera.centre[:2] + distance * (forward + rng.uniform(-half, half) * right)
    return float(x), float(y)


# ---------------------------------------------------------------------------------------------------- rendering


def render(rng: Random, place: Place, view: View) -> tuple[Picture, npt.NDArray[np.uint8]]:
    """Take the photograph.

    Returns
    -------
    picture : (H, W, 3) uint8
        RGB.
    labels : (H, W) uint8
        1 + the number of the subject's surface that each pixel shows, 0 for everything else.
    """
    canvas = Canvas(view.camera)
    light = view.light
    draw_sky(rng, canvas, light)
    draw_ground(canvas, place, light)
    for house in place.houses:
        if not _in_the_way(house, view.camera, place.subject):
            for surface in house.surfaces:
                canvas.draw_surface(surface, 0, light.on(surface.face.normal))
    for number, surface in enumerate(place.subject.surfaces):
        canvas.draw_surface(surface, number + 1, light.on(surface.face.normal))
    standing = [("tree", int(kind), x, y, height, False) for x, y, height, kind in place.trees.tolist()]
    upright = light.on(-view.camera.rotation[2])
    for kind, number, x, y, height, mirrored in (*standing, *view.passing):
        bank = sprites(kind)
        draw_sprite(canvas, bank[number % len(bank)], (x, y), height, upright, mirrored)
    return developed(rng, canvas, light, view.lens), canvas.labels


def _in_the_way(house: Building, camera: Camera, subject: Building) -> bool:
    """Whether a house would hide the subject: photographers stand where it does not."""
    start, way = camera.centre[:2], subject.middle[:2] - camera.centre[:2]
    along = float((house.middle[:2] - start) @ way) / max(1e-9, float(way @ way))
    nearest = start + min(max(along, 0.0), 1.0) * way
    return bool(np.linalg.norm(nearest - house.middle[:2]) < house.radius + 4)
