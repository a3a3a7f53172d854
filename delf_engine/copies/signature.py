"""Perceptual signatures: 648 comparisons of brightness on a grid of 9 x 9, and who looks alike by them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]

#: Ways in which a copy may be turned or mirrored.
VIEWS = 8

_SIDE = 9
_EDGE = 5  # percent of the brightness changes that are cut off at each edge
_EQUAL = 2.0  # of 255
_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def grid_of(grey: Grey) -> Floats:
    """Return the mean brightness around each of 9 x 9 points of the part of an image that varies, float32.

    Wong, Bern and Goldberg, An Image Signature for Any Kind of Image, ICIP 2002.
    """
    rows, columns = (_middle(grey if axis else grey.T) for axis in (1, 0))
    side = 2 * max(1, round(min(grey.shape) / 40)) + 1
    sums = cv2.boxFilter(grey, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(sums[np.ix_(rows, columns)] / side**2, np.float32)


def turned_grids(grid: Floats) -> Floats:
    """Return a grid turned by 0, 90, 180, 270 degrees counterclockwise, and mirrored and turned: (8, 9, 9)."""
    return np.stack([np.rot90(side, turn) for side in (grid, grid[:, ::-1]) for turn in range(4)])


def levels(grids: Floats) -> npt.NDArray[np.int8]:
    """Compare each point with its 8 neighbours: much darker, darker, equal, brighter, much brighter.

    From (N, 9, 9) to (N, 648), from -2 to 2; "much" is more than the median of the image's own differences.
    """
    padded = np.pad(grids, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    around = [padded[:, 1 + y : 1 + y + _SIDE, 1 + x : 1 + x + _SIDE] for y, x in _NEIGHBOURS]
    differences = np.nan_to_num(np.stack(around, axis=-1) - grids[..., None]).reshape(
        len(grids), _SIDE * _SIDE * len(_NEIGHBOURS)
    )
    out = np.zeros(differences.shape, np.int8)
    for sign in (1, -1):
        sided = np.where(sign * differences > _EQUAL, sign * differences, np.nan)
        some = ~np.isnan(sided).all(axis=1)
        median = np.full(len(grids), np.inf)
        median[some] = np.nanmedian(sided[some], axis=1)
        out[sided > 0] = sign
        out[sided > median[:, None]] = 2 * sign
    return out


def distances(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8]) -> Floats:
    """Return the normalised distances of signatures, (N, M) float32 from 0 to 1; 1 where both are plain.

    Whole numbers below 2^24 are summed up, so these are the same bits in any blocks and on any machine.
    """
    x, y = a.astype(np.float32), b.astype(np.float32)
    squares = (x * x).sum(1)[:, None], (y * y).sum(1)[None]
    apart = np.sqrt(np.maximum(squares[0] + squares[1] - 2 * (x @ y.T), 0))
    lengths = np.sqrt(squares[0]) + np.sqrt(squares[1])
    return np.asarray(np.divide(apart, lengths, out=np.ones_like(apart), where=lengths > 0), np.float32)


def _middle(lines: Grey) -> npt.NDArray[np.int64]:
    """Return where the 9 grid lines lie along the first axis: between the 5th and 95th percent of all changes."""
    changes = np.abs(np.diff(lines.astype(np.int16), axis=1)).sum(axis=1, dtype=np.int64).cumsum()
    start, stop = 0, len(lines)
    if changes[-1]:
        start, stop = (int(np.searchsorted(changes, changes[-1] * part / 100)) for part in (_EDGE, 100 - _EDGE))
        stop = max(stop, start + 1)
    points = np.linspace(start, stop, _SIDE + 2)[1:-1].round().astype(np.int64)
    return np.minimum(points, len(lines) - 1)
