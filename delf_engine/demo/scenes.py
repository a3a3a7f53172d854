"""A small photo collection out of nothing: views of real photographs among drawn scenes, with the truth known.

Each photograph is taken as a place. Its views are what training makes of it: its subject seen from elsewhere, by a
homography, which is kept as the truth, under other light.

The places of the demo are the two photographs that scikit-learn ships: ``china`` (a temple, by danielbuechele) and
``flower`` (by vultilion), both under CC BY 2.0.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from delf_engine.demo.clutter import SCENES
from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, ImageError
from delf_engine.images import load_reduced
from delf_engine.pyramid import resize
from delf_engine.training.views import ViewsConfig, random_view

Matrix: TypeAlias = npt.NDArray[np.float64]

_SIDE = 640  # of a view, pixels
_SOURCE_SIDE = 1024  # longer side of a photograph at most, before views are rendered from it
_SMALLEST_SIDE = 64
_VIEWS = ViewsConfig(
    count=2, size=_SIDE, crop=(0.6, 1.0), rotation_deg=15, corner_jitter=0.15, aspect=0.3, grey=0.1
)
_MILD = _VIEWS.model_copy(update={"rotation_deg": 3, "corner_jitter": 0.04, "aspect": 0.1, "grey": 0})
_QUALITY = 90  # of the JPEG files


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


class _Place(NamedTuple):
    """A photograph of which views are rendered."""

    name: str
    photo: npt.NDArray[np.uint8]
    subject: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of `photo`
    reduced: Matrix  # from pixels of the source photograph to those of `photo`


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
    for number, place in enumerate(_shipped_places() if photos is None else _places_of(photos)):
        for view in range(views_per_place + 1):
            rng = np.random.default_rng([seed, 1, number, view])
            path = folders[view > 0] / (f"{place.name}_{view}.jpg" if view else f"{place.name}.jpg")
            pixels, homography = random_view(place.photo, _VIEWS if view else _MILD, rng, region=place.subject)
            Image.fromarray(pixels).save(path, quality=_QUALITY)
            (gallery if view else queries).append(Photo(path, place.name, homography @ place.reduced))
    if not queries:
        raise DataError("none of the photographs can be used as a place")
    scenes = list(SCENES.values())
    for number in range(distractors):
        rng = np.random.default_rng([seed, 2, number])
        scene = scenes[number % len(scenes)](rng, _SIDE, _SIDE)
        pixels, _ = random_view(np.clip(np.rint(scene), 0, 255).astype(np.uint8), _VIEWS, rng)
        path = folders[1] / f"clutter_{number + 1:02d}.jpg"
        Image.fromarray(pixels).save(path, quality=_QUALITY)
        gallery.append(Photo(path, None, None))
    return Collection(tuple(gallery), tuple(queries))


def _shipped_places() -> Iterator[_Place]:
    from sklearn.datasets import load_sample_image  # slow to import, and not needed for one's own photographs

    subjects = {"china": (17.0, 25.0, 397.0, 405.0), "flower": (143.0, 57.0, 473.0, 387.0)}
    for name, subject in subjects.items():
        yield _Place(name, load_sample_image(f"{name}.jpg"), subject, np.eye(3))


def _places_of(photos: Sequence[str | os.PathLike[str]]) -> Iterator[_Place]:
    taken: set[str] = set()
    for path in photos:
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
        x, y, half = (width - 1) / 2, (height - 1) / 2, 0.45 * min(width, height)
        across, down = width / size[0], height / size[1]  # the middle of the first pixel is at 0, 0
        reduced = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
        subject = (x - half, y - half, x + half, y + half)
        yield _Place(name, resize(image, width, height, "area"), subject, reduced)
