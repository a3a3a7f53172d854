"""One photograph seen through a planar transform: its pixels in the other's frame, and its outline there.

Pixel centres have whole coordinates, so an image of width W reaches from -0.5 to W - 0.5. Only the near side of
the transform's horizon is drawn: what lies behind it would appear mirrored, in places no camera saw.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.pyramid import resize

__all__ = ["mapped_points", "oriented", "outline", "warped"]

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]

# In frames from -1 to 1: a transform of this condition number has flattened the photograph to a line.
_FLAT = 1e10


def oriented(transform: npt.ArrayLike, points: npt.ArrayLike) -> Floats | None:
    """Return a transform scaled so that most of some points lie on the near side, where the third row is positive.

    A homography is the same for any factor, so that its own sign does not tell the near side from the far one.

    Parameters
    ----------
    transform : (3, 3) float
    points : (N, 2) float
        Of image A; N at least 1.

    Returns
    -------
    (3, 3) float64 or None
        None if it is not finite or all zeros.
    """
    H = np.asarray(transform, np.float64)
    largest = np.abs(H).max()
    if not np.isfinite(largest) or largest == 0:
        return None
    H = H / largest
    depths = np.asarray(points, np.float64) @ H[2, :2] + H[2, 2]
    return H if (depths > 0).sum() >= (depths < 0).sum() else -H


def warped(photo: Pixels, transform: Floats, size: Size, shown: Size) -> tuple[Pixels, Mask]:
    """Return photograph A as B's camera would have seen it, and where it covers B.

    Parameters
    ----------
    photo : (H, W, 3) uint8
        Image A.
    transform : (3, 3) float64
        From pixels of A to pixels of B, its near side positive (see `oriented`).
    size : (width, height)
        Of image B.
    shown : (width, height)
        Of the picture that B is resized to; the result has this size.

    Returns
    -------
    pixels : (h, w, 3) uint8
        Where A does not reach, they mean nothing.
    covered : (h, w) bool
        All false where the transform flattens the photograph.
    """
    import cv2

    height, width = photo.shape[:2]
    back = _inverse(transform, (width, height), size)
    if back is None:
        return np.zeros((shown[1], shown[0], 3), np.uint8), np.zeros((shown[1], shown[0]), bool)
    back = back @ _resized(shown, size)
    with np.errstate(all="ignore"):
        u, v = np.arange(shown[0]), np.arange(shown[1])[:, None]
        x, y, depth = (row[0] * u + row[1] * v + row[2] for row in back)
        x, y = x / depth - (width - 1) / 2, y / depth - (height - 1) / 2
        # The inverse is near where the transform is: H (a / w) has the third coordinate 1 / w.
        covered = (depth > 0) & (np.abs(x) <= width / 2) & (np.abs(y) <= height / 2)
        # A step in the picture is the root of |det| / depth^3 pixels of A: A is shrunk by the median first.
        step = (
            float(np.sqrt(np.median(np.abs(np.linalg.det(back)) / depth[covered] ** 3))) if covered.any() else 1.0
        )
    ratio = 1 / step if np.isfinite(step) and step > 1 else 1.0
    small = resize(photo, max(1, round(width * ratio)), max(1, round(height * ratio)), "area")
    back = _resized((width, height), (small.shape[1], small.shape[0])) @ back
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pixels = cv2.warpPerspective(small, back, shown, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(pixels, np.uint8), covered


def mapped_points(transform: Floats, points: npt.ArrayLike) -> Floats:
    """Return the (N, 2) points of B that points of A are mapped to; NaN for those behind the horizon."""
    with np.errstate(all="ignore"):
        found = np.asarray(points, np.float64) @ transform[:, :2].T + transform[:, 2]
        return np.where(found[:, 2:] > 0, found[:, :2] / found[:, 2:], np.nan)


def outline(transform: Floats, size_a: Size, size_b: Size) -> Floats:
    """Return the border of image A as a polygon in pixels of B, as far as it lies in B and a margin around it.

    It is cut to the near side of the horizon and to the margin before anything is divided, so that a corner at
    infinity is no special case (Sutherland and Hodgman 1974, in homogeneous coordinates).

    Parameters
    ----------
    transform : (3, 3) float64
        From pixels of A to pixels of B, its near side positive.
    size_a, size_b : (width, height)

    Returns
    -------
    (K, 2) float64
        Its corners in order; none if nothing of it is near.
    """
    width, height = size_a
    corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    polygon = corners @ transform[:, :2].T + transform[:, 2]
    margin = 0.1 * max(size_b)
    (left, top), (right, bottom) = (-margin, -margin), (size_b[0] + margin, size_b[1] + margin)
    for plane in ((0, 0, 1), (1, 0, -left), (-1, 0, right), (0, 1, -top), (0, -1, bottom)):
        polygon = _cut(polygon, np.array(plane, np.float64))
    polygon = polygon[polygon[:, 2] > 0]
    # Rounding of extreme transforms may lead out of the margin again.
    return np.clip(polygon[:, :2] / polygon[:, 2:], (left, top), (right, bottom))


def _cut(polygon: Floats, plane: Floats) -> Floats:
    """Return the part of a polygon of homogeneous points on the positive side of a plane."""
    kept: list[Floats] = []
    heights = polygon @ plane
    for i in range(len(polygon)):
        here, before = heights[i], heights[i - 1]
        if (here > 0) != (before > 0):
            share = before / (before - here)
            kept.append(polygon[i - 1] + share * (polygon[i] - polygon[i - 1]))
        if here > 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 3)


def _inverse(transform: Floats, size_a: Size, size_b: Size) -> Floats | None:
    """Return the inverse of a transform with its sign; None if it is singular for images of these sizes."""
    to_a, to_b = _from_unit(size_a), _from_unit(size_b)
    units = np.linalg.solve(to_b, transform @ to_a)
    if not np.linalg.cond(units) < _FLAT:
        return None
    return np.asarray(to_a @ np.linalg.inv(units) @ np.linalg.inv(to_b))


def _from_unit(size: Size) -> Floats:
    """Return the map from a frame of -1 to 1 to the pixels of an image."""
    half = max(size) / 2
    return np.array([[half, 0, (size[0] - 1) / 2], [0, half, (size[1] - 1) / 2], [0, 0, 1]], np.float64)


def _resized(size: Size, resized: Size) -> Floats:
    """Return the map from pixel centres of an image to those of the same image resized."""
    x, y = (new / old for new, old in zip(resized, size, strict=True))
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], np.float64)
