"""The ground that buildings stand on, with its paving and their shadows."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from delf_engine.synthesis.buildings import Building, Place
from delf_engine.synthesis.geometry import Face, Matrix, project
from delf_engine.synthesis.lighting import Light
from delf_engine.synthesis.painting import Colour, Picture, masonry
from delf_engine.synthesis.rendering import Canvas, lit, plane_nearness, texture_to_face

__all__ = ["draw_ground"]

_ACROSS = 180.0  # metres
_DENSITY = 5.5  # pixels a metre

_PLANE = Face(
    "ground",
    np.array([-_ACROSS / 2, _ACROSS / 2, 0.0]),
    np.array([1.0, 0, 0]),
    np.array([0.0, -1, 0]),
    np.array([(0, 0), (_ACROSS, 0), (_ACROSS, _ACROSS), (0, _ACROSS)]),
)


@functools.lru_cache(maxsize=8)
def _paving(number: int) -> tuple[Picture, Colour]:
    """Return a picture of the ground and its mean colour: one of a few kinds, the same in every process."""
    rng = np.random.default_rng([55, number])
    kind, colour = (
        ("blocks", (150, 144, 134)),
        ("plaster", (112, 112, 112)),
        ("plaster", (104, 124, 66)),
        ("rubble", (136, 128, 116)),
    )[number % 4]
    side = round(_ACROSS * _DENSITY)
    picture = masonry(rng, side, side, _DENSITY, kind, np.array(colour, np.float64))
    return picture, picture.mean(axis=(0, 1))


def draw_ground(canvas: Canvas, place: Place, light: Light) -> None:
    """Draw the paving of a place, up to the horizon, with the shadow that its building throws."""
    texture, mean = _paving(place.ground)
    camera = canvas.camera
    width, height = camera.size
    nearness = plane_nearness(_PLANE, camera, (0, 0, width, height))
    rows = np.flatnonzero((nearness > 0).any(axis=1))
    if not len(rows):
        return
    window = (0, int(rows[0]), width, int(rows[-1]) + 1)
    nearness = nearness[window[1] : window[3]]
    homography = np.array([[1.0, 0, 0], [0, 1, -window[1]], [0, 0, 1]]) @ _PLANE.homography(camera)
    size = (width, window[3] - window[1])
    drawn = cv2.warpPerspective(
        texture, homography @ texture_to_face(_PLANE, texture.shape), size, borderMode=cv2.BORDER_REFLECT_101
    )
    # Far away the stones run into one another.
    clear = np.clip(nearness * np.float32(0.09 * camera.intrinsics[0, 0] / _DENSITY), 0, 1)
    plain = np.empty_like(drawn)
    plain[:] = mean
    blended = np.asarray(cv2.blendLinear(drawn, plain, clear, 1 - clear), np.uint8)
    shown = _shaded(place.subject, lit(blended, light.on(_PLANE.normal)), light, homography)
    canvas.put(window, shown, np.where(nearness > 0, np.uint8(255), np.uint8(0)), nearness, 0)


def _shaded(subject: Building, ground: Picture, light: Light, homography: Matrix) -> Picture:
    """Return the ground with the shadow that the building throws on it."""
    if light.towards[2] < 0.1 or light.kind not in ("clear", "evening"):
        return ground
    corners = np.concatenate([s.face.world(s.face.outline) for s in subject.surfaces])
    thrown = corners[:, :2] - np.maximum(corners[:, 2:], 0) * light.towards[:2] / light.towards[2]
    hull = cv2.convexHull(thrown.astype(np.float32))[:, 0].astype(np.float64)
    on_plane = np.column_stack([hull[:, 0], -hull[:, 1]]) + _ACROSS / 2
    depth = np.column_stack([on_plane, np.ones(len(hull))]) @ homography[2]
    if (depth < 0.5).any():  # the photographer stands in it, or it passes beside him
        return ground
    outline = np.clip(project(homography, on_plane), -3e4, 3e4)
    mask = np.zeros(ground.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(outline).astype(np.int32), 255)
    return np.asarray(cv2.copyTo(cv2.convertScaleAbs(ground, alpha=0.55), mask, ground.copy()), np.uint8)
