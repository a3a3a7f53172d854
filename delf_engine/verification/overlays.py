"""What two photographs wear alike: matches of screenshot chrome, captions, ornate frames, TV strips.

Such an overlay stands at the same place in both images, near their edges, while what they show in the middle does
not. Two copies of one photograph, or two shots from a tripod, agree in the middle too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["moving", "stands_still"]

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]

#: A match stands still if it moves by less than this part of the longer side.
_STILL = 0.02
#: How far overlays may reach in from the edges, in parts of width and height, least first.
_BANDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
#: The middle disagrees if it has so many matches, of which at most this share stand still.
_MIDDLE, _SHARE = 8, 0.1
#: A transform is that of an overlay if this share of its matches stand still.
_MOST = 0.7


def stands_still(a: Float64, b: Float64, size_a: Size, size_b: Size) -> Mask:
    """Tell which matches stand at the same place of both images.

    The same place: in parts of width and height, or in parts of the width from the upper or from the lower edge, as
    an overlay is fitted to photographs of another shape.

    Parameters
    ----------
    a, b : (N, 2) float64
        Matched points, x, y in pixels of their images.
    size_a, size_b : (width, height)

    Returns
    -------
    (N,) bool
    """
    one, other = ((points + 0.5) / size[0] for points, size in ((a, size_a), (b, size_b)))
    high, other_high = size_a[1] / size_a[0], size_b[1] / size_b[0]
    limit = _STILL * max(1.0, min(high, other_high))
    across = one[:, 0] - other[:, 0]
    down = one[:, 1] - other[:, 1]
    relative = (one[:, 1] / high - other[:, 1] / other_high) * min(high, other_high)
    upward = down - (high - other_high)
    nearest = np.min(np.abs([down, relative, upward]), axis=0) if len(a) else down
    return np.asarray(np.maximum(np.abs(across), nearest) <= limit)


def moving(a: Float64, b: Float64, size_a: Size, size_b: Size, inliers: Mask) -> Mask | None:
    """Tell which matches are left if an overlay explains those that agreed on a transform; None if it does not.

    Parameters
    ----------
    a, b, size_a, size_b
        As for `stands_still`.
    inliers : (N,) bool
        Of the transform.

    Returns
    -------
    (N,) bool or None
    """
    if not inliers.any():
        return None
    still = stands_still(a, b, size_a, size_b)
    if np.count_nonzero(still & inliers) < _MOST * np.count_nonzero(inliers):
        return None
    inward = np.minimum(_inward(a, size_a), _inward(b, size_b))
    for band in _BANDS:
        middle = inward >= band
        if np.count_nonzero(middle) < _MIDDLE:
            break
        if np.count_nonzero(still & middle) <= _SHARE * np.count_nonzero(middle):
            return ~(still & ~middle)
    return None


def _inward(points: Float64, size: Size) -> Float64:
    """Return how far points lie from the nearest edge, (N,), in parts of width and height."""
    parts = (points + 0.5) / np.array(size)
    return np.asarray(np.minimum(parts, 1 - parts).min(axis=1))
