"""Faces into pictures: each by its exact homography, whatever is nearer in front."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from delf_engine.synthesis.buildings import Surface
from delf_engine.synthesis.geometry import NEAR, Camera, Face, Matrix, Points, clipped, project
from delf_engine.synthesis.painting import Picture

__all__ = ["Canvas", "lit", "plane_nearness", "texture_to_face"]

_SHIFT = 4  # fractional bits of OpenCV's drawing functions
_FARTHEST = 4e4  # corners farther outside than this many pixels would overflow OpenCV's numbers


def texture_to_face(face: Face, shape: tuple[int, ...]) -> Matrix:
    """Return the (3, 3) map from pixels of a picture of that shape (rows, columns) to metres of the face."""
    (width, height), (rows, columns) = face.bounds, shape[:2]
    x, y = width / columns, height / rows
    return np.array([[x, 0, 0.5 * x], [0, y, 0.5 * y], [0, 0, 1]])


class Canvas:
    """A picture that is being rendered.

    Parameters
    ----------
    camera : Camera

    Attributes
    ----------
    picture : (H, W, 3) uint8
        RGB.
    nearness : (H, W) float32
        1 / distance along the optical axis in metres; 0 where nothing is.
    labels : (H, W) uint8
        What is seen: the number that it was drawn with.
    """

    def __init__(self, camera: Camera) -> None:
        width, height = camera.size
        self.camera = camera
        self.picture: Picture = np.zeros((height, width, 3), np.uint8)
        self.nearness = np.zeros((height, width), np.float32)
        self.labels = np.zeros((height, width), np.uint8)

    def draw_surface(self, surface: Surface, label: int, light: npt.NDArray[np.float64]) -> None:
        """Draw one side of a surface, if it faces the camera.

        Parameters
        ----------
        surface : Surface
        label : int
            1 to 255, or 0 for what need not be told apart.
        light : (3,) float64
            By which its colours are multiplied.
        """
        face = surface.face
        if not face.faces(self.camera):
            return
        homography = face.homography(self.camera)
        outline = clipped(homography, face.outline)
        window = self._window(project(homography, outline)) if len(outline) > 2 else None
        if window is None:
            return
        x0, y0, x1, y1 = window
        into = np.array([[1.0, 0, -x0], [0, 1, -y0], [0, 0, 1]]) @ homography
        texture = surface.texture(*_levels(homography, outline, face, surface.density))
        drawn = cv2.warpPerspective(
            texture,
            into @ texture_to_face(face, texture.shape),
            (x1 - x0, y1 - y0),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        drawn = lit(np.asarray(drawn, np.uint8), light)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        corners = np.clip(project(into, outline), -_FARTHEST, _FARTHEST)
        cv2.fillPoly(mask, [np.rint(corners * 2**_SHIFT).astype(np.int32)], 255, cv2.LINE_8, _SHIFT)
        self.put(window, drawn, mask, plane_nearness(face, self.camera, window), label)

    def put(
        self,
        window: tuple[int, int, int, int],
        drawn: Picture,
        mask: npt.NDArray[np.uint8],
        nearness: npt.NDArray[np.float32],
        label: int,
    ) -> None:
        """Copy what is drawn into the window x0, y0, x1, y1 where its mask is set and nothing is nearer."""
        x0, y0, x1, y1 = window
        part = np.s_[y0:y1, x0:x1]
        shown = cv2.bitwise_and(mask, cv2.compare(nearness, self.nearness[part], cv2.CMP_GT))
        for target, source in (
            (self.picture, drawn),
            (self.nearness, nearness),
            (self.labels, np.full(mask.shape, label, np.uint8)),
        ):
            target[part] = cv2.copyTo(source, shown, np.ascontiguousarray(target[part]))

    def _window(self, corners: Points) -> tuple[int, int, int, int] | None:
        width, height = self.camera.size
        low = np.floor(np.clip(corners.min(axis=0), -1, _FARTHEST)).astype(int)
        high = np.ceil(np.clip(corners.max(axis=0), -1, _FARTHEST)).astype(int) + 1
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        x1, y1 = min(int(high[0]), width), min(int(high[1]), height)
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def lit(picture: Picture, light: npt.NDArray[np.float64]) -> Picture:
    """Return a picture with its three colours multiplied by `light`, white where they are too bright."""
    return np.asarray(cv2.multiply(picture, np.array([*light, 0.0])), np.uint8)


def plane_nearness(face: Face, camera: Camera, window: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """Return 1 / distance along the optical axis of a face's plane, at each pixel of a window x0, y0, x1, y1.

    Over the pixels it is linear: n . K^-1 (x, y, 1) / (n . (c - C)) with the plane's normal n in the camera's
    frame.
    """
    x0, y0, x1, y1 = window
    normal = camera.rotation @ face.normal
    slope = normal @ np.linalg.inv(camera.intrinsics) / (face.normal @ (face.corner - camera.centre))
    rows = slope[1] * np.arange(y0, y1) + slope[2]
    nearness = (slope[0] * np.arange(x0, x1)[None, :] + rows[:, None]).astype(np.float32)
    nearness[nearness > 1 / NEAR] = 0
    return nearness


def _levels(homography: Matrix, outline: Points, face: Face, density: float) -> tuple[int, int]:
    """Return how often the picture of a face is halved along x and y to fit its size in the middle of the view."""
    middle = outline.mean(axis=0)
    at = homography @ (*middle, 1.0)
    jacobian = (homography[:2, :2] - np.outer(at[:2] / at[2], homography[2, :2])) / at[2]
    stretch = np.maximum(np.linalg.norm(jacobian, axis=0), 1e-6)  # pixels a metre
    across, down = (int(v) for v in np.floor(np.log2(density / stretch) + 0.35))
    return min(max(across, 0), 8), min(max(down, 0), 8)
