"""Which photographs a set has, and how they are shared out: each one's random numbers are its own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delf_engine.errors import ConfigError
from delf_engine.synthesis.buildings import landmark, town_place
from delf_engine.synthesis.clutter import SCENES, draw_scene
from delf_engine.synthesis.lighting import draw_lens, draw_light, encoded, finished
from delf_engine.synthesis.records import PhotoRecord, measure
from delf_engine.synthesis.views import GALLERY, QUERY, TOWN, draw_view, render

__all__ = ["Chunk", "Options", "Shot", "plan", "taken"]

LANDMARK_SHARE = 0.27  #: Of the gallery that shows a landmark.
SCENE_SHARE = 0.2  #: Of the rest that is drawn without a camera: hills, the sea, posters, fruit.
VIEWS_OF_TOWN = 4  #: Photographs of each place that is no landmark.

_CHUNK = 24  # photographs that are lost at most, for each process, if it is killed
_VIEW, _SCENE = 21, 22  # kinds of random streams
_LARGEST_SIDE, _MOST_IMAGES = 4096, 999_999


@dataclass(frozen=True)
class Options:
    """What determines a set, to the last bit.

    Parameters
    ----------
    images, queries, landmarks : int
        Photographs in the gallery, queries besides, buildings that are searched for.
    seed : int
    longer_side : int
        Of the largest photographs, in pixels.

    Raises
    ------
    ConfigError
        If one is no whole number, or out of range.
    """

    images: int
    queries: int
    landmarks: int
    seed: int
    longer_side: int

    def __post_init__(self) -> None:
        ranges = {
            "images": (1, _MOST_IMAGES),
            "queries": (1, _MOST_IMAGES),
            "landmarks": (1, 9999),
            "seed": (0, 2**63 - 1),
            "longer_side": (64, _LARGEST_SIDE),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"{name} must be a whole number from {least} to {most}, got {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Shot:
    """One photograph to be taken: its name, its kind, the number of its place, its number there."""

    name: str
    kind: str
    place: int
    number: int


@dataclass(frozen=True)
class Chunk:
    """Photographs that one process takes in a row, of one place or a few."""

    name: str
    shots: tuple[Shot, ...]


def plan(options: Options) -> list[Chunk]:
    """Share out all photographs of a set; those of one place stand together, as its pictures are painted once."""
    return [
        Chunk(f"{prefix}-{start // _CHUNK:05d}", tuple(shots[start : start + _CHUNK]))
        for prefix, shots in _groups(options)
        for start in range(0, len(shots), _CHUNK)
    ]


def _groups(options: Options) -> Iterator[tuple[str, list[Shot]]]:
    of_landmarks = round(LANDMARK_SHARE * options.images)
    for place in range(options.landmarks):
        views = _share(of_landmarks, options.landmarks, place)
        asked = _share(options.queries, options.landmarks, place)
        yield (
            f"landmark{place:04d}",
            [
                *(Shot(f"landmark{place:04d}_query{i:03d}", "query", place, i) for i in range(asked)),
                *(Shot(f"landmark{place:04d}_{i:06d}", "gallery", place, i) for i in range(views)),
            ],
        )
    rest = options.images - of_landmarks
    scenes = round(SCENE_SHARE * rest)
    yield "town", [Shot(f"town_{i:06d}", "town", i // VIEWS_OF_TOWN, i) for i in range(rest - scenes)]
    yield "scene", [Shot(f"scene_{i:06d}", "scene", 0, i) for i in range(scenes)]


def _share(total: int, parts: int, part: int) -> int:
    return total // parts + (part < total % parts)


def taken(shot: Shot, options: Options) -> tuple[bytes, PhotoRecord]:
    """Take one photograph.

    Returns
    -------
    data : bytes
        Of the JPEG file.
    record : PhotoRecord
    """
    if shot.kind == "scene":
        return _scene(shot, options)
    rng = np.random.default_rng(
        [options.seed, _VIEW, ("query", "gallery", "town").index(shot.kind), shot.place, shot.number]
    )
    detail = options.longer_side / 640
    if shot.kind == "town":
        place = _town_place(options.seed, shot.place, options.landmarks, detail)
    else:
        place = _landmark(options.seed, shot.place, detail)
    if shot.kind == "gallery":
        chances = np.array([share for share, _ in GALLERY.values()])
        name = list(GALLERY)[int(rng.choice(len(chances), p=chances / chances.sum()))]
        aim = GALLERY[name][1]
    else:
        name, aim = (shot.kind, QUERY if shot.kind == "query" else TOWN)
    view = draw_view(rng, place, aim, options.longer_side)
    picture, labels = render(rng, place, view)
    faces, box = measure(place.subject, view.camera, labels) if shot.kind != "town" else ({}, None)
    data = encoded(picture, view.lens.quality)
    number = None if shot.kind == "town" else shot.place
    digest = hashlib.sha256(data).hexdigest()
    record = PhotoRecord(
        shot.name,
        shot.kind,
        number,
        name,
        view.light.kind,
        view.clear,
        view.camera.size,
        view.camera,
        faces,
        box,
        digest,
    )
    return data, record


# The pictures of a place are painted once for all photographs of it.
_landmark = functools.lru_cache(maxsize=1)(landmark)
_town_place = functools.lru_cache(maxsize=1)(town_place)


def _scene(shot: Shot, options: Options) -> tuple[bytes, PhotoRecord]:
    rng = np.random.default_rng([options.seed, _SCENE, shot.number])
    kind = list(SCENES)[shot.number % len(SCENES)]
    side = options.longer_side
    width, height = ((side, round(0.75 * side)), (round(0.75 * side), side))[int(rng.integers(2))]
    light = draw_light(rng, "clear", 0.0)
    lens = draw_lens(rng, light, poor=bool(rng.random() < 0.2))
    drawn = np.clip(draw_scene(rng, width, height, kind), 0, 255).astype(np.uint8)
    data = encoded(finished(rng, drawn, light, lens), lens.quality)
    digest = hashlib.sha256(data).hexdigest()
    return data, PhotoRecord(
        shot.name, "scene", None, kind, light.kind, True, (width, height), None, {}, None, digest
    )
