"""What is known of each photograph: camera, homographies of the faces, which parts of them are seen.

One photograph is one line of JSON in ``geometry.jsonl``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError, FormatError
from delf_engine.synthesis.buildings import Building
from delf_engine.synthesis.geometry import NEAR, Camera, Face, Matrix, Points

__all__ = [
    "GEOMETRY",
    "GRID",
    "PhotoRecord",
    "SeenFace",
    "homography_between",
    "load_geometry",
    "measure",
    "samples",
]

#: Name of the file.
GEOMETRY = "geometry.jsonl"

#: A face is sampled at the middles of this many by this many cells of its bounds.
GRID = 8

_PLAIN = ("name", "kind", "landmark", "aim", "light", "clear", "size", "box", "sha256")


@dataclass(frozen=True, eq=False)
class SeenFace:
    """A face of a landmark in one photograph.

    Attributes
    ----------
    homography : (3, 3) float64
        Maps metres of the face to pixels of the photograph.
    pixels : int
        That show it.
    seen : (GRID * GRID,) bool
        Which of its samples are in the picture with nothing before them, row by row.
    share : float
        Of its samples that are seen.
    """

    homography: Matrix
    pixels: int
    seen: npt.NDArray[np.bool_]
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        seen = np.packbits(self.seen).tobytes().hex()
        return {"H": self.homography.tolist(), "pixels": self.pixels, "share": self.share, "seen": seen}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SeenFace:
        """Read what `to_dict` returned."""
        seen = np.unpackbits(np.frombuffer(bytes.fromhex(values["seen"]), np.uint8)).astype(bool)
        return cls(np.array(values["H"], np.float64), int(values["pixels"]), seen, float(values["share"]))


@dataclass(frozen=True, eq=False)
class PhotoRecord:
    """One photograph.

    Attributes
    ----------
    name : str
        Without ``.jpg``.
    kind : "gallery", "query", "town" or "scene"
        The last two show no landmark.
    landmark : int or None
    aim : str
        How the view came about, for statistics.
    light : str
    clear : bool
        Taken in mild light by a good lens.
    size : (width, height)
    camera : Camera or None
        None for a drawn scene.
    faces : mapping of str to SeenFace
        Of those of the landmark's faces that show at least a pixel.
    box : (x0, y0, x1, y1) or None
        Around all pixels of the landmark, x1 and y1 exclusive.
    sha256 : str
        Of the file.
    """

    name: str
    kind: str
    landmark: int | None
    aim: str
    light: str
    clear: bool
    size: tuple[int, int]
    camera: Camera | None
    faces: Mapping[str, SeenFace]
    box: tuple[int, int, int, int] | None
    sha256: str

    def to_json(self) -> str:
        """Return the record as one line; numbers survive to the last bit."""
        camera = self.camera
        values = {
            **{key: getattr(self, key) for key in _PLAIN},
            "K": None if camera is None else camera.intrinsics.tolist(),
            "R": None if camera is None else camera.rotation.tolist(),
            "C": None if camera is None else camera.centre.tolist(),
            "faces": {name: face.to_dict() for name, face in self.faces.items()},
        }
        return json.dumps(values, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> PhotoRecord:
        """Read a line that `to_json` wrote.

        Raises
        ------
        ValueError, KeyError or TypeError
            If it is none.
        """
        values: dict[str, Any] = json.loads(line)
        size = (int(values["size"][0]), int(values["size"][1]))
        camera = None
        if values["K"] is not None:
            intrinsics, rotation, centre = (np.array(values[key], np.float64) for key in ("K", "R", "C"))
            camera = Camera(intrinsics, rotation, centre, size)
        faces = {name: SeenFace.from_dict(face) for name, face in values["faces"].items()}
        x0, y0, x1, y1 = values["box"] or (0, 0, 0, 0)
        return cls(
            name=values["name"],
            kind=values["kind"],
            landmark=values["landmark"],
            aim=values["aim"],
            light=values["light"],
            clear=values["clear"],
            size=size,
            camera=camera,
            faces=faces,
            box=None if values["box"] is None else (int(x0), int(y0), int(x1), int(y1)),
            sha256=values["sha256"],
        )


def samples(face: Face) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Return the (GRID * GRID, 2) samples of a face in metres, and which of them lie inside its outline."""
    middles = (np.arange(GRID) + 0.5) / GRID
    x, y = np.meshgrid(middles * face.bounds[0], middles * face.bounds[1])
    points = np.column_stack([x.ravel(), y.ravel()])
    outline = face.outline.astype(np.float32)
    inside = [cv2.pointPolygonTest(outline, (float(a), float(b)), False) >= 0 for a, b in points]
    return points, np.array(inside)


def measure(
    building: Building, camera: Camera, labels: npt.NDArray[np.uint8]
) -> tuple[dict[str, SeenFace], tuple[int, int, int, int] | None]:
    """Say what a photograph shows of a building.

    Parameters
    ----------
    building : Building
    camera : Camera
    labels : (H, W) uint8
        1 + the number of the surface that each pixel shows, 0 elsewhere.

    Returns
    -------
    faces : dict of str to SeenFace
    box : (x0, y0, x1, y1) or None
        Around all its pixels.
    """
    counts = np.bincount(labels.ravel(), minlength=len(building.surfaces) + 1)
    faces = {}
    for number, surface in enumerate(building.surfaces, start=1):
        if not counts[number]:
            continue
        homography = surface.face.homography(camera)
        points, inside = samples(surface.face)
        mapped = np.column_stack([points, np.ones(len(points))]) @ homography.T
        seen = inside & (mapped[:, 2] > NEAR)
        at = np.rint(mapped[:, :2] / np.where(seen, mapped[:, 2], 1.0)[:, None])
        seen &= ((at >= 0) & (at < (labels.shape[1], labels.shape[0]))).all(axis=1)
        x, y = at[seen].astype(np.int64).T
        seen[np.flatnonzero(seen)] = labels[y, x] == number
        share = float(seen.sum() / max(1, inside.sum()))
        faces[surface.face.name] = SeenFace(homography, int(counts[number]), seen, share)
    rows, columns = (np.flatnonzero((labels > 0).any(axis=axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None
    return faces, box


def load_geometry(folder: str | os.PathLike[str]) -> dict[str, PhotoRecord]:
    """Read what is known of each photograph of a synthesized set.

    Parameters
    ----------
    folder : path
        That `synthesize` wrote.

    Returns
    -------
    dict of str to PhotoRecord
        By name.

    Raises
    ------
    FormatError
        If ``geometry.jsonl`` is missing or damaged.
    """
    path = Path(folder, GEOMETRY)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise FormatError(f"{path}: cannot be read: {error}; run `delf-engine data synthesize` first") from error
    records = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = PhotoRecord.from_json(line)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise FormatError(f"{path}, line {number}: is no record of a photograph: {error!r}") from error
        records[record.name] = record
    return records


def homography_between(a: PhotoRecord, b: PhotoRecord, face: str) -> Matrix:
    """Return the exact map from pixels of one photograph to those of another, on one face of their landmark.

    Parameters
    ----------
    a, b : PhotoRecord
        Of one landmark.
    face : str
        Name of a face that both see.

    Returns
    -------
    (3, 3) float64
        Maps x, y of `a` to x, y of `b`; the centre of the first pixel is 0, 0. Its last element is 1, unless the
        line that the corner of `a` looks along goes to infinity in `b`.

    Raises
    ------
    DataError
        If the photographs show different landmarks, or one does not show the face.
    """
    if a.landmark is None or a.landmark != b.landmark:
        raise DataError(f"{a.name} and {b.name} show no landmark in common: no homography relates them")
    for record in (a, b):
        if face not in record.faces:
            shown = ", ".join(record.faces) or "none"
            raise DataError(f"{record.name} does not show face {face!r} of its landmark (it shows {shown})")
    between = b.faces[face].homography @ np.linalg.inv(a.faces[face].homography)
    return np.asarray(between / (between[2, 2] if abs(between[2, 2]) > 1e-12 else np.abs(between).max()))
