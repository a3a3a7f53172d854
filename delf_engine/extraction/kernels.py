"""Numba kernel of the selection. Imported only by the function that runs it: numba takes a while to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["pick"]

# Boxes are looked up in a grid of at most this many fields a side.
_FIELDS = 64

# Beyond these the rounding of coordinates is no longer far below a box's side, and every kept box is compared.
_FARTHEST = 1e7
_SMALLEST = 1e-3


@njit(cache=True, nogil=True)
def _reach(side: Any, largest: Any, iou: Any) -> Any:
    """Return how far apart, along x or y, the centres of squares of an IoU above `iou` can be.

    The overlap o along an axis has o min(a, b) >= shared area > iou / (1 + iou) (a^2 + b^2). This returns the
    maximum of (a + b) / 2 - o over all sides b up to the largest there is, and a little for rounding.
    """
    other = side
    if largest > side:
        other = largest if 4 * iou * largest <= (1 + iou) * side else max(side, side * (1 + iou) / (4 * iou))
    least = iou / (1 + iou) * (side * side + other * other) / side
    return ((side + other) / 2 - least) * (1 + 1e-6) + 1e-3


@njit(cache=True, nogil=True)
def _field(at: Any, origin: Any, size: Any) -> Any:
    """Return the row or column of the grid, ascending in `at`; what is not a number is in field 0."""
    field = (at - origin) / size
    if field >= _FIELDS:
        return _FIELDS - 1
    return int(field) if field > 0 else 0


@njit(cache=True, nogil=True)
def _iou_above(box: Any, area: Any, other: Any, other_area: Any, iou: Any) -> Any:
    # Not even one square inside the other would do; the margin is for rounding.
    if min(area, other_area) < iou * max(area, other_area) * (1 - 1e-9):
        return False
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return False
    shared = width * height
    # The product of two tiny sides may be 0: such boxes share nothing.
    return shared > 0 and shared / (area + other_area - shared) > iou


@njit(cache=True, nogil=True)
def _crowded(box: Any, area: Any, boxes: Any, areas: Any, count: Any, iou: Any) -> Any:
    for k in range(count):  # noqa: SIM110, numba has no any()
        if _iou_above(box, area, boxes[k], areas[k], iou):
            return True
    return False


@njit(cache=True, nogil=True)
def _crowded_nearby(
    box: Any, area: Any, boxes: Any, areas: Any, first: Any, following: Any, rows: Any, columns: Any, iou: Any
) -> Any:
    for row in range(rows[0], rows[1]):
        for column in range(columns[0], columns[1]):
            k = first[row, column]
            while k >= 0:
                if _iou_above(box, area, boxes[k], areas[k], iou):
                    return True
                k = following[k]
    return False


@njit(cache=True, nogil=True)
def pick(centres: Any, sides: Any, iou: Any, cells: Any, spread: Any, out: Any) -> Any:
    """Walk over candidates in order and keep those that neither overlap a kept one nor crowd a grid cell.

    Parameters
    ----------
    centres : (N, 2) float64
        Of each candidate's square, the best candidate first.
    sides : (N,) float64
        Of the squares, not negative. (0,): overlaps do not matter.
    iou : float
        A candidate whose IoU with a kept one is above it is left out.
    cells : (N,) int64
        Number of the grid cell that each candidate lies in, from 0. (0,): crowding does not matter.
    spread : int
        Kept in each grid cell at most.
    out : (M,) int64
        Overwritten by the places of those kept, at most M.

    Returns
    -------
    int
        How many were kept.
    """
    by_overlap, by_cell = len(sides) > 0, len(cells) > 0
    filled = np.zeros(cells.max() + 1 if by_cell else 0, np.int64)

    # Kept squares that have their centre in one field of a grid form a list: `first`, then `following`.
    room = len(out) if by_overlap else 0
    boxes, areas, following = np.empty((room, 4)), np.empty(room), np.empty(room, np.int64)
    first = np.full((_FIELDS, _FIELDS) if by_overlap else (0, 0), -1, np.int64)
    box = np.empty(4)
    left, top, largest, size, area = 0.0, 0.0, 0.0, np.inf, 0.0
    if by_overlap:
        left, top, largest = centres[:, 0].min(), centres[:, 1].min(), sides.max()
        farthest = max(np.abs(centres).max(), largest)
        if farthest <= _FARTHEST and sides.min() >= _SMALLEST:
            extent = max(centres[:, 0].max() - left, centres[:, 1].max() - top)
            size = max(extent / _FIELDS, _reach(sides.min(), largest, iou))

    count = 0
    for i in range(len(centres)):
        if count == len(out):
            break
        if by_cell and filled[cells[i]] >= spread:
            continue
        if by_overlap:
            x, y, half = centres[i, 0], centres[i, 1], sides[i] / 2
            box[0], box[1], box[2], box[3] = x - half, y - half, x + half, y + half
            area = (box[2] - box[0]) * (box[3] - box[1])
            near = _reach(sides[i], largest, iou) if size < np.inf else 0.0
            rows = _field(y - near, top, size), _field(y + near, top, size) + 1
            columns = _field(x - near, left, size), _field(x + near, left, size) + 1
            everywhere = size == np.inf or (rows[1] - rows[0]) * (columns[1] - columns[0]) > count
            if everywhere and _crowded(box, area, boxes, areas, count, iou):
                continue
            if not everywhere and _crowded_nearby(box, area, boxes, areas, first, following, rows, columns, iou):
                continue
            row, column = _field(y, top, size), _field(x, left, size)
            boxes[count], areas[count] = box, area
            following[count], first[row, column] = first[row, column], count
        if by_cell:
            filled[cells[i]] += 1
        out[count] = i
        count += 1
    return count
