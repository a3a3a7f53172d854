"""What all boxes have in common: how they are checked, clipped and compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError

__all__ = ["Boxes", "box_iou", "checked_boxes", "clip_boxes"]

Boxes = npt.NDArray[np.float32]


def checked_boxes(boxes: npt.ArrayLike) -> Boxes:
    """Return boxes as an (R, 4) float32 array of their own memory; an empty list is no box.

    Raises
    ------
    FeatureError
        If the shape is another, a value is not finite in float32, or a box is empty or turned over.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf and is refused as such
            array = np.array(boxes, np.float32, order="C", ndmin=1)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"boxes must be (R, 4) numbers x0, y0, x1, y1: {error}") from error
    if array.size == 0 and (array.ndim == 1 or array.shape == (0, 4)):
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise FeatureError(f"boxes must have shape (R, 4), x0, y0, x1, y1 each; got {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(wrong):
        raise FeatureError(f"box {wrong[0]} has NaN or infinite values: {array[wrong[0]].tolist()}")
    wrong = np.flatnonzero((array[:, :2] >= array[:, 2:]).any(axis=1))
    if len(wrong):
        raise FeatureError(f"box {wrong[0]} is empty: {array[wrong[0]].tolist()} needs x0 < x1 and y0 < y1")
    return array


def clip_boxes(boxes: npt.ArrayLike, image_size: tuple[int, int]) -> Boxes:
    """Cut boxes at the borders of the image and drop those of which nothing is left.

    Parameters
    ----------
    boxes : (R, 4) float32
        x0, y0, x1, y1 in pixels.
    image_size : (width, height)

    Returns
    -------
    (R', 4) float32
        In the order given. A box that only touches the image from outside shares no area with it and is dropped.

    Raises
    ------
    FeatureError
        If boxes are wrong: see `checked_boxes`.
    """
    array = checked_boxes(boxes)
    limits = np.array(image_size, np.float32)
    corners = np.clip(array.reshape(-1, 2, 2), 0, limits)
    return corners.reshape(-1, 4)[(corners[:, 0] < corners[:, 1]).all(axis=1)]


def box_iou(one: Boxes, many: Boxes) -> npt.NDArray[np.float64]:
    """Return the intersection over union of a (4,) box with each of (R, 4) boxes, (R,) float64."""
    a, b = one.astype(np.float64), many.astype(np.float64)
    sides = np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    return np.asarray(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[:, 2:] - b[:, :2], axis=1) - shared))
