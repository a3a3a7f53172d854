"""A small photo collection out of nothing: views of real photographs among drawn scenes, with the truth known.

Each photograph is taken as a place. Its views are what cameras around it would see: the subject on a plane, what
lies around it farther away (so it shifts against the subject when the camera moves), another light, another
lens, something in the way. The homography of the subject's plane is kept as the truth.

The places of the demo are the two photographs that scikit-learn ships: ``china`` (a temple, by danielbuechele) and
``flower`` (by vultilion), both under CC BY 2.0.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.transform import Rotation

from delf_engine.demo.clutter import SCENES, add_obstacle, smooth_noise
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, ImageError
from delf_engine.images import load_reduced
from delf_engine.pyramid import resize

Picture: TypeAlias = npt.NDArray[np.float32]
Matrix: TypeAlias = npt.NDArray[np.float64]

_SOURCE_SIDE = 1024  # longer side of a photograph at most, before views are rendered from it
_SMALLEST_SIDE = 64
_SIZES = ((640, 480), (720, 540), (480, 640), (768, 512), (560, 560))
_RELIEF = 0.22  # shift of the far background at 90 degrees, in radii of the subject


@dataclass(frozen=True, eq=False)
class Photo:
    """One rendered photograph.

    Attributes
    ----------
    path : Path
    place : str or None
        What it shows; None for a scene that is none of the places.
    homography : (3, 3) float64 or None
        Maps pixels of the place's source photograph to this one, on the plane of the subject.
    """

    path: Path
    place: str | None
    homography: Matrix | None


@dataclass(frozen=True, eq=False)
class Collection:
    """What `render_collection` wrote.

    Attributes
    ----------
    gallery : tuple of Photo
        To be indexed: the views of all places, then the scenes that are none.
    queries : tuple of Photo
        One more view of each place, not in the gallery.
    """

    gallery: tuple[Photo, ...]
    queries: tuple[Photo, ...]


@dataclass(frozen=True)
class _Shot:
    """Where the camera stands (degrees), how many subjects high its picture is, the light, what is in the way."""

    yaw: float
    pitch: float
    roll: float
    span: float
    light: str
    obstacle: str | None


_QUERY = _Shot(-6, 2, 1, 1.12, "clear", None)
_SHOTS = (
    _Shot(-30, 5, -2, 1.15, "evening", "branches"),
    _Shot(27, -6, 3, 1.2, "overcast", "people"),
    _Shot(9, 12, -5, 0.75, "shadow", None),
    _Shot(-13, -5, 2, 1.6, "haze", "people"),
    _Shot(36, 4, 1, 1.1, "dusk", "branches"),
)


@dataclass(frozen=True, eq=False)
class _Place:
    """A photograph made ready to be seen from elsewhere."""

    name: str
    world: Picture  # (2 H, 2 W, 3): the photograph in the middle of a blurred continuation of itself
    depth: Picture  # (2 H, 2 W): 0 on the plane of the subject, 1 in the far background
    aim: tuple[float, float]  # x, y in pixels of `world`: where cameras point to
    radius: float  # of the subject, in pixels
    placed: Matrix  # from pixels of the source photograph to those of `world`


def render_collection(
    folder: str | os.PathLike[str],
    *,
    views_per_place: int = 5,
    distractors: int = 20,
    seed: int = 0,
    photos: Sequence[str | os.PathLike[str]] | None = None,
) -> Collection:
    """Render a photo collection into ``folder/photos`` and its queries into ``folder/queries``, as JPEG files.

    The same arguments give the same pixels. Files of the same names are overwritten, others stay. A `DataError` if
    none of `photos` can be used; a `ConfigError` if a number is negative, or there would be no view.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    views_per_place, distractors : int
        Views of each place in the gallery, one more is its query; and drawn scenes that show none of the places.
    seed : int
    photos : sequence of paths or None
        One photograph a place; None: the two that scikit-learn ships.

    Warns
    -----
    DelfEngineWarning
        For each of `photos` that cannot be read or is too small; the others are used.
    """
    if views_per_place < 1 or distractors < 0 or seed < 0:
        raise ConfigError(
            "needs views_per_place >= 1, distractors >= 0 and seed >= 0, got "
            f"{views_per_place}, {distractors} and {seed}"
        )
    folders = Path(folder, "queries"), Path(folder, "photos")
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)

    gallery: list[Photo] = []
    queries: list[Photo] = []
    for number, place in enumerate(_shipped_places(seed) if photos is None else _places_of(photos, seed)):
        for view in range(views_per_place + 1):
            rng = np.random.default_rng([seed, 1, number, view])
            shot = _jittered(_SHOTS[(view - 1) % len(_SHOTS)] if view else _QUERY, rng)
            path = folders[view > 0] / (f"{place.name}_{view}.jpg" if view else f"{place.name}.jpg")
            picture, homography = _view(place, shot, _SIZES[view % len(_SIZES)])
            _photograph(path, picture, shot, rng)
            (gallery if view else queries).append(Photo(path, place.name, homography @ place.placed))
    if not queries:
        raise DataError("none of the photographs can be used as a place")
    scenes, lights = list(SCENES.values()), list(_LIGHTS)
    for number in range(distractors):
        rng = np.random.default_rng([seed, 2, number])
        width, height = _SIZES[number % len(_SIZES)]
        scene = scenes[number % len(scenes)](rng, height, width)
        obstacle = _SHOTS[number % len(_SHOTS)].obstacle if number % 3 == 1 else None
        shot = _Shot(0, 0, 0, 1, lights[rng.integers(len(lights))], obstacle)
        path = folders[1] / f"clutter_{number + 1:02d}.jpg"
        _photograph(path, scene, shot, rng)
        gallery.append(Photo(path, None, None))
    return Collection(tuple(gallery), tuple(queries))


# ----------------------------------------------------------------------------------------------------- places


def _shipped_places(seed: int) -> Iterator[_Place]:
    from sklearn.datasets import load_sample_image  # slow to import, and not needed for one's own photographs

    subjects = {"china": ((207.0, 215.0), 190.0), "flower": ((308.0, 222.0), 165.0)}  # x, y and radius in pixels
    for number, (name, (focus, radius)) in enumerate(subjects.items()):
        rng = np.random.default_rng([seed, 0, number])
        yield _place(name, load_sample_image(f"{name}.jpg"), rng, focus, radius)


def _places_of(photos: Sequence[str | os.PathLike[str]], seed: int) -> Iterator[_Place]:
    taken: set[str] = set()
    for number, path in enumerate(photos):
        try:
            image, size = load_reduced(path, lambda _: _SOURCE_SIDE, always=False)
            if min(size) < _SMALLEST_SIDE:
                raise ImageError(os.fspath(path), f"is smaller than {_SMALLEST_SIDE} pixels")
        except ImageError as error:
            warnings.warn(f"left out: {error}", DelfEngineWarning, stacklevel=3)
            continue
        stem = Path(path).stem
        name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, len(photos) + 2))) if n not in taken)
        taken.add(name)
        factor = min(1.0, _SOURCE_SIDE / max(size))
        width, height = (max(1, round(side * factor)) for side in size)
        photo = resize(image, width, height, "area")
        middle = ((width - 1) / 2, (height - 1) / 2)
        place = _place(name, photo, np.random.default_rng([seed, 0, number]), middle, 0.45 * min(width, height))
        scaled = np.diag([width / size[0], height / size[1], 1])
        yield replace(place, placed=place.placed @ _shift(-0.5, -0.5) @ scaled @ _shift(0.5, 0.5))


def _place(
    name: str, photo: npt.NDArray[np.uint8], rng: np.random.Generator, focus: tuple[float, float], radius: float
) -> _Place:
    height, width = photo.shape[:2]
    left, top = width // 2, height // 2
    # Around the photograph: its mirror image, out of focus and mottled, faded in over its outermost pixels.
    mirrored = cv2.copyMakeBorder(photo, top, top, left, left, cv2.BORDER_REFLECT_101).astype(np.float32)
    tall, wide = mirrored.shape[:2]
    columns, rows = np.arange(wide, dtype=np.float32)[None, :], np.arange(tall, dtype=np.float32)[:, None]
    mottled = 1 + 0.03 * smooth_noise(rng, tall, wide, 0.04 * width)[:, :, None]
    around = cv2.GaussianBlur(mirrored, (0, 0), 0.03 * width) * mottled
    inside_x = np.minimum(columns - left, left + width - 1 - columns)
    inside_y = np.minimum(rows - top, top + height - 1 - rows)
    sharp = _smoothstep(np.minimum(inside_x, inside_y) / (0.05 * min(width, height)))[:, :, None]
    world = np.asarray(mirrored * sharp + around * (1 - sharp), np.float32)

    x, y = focus[0] + left, focus[1] + top
    distance = np.hypot(columns - x, rows - y) / radius
    bumps = 0.1 * smooth_noise(rng, tall, wide, radius / 1.5) * _smoothstep(distance / 0.5)
    depth = np.asarray(_smoothstep((distance - 0.95) / 0.8) + bumps, np.float32)
    # Half way to the middle of the photograph: more of it, and less of its surroundings, comes into the picture.
    aim = ((x + left + (width - 1) / 2) / 2, (y + top + (height - 1) / 2) / 2)
    return _Place(name, world, depth, aim, radius, _shift(left, top))


def _shift(x: float, y: float) -> Matrix:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def _smoothstep(t: Picture) -> Picture:
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


# ----------------------------------------------------------------------------------------------------- camera


def _jittered(shot: _Shot, rng: np.random.Generator) -> _Shot:
    yaw, pitch, roll = np.array([shot.yaw, shot.pitch, shot.roll]) + rng.normal(0, (3, 1.5, 1.5))
    return replace(shot, yaw=yaw, pitch=pitch, roll=roll, span=shot.span * rng.uniform(0.92, 1.08))


def _view(place: _Place, shot: _Shot, size: tuple[int, int]) -> tuple[Picture, Matrix]:
    """Return what the camera sees, and the homography from `place.world` for the plane of the subject."""
    homography = _homography(place, shot, size)
    columns, rows = np.meshgrid(np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64))
    x, y, z = np.linalg.inv(homography) @ np.stack([columns.ravel(), rows.ravel(), np.ones(columns.size)])
    plane = np.stack([x / z, y / z], axis=-1).reshape(size[1], size[0], 2).astype(np.float32)
    shift = _background_shift(place, shot)
    seen = plane
    for _ in range(6):  # a point p of the world shows at p + depth(p) shift of the plane: solved for p
        seen = plane - _sampled(place.depth, seen)[:, :, None] * shift
    shrinks = 2 * place.radius * shot.span / min(size)
    world = cv2.GaussianBlur(place.world, (0, 0), 0.4 * shrinks) if shrinks > 1.2 else place.world
    return _sampled(np.asarray(world, np.float32), seen), homography


def _homography(place: _Place, shot: _Shot, size: tuple[int, int]) -> Matrix:
    turn = Rotation.from_euler("yxz", [shot.yaw, shot.pitch, shot.roll], degrees=True).as_matrix()
    focal = 1.25 * max(size)
    distance = focal * 2 * place.radius * shot.span / min(size)
    camera = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
    plane = np.column_stack([turn[:, 0], turn[:, 1], (0, 0, distance)])
    homography: Matrix = camera @ plane @ _shift(-place.aim[0], -place.aim[1])
    return homography / homography[2, 2]


def _background_shift(place: _Place, shot: _Shot) -> Picture:
    """Return by how many pixels of the world the far background shows beside its place on the plane."""
    return np.sin(np.radians([-shot.yaw, shot.pitch])).astype(np.float32) * np.float32(_RELIEF * place.radius)


def _sampled(picture: Picture, at: Picture) -> Picture:
    out = cv2.remap(picture, at[:, :, 0], at[:, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(out, np.float32)


# -------------------------------------------------------------------------------------------- light and sensor


def _tinted(picture: Picture, red: float, green: float, blue: float, gamma: float = 1.0) -> Picture:
    return np.asarray(255 * (picture / 255) ** gamma * np.array([red, green, blue]), np.float32)


def _faded(picture: Picture, saturation: float, contrast: float) -> Picture:
    grey = picture.mean(axis=2, keepdims=True)
    return np.asarray(128 + contrast * (grey + saturation * (picture - grey) - 128), np.float32)


def _frame(picture: Picture) -> tuple[Picture, Picture]:
    """Return rows (H, 1) and columns (1, W) of the picture, from -1 to 1."""
    height, width = picture.shape[:2]
    return (
        np.linspace(-1, 1, height, dtype=np.float32)[:, None],
        np.linspace(-1, 1, width, dtype=np.float32)[None, :],
    )


def _shade(picture: Picture, rng: np.random.Generator, depth: float, softness: float) -> Picture:
    """Darken one side of the picture by `depth`, across an edge of that softness in a random direction."""
    rows, columns = _frame(picture)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows - rng.uniform(-0.3, 0.3)
    ramp = _smoothstep(0.5 + along / (2 * softness))[:, :, None]
    return np.asarray(picture * (1 - depth * ramp), np.float32)


_LIGHTS: dict[str, Callable[[Picture, np.random.Generator], npt.NDArray[np.floating]]] = {
    "clear": lambda p, rng: _faded(p, 1.05, 1.05),
    "evening": lambda p, rng: _shade(_tinted(p, 1.12, 0.92, 0.66, 1.1), rng, 0.35, 1.0),
    "overcast": lambda p, rng: _tinted(_faded(p, 0.55, 0.8), 0.95, 0.98, 1.03) + 6,
    "haze": lambda p, rng: 0.68 * p + 0.32 * np.array([205, 214, 222]),
    "shadow": lambda p, rng: _shade(_tinted(p, 1.08, 1.03, 0.95), rng, 0.5, 0.04),
    "dusk": lambda p, rng: _tinted(p, 0.72, 0.75, 0.98, 1.35),
}


def _photograph(path: Path, picture: Picture, shot: _Shot, rng: np.random.Generator) -> None:
    """Write the picture in its light, with what stands in the way, as a lens and a sensor give it."""
    # Haze lies behind what is near, all other light falls on it too.
    for stage in ("light", "obstacle") if shot.light == "haze" else ("obstacle", "light"):
        if stage == "light":
            lit = _LIGHTS[shot.light](np.clip(picture, 0, 255), rng) * rng.uniform(0.92, 1.08)
            picture = np.asarray(lit, np.float32)
        elif shot.obstacle is not None:
            picture = add_obstacle(rng, picture, shot.obstacle)
    rows, columns = _frame(picture)
    darker_corners = picture * (1 - 0.09 * (rows**2 + columns**2))[:, :, None]
    blurred = cv2.GaussianBlur(darker_corners, (0, 0), rng.uniform(0.4, 0.9))
    noise = rng.normal(0, rng.uniform(1.5, 5 if shot.light != "dusk" else 9), picture.shape)
    pixels = np.clip(np.rint(blurred + noise), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=int(rng.integers(55, 92)))
