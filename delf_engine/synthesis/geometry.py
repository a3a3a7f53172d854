"""Pinhole cameras, and the flat faces that they look at.

The world is in metres: x to the right and y away from who stands before a building, z up from the ground. A face
has coordinates of its own, in metres as well: x to the right, y down, from the upper left corner of its bounds,
as it is seen from outside. Pixels are those of the whole package: x, y of the centre of the first pixel are 0,
0.

A camera K [R | -R C] maps the points of a plane c + x r + y d by the homography K [R r, R d, R (c - C)] (Hartley
and Zisserman, Multiple View Geometry, 2nd edition, section 8.1.1): exact, so two views of a face are related
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["NEAR", "Camera", "Face", "clipped", "facet", "look_at", "project", "rotated", "wall"]

Matrix: TypeAlias = npt.NDArray[np.float64]
Points: TypeAlias = npt.NDArray[np.float64]

#: Nothing nearer to the camera than this many metres is drawn.
NEAR = 0.3


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without distortion.

    Attributes
    ----------
    intrinsics : (3, 3) float64
        K: focal length and principal point in pixels.
    rotation : (3, 3) float64
        R: rows are the camera's right, down and forward directions in the world.
    centre : (3,) float64
        C, in metres.
    size : (width, height)
        Of the picture in pixels.
    """

    intrinsics: Matrix
    rotation: Matrix
    centre: Points
    size: tuple[int, int]

    def project(self, points: Points) -> Points:
        """Return (N, 2) pixels of (N, 3) points of the world; NaN for those nearer than `NEAR` or behind."""
        seen = (np.asarray(points, np.float64) - self.centre) @ self.rotation.T
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (seen @ self.intrinsics.T)[:, :2] / seen[:, 2:]
        pixels[seen[:, 2] < NEAR] = np.nan
        return np.asarray(pixels)


def look_at(
    centre: Sequence[float] | Points,
    target: Sequence[float] | Points,
    *,
    focal: float,
    size: tuple[int, int],
    roll: float = 0.0,
) -> Camera:
    """Return the camera at `centre` that has `target` in the middle of its picture.

    Parameters
    ----------
    centre, target : (3,)
        In metres; not one above the other.
    focal : float
        In pixels.
    size : (width, height)
    roll : float
        In degrees; the world turns clockwise in the picture.
    """
    at = np.asarray(centre, np.float64)
    forward = _unit(np.asarray(target, np.float64) - at)
    right = _unit(np.cross(forward, (0.0, 0.0, 1.0)))
    level = np.stack([right, np.cross(forward, right), forward])
    turn = np.radians(roll)
    about = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    intrinsics = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
    return Camera(intrinsics, about @ level, at, size)


@dataclass(frozen=True, eq=False)
class Face:
    """A flat part of a building.

    Attributes
    ----------
    name : str
    corner : (3,) float64
        Upper left corner of its bounds, as seen from outside.
    right, down : (3,) float64
        Unit vectors of its coordinates.
    outline : (M, 2) float64
        Polygon in metres of these coordinates; its bounds begin at 0, 0.
    """

    name: str
    corner: Points
    right: Points
    down: Points
    outline: Points

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Width and height in metres."""
        width, height = self.outline.max(axis=0)
        return float(width), float(height)

    @cached_property
    def normal(self) -> Points:
        """Unit vector that points outwards."""
        return np.cross(self.down, self.right)

    def world(self, points: Points) -> Points:
        """Return (N, 3) points of the world for (N, 2) of the face."""
        return np.asarray(self.corner + points[:, :1] * self.right + points[:, 1:] * self.down)

    def homography(self, camera: Camera) -> Matrix:
        """Return the (3, 3) map from metres of the face to pixels; its third row gives the distance in metres."""
        columns = np.column_stack([self.right, self.down, self.corner - camera.centre])
        return camera.intrinsics @ camera.rotation @ columns

    def faces(self, camera: Camera) -> bool:
        """Whether the camera stands on the outer side."""
        return bool((camera.centre - self.corner) @ self.normal > 0)

    def moved(self, name: str, turn: Matrix, by: Points) -> Face:
        """Return the face turned about the origin, then moved by metres."""
        return Face(name, turn @ self.corner + by, turn @ self.right, turn @ self.down, self.outline)


def facet(name: str, points: Sequence[Sequence[float]]) -> Face:
    """Return the face of a flat polygon, which is not level.

    Parameters
    ----------
    points : (M, 3)
        Corners in metres, in the order that is clockwise from outside.
    """
    polygon = np.asarray(points, np.float64)
    # Summed over a fan of triangles: also right where some corners lie on a line.
    normal = -_unit(np.cross(polygon - polygon[0], np.roll(polygon, -1, axis=0) - polygon[0]).sum(axis=0))
    right = _unit(np.cross((0.0, 0.0, 1.0), normal))
    down = np.cross(right, normal)
    flat = (polygon - polygon[0]) @ np.column_stack([right, down])
    low = flat.min(axis=0)
    return Face(name, polygon[0] + low[0] * right + low[1] * down, right, down, flat - low)


def wall(name: str, left: Sequence[float], right: Sequence[float], bottom: float, top: float) -> Face:
    """Return an upright rectangle between two points (x, y) of the ground, `left` and `right` from outside."""
    (x0, y0), (x1, y1) = left, right
    return facet(name, [(x0, y0, top), (x1, y1, top), (x1, y1, bottom), (x0, y0, bottom)])


def project(homography: Matrix, points: Points) -> Points:
    """Return (N, 2) images of (N, 2) points under a (3, 3) homography."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])


def clipped(homography: Matrix, outline: Points) -> Points:
    """Return the part of a polygon that lies before the camera, in the polygon's own coordinates.

    Sutherland and Hodgman, Reentrant polygon clipping, CACM 1974, for the one plane at `NEAR`.

    Returns
    -------
    (M, 2) float64
        M is 0 if nothing does.
    """
    depth = np.column_stack([outline, np.ones(len(outline))]) @ homography[2] - NEAR
    if (depth >= 0).all():
        return outline
    kept = []
    for i in range(len(outline)):
        j = (i + 1) % len(outline)
        if depth[i] >= 0:
            kept.append(outline[i])
        if (depth[i] >= 0) != (depth[j] >= 0):
            t = depth[i] / (depth[i] - depth[j])
            kept.append(outline[i] + t * (outline[j] - outline[i]))
    return np.array(kept, np.float64).reshape(-1, 2)


def rotated(degrees: float) -> Matrix:
    """Return the rotation about the upright axis, counter-clockwise from above."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _unit(vector: Points) -> Points:
    return np.asarray(vector / np.linalg.norm(vector))
