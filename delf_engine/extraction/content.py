"""Where a photograph holds something: without its uniform frame, and without its flat patches.

Letterboxes, frames, scanner margins and clear skies look alike everywhere: what the network makes of them, and of
the zeros it pads with, agrees between photographs that have nothing else in common.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

#: A line belongs to a frame if all but this share of it lies this near to the colour of the outermost line.
_SPECKS, _NEAR = 0.01, 12
_FRAMES = 3  # more would eat up a sky that fades
_LINES = 64  # looked at together


def content_box(image: Pixels) -> tuple[int, int, int, int]:
    """Return the box, x0, y0, x1, y1, that an image, (H, W, 3) uint8, leaves without uniform bands at its edges.

    Frames inside frames are peeled off one after the other, three at most, each side by its own colour. x1, y1 are
    exclusive; an image of one colour leaves nothing: a box without area.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = 0, 0, width, height
    for _ in range(_FRAMES):
        before = x0, y0, x1, y1
        y0 += _band(image[y0:y1, x0:x1])
        y1 -= _band(image[y0:y1, x0:x1][::-1])
        inside = image[y0:y1, x0:x1].transpose(1, 0, 2)
        x0 += _band(inside)
        x1 -= _band(inside[x0 - before[0] :][::-1])
        if (x0, y0, x1, y1) == before:
            break
    return x0, y0, max(x0, x1), max(y0, y1)


def textured(image: Pixels, stride: int, window: int, contrast: float, offset: float = 0) -> npt.NDArray[np.bool_]:
    """Tell at which cells of a level's feature map its pixels, (H, W, 3) uint8, vary: (h, w) bool.

    Cell j is centred on pixel offset + stride j, the offset rounded down. Where the standard deviation of
    brightness, of 255, in the square of side `window` around it is `contrast` at least, they do.
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= 128  # small numbers: squares of float32 keep their digits
    at = np.ix_(*(np.minimum(np.arange(0, side, stride) + int(offset), side - 1) for side in grey.shape))
    mean = cv2.blur(grey, (window, window), borderType=cv2.BORDER_REFLECT)[at]
    square = cv2.blur(grey * grey, (window, window), borderType=cv2.BORDER_REFLECT)[at]
    return np.asarray(square - mean * mean >= contrast * contrast)


def _band(lines: Pixels) -> int:
    """Return how many of the first lines, (H, W, 3), have the one colour of the first."""
    if not lines.size:
        return 0
    colour = np.median(lines[0], axis=0)
    for start in (0, *range(1, len(lines), _LINES)):  # most photographs have no frame: their first line tells
        near = np.abs(lines[start : start + _LINES if start else 1] - colour).max(axis=2) <= _NEAR
        other = np.flatnonzero(near.mean(axis=1) < 1 - _SPECKS)
        if len(other):
            return start + int(other[0])
    return len(lines)
