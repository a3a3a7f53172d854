"""Databases of COLMAP: images, keypoints, matches, and the transform that the matches of two images agree on.

Written by pycolmap: ``pip install "delf-engine[colmap]"``. Each image gets a camera of its own (SIMPLE_RADIAL),
with COLMAP's guess of the focal length, 1.2 times the longer side. Keypoints and transforms are shifted by half
a pixel: COLMAP has the centre of the top left one at (0.5, 0.5). There are no descriptors: nothing is left to be
matched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delf_engine.errors import ConfigError, FormatError
from delf_engine.features import LocalFeatures

if TYPE_CHECKING:
    from delf_engine.verification import Verification

_FOCAL_FACTOR = 1.2  # of COLMAP, where a photograph does not state its focal length
_HALF_PIXEL = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


def write_colmap_database(
    path: Path, images: Mapping[str, LocalFeatures], pairs: Sequence[tuple[str, str, Verification]], where: str
) -> None:
    """Write a new database of images and of pairs of them; errors name `where`.

    A `ConfigError` if pycolmap is not installed; a `FormatError` if the file cannot be written.
    """
    try:
        import pycolmap
    except ImportError as error:
        raise ConfigError('databases of COLMAP need pycolmap: pip install "delf-engine[colmap]"') from error
    numbers = {name: number for number, name in enumerate(images, start=1)}
    try:
        with closing(pycolmap.Database.open(path)) as database, pycolmap.DatabaseTransaction(database):
            for name, features in images.items():
                _write_image(pycolmap, database, numbers[name], name, features)
            for a, b, found in pairs:
                database.write_matches(numbers[a], numbers[b], found.matches.astype(np.uint32))
                geometry = _geometry(pycolmap, found)
                database.write_two_view_geometry(numbers[a], numbers[b], geometry)
    except RuntimeError as error:  # of SQLite
        raise FormatError(f"{where}: cannot be written: {error}") from error


def _write_image(pycolmap: Any, database: Any, number: int, name: str, features: LocalFeatures) -> None:
    width, height = features.image_size
    parameters = [_FOCAL_FACTOR * max(width, height), width / 2, height / 2, 0.0]
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=width, height=height, params=parameters, camera_id=number
    )
    database.write_camera(camera, use_camera_id=True)
    database.write_image(pycolmap.Image(name=name, camera_id=number, image_id=number), use_image_id=True)
    columns = [features.keypoints + np.float32(0.5), features.scales, np.zeros_like(features.scales)]
    database.write_keypoints(number, np.column_stack(columns).astype(np.float32))  # x, y, scale, orientation


def _geometry(pycolmap: Any, found: Verification) -> Any:
    """Return the geometry of two views: a plane, or a fundamental matrix."""
    kind = pycolmap.TwoViewGeometryConfiguration
    matches = found.matches.astype(np.uint32)
    if found.transform is None:
        return pycolmap.TwoViewGeometry(config=kind.DEGENERATE, inlier_matches=matches)
    back = np.linalg.inv(_HALF_PIXEL)
    if found.model == "fundamental":
        shifted = back.T @ found.transform @ back
        return pycolmap.TwoViewGeometry(config=kind.UNCALIBRATED, F=shifted, inlier_matches=matches)
    shifted = _HALF_PIXEL @ found.transform @ back
    return pycolmap.TwoViewGeometry(config=kind.PLANAR_OR_PANORAMIC, H=shifted, inlier_matches=matches)
