"""Two-view geometry: pixel frames, residuals of a transform, and what no real pair of photographs does.

Throughout, a transform maps pixels of image A to pixels of image B: x_B ~ H x_A, and x_B^T F x_A = 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Beyond these a planar transform is taken for an accident. The features span a factor of 8 in scale at most, and
# a wall seen at 80 degrees is squeezed 6 times. On Sub-RParis they neither cost nor gain a point.
MAX_ZOOM = 10.0
MAX_STRETCH = 8.0
# Points whose spread off their best line is this part of the spread along it count as collinear.
COLLINEAR = 1e-3


def pixel_frame(image_size: tuple[int, int], reference_size: int | None) -> Float64:
    """Return the map, (3, 3) float64, from pixels of an image to those of its copy shrunk to `reference_size`.

    It keeps pixel centres on whole coordinates: x' = s (x + 0.5) - 0.5. An image (width, height) whose longer side
    is not above `reference_size`, or any with None, stays as it is: extraction does not enlarge it either, so its
    keypoints are no more precise for being scaled up.
    """
    s = 1.0 if reference_size is None else min(1.0, reference_size / max(image_size))
    return np.array([[s, 0, (s - 1) / 2], [0, s, (s - 1) / 2], [0, 0, 1]])


def planar_residuals(H: Float64, a: Float64, b: Float64) -> Float64:
    """Return the Sampson distance of each match from a homography or an affine map.

    To first order (for affine maps exactly) it is the distance by which the match, as a point (x_A, y_A, x_B,
    y_B), must be moved to fit: an error of both images together, the same from A to B and from B to A, so that a
    map that shrinks one image is not flattered (Hartley and Zisserman, Multiple View Geometry, 4.2.6). For a pure
    shift it is the transfer error over the square root of 2.

    Parameters
    ----------
    H : (..., 3, 3) float64
        One transform or many.
    a, b : (N, 2) float64
        Matched points.

    Returns
    -------
    (..., N) float64
        Pixels; infinite where it is not defined.
    """
    x, y, u, v = a[:, 0], a[:, 1], b[:, 0], b[:, 1]
    h = [[H[..., i, j, None] for j in range(3)] for i in range(3)]
    with np.errstate(all="ignore"):
        w = h[2][0] * x + h[2][1] * y + h[2][2]
        e1 = h[0][0] * x + h[0][1] * y + h[0][2] - u * w
        e2 = h[1][0] * x + h[1][1] * y + h[1][2] - v * w
        # Rows of the Jacobian of (e1, e2) by (x, y, u, v): (p1, q1, -w, 0) and (p2, q2, 0, -w).
        p1, q1 = h[0][0] - u * h[2][0], h[0][1] - u * h[2][1]
        p2, q2 = h[1][0] - v * h[2][0], h[1][1] - v * h[2][1]
        m11, m22, m12 = p1 * p1 + q1 * q1 + w * w, p2 * p2 + q2 * q2 + w * w, p1 * p2 + q1 * q2
        squared = (m22 * e1 * e1 - 2 * m12 * e1 * e2 + m11 * e2 * e2) / (m11 * m22 - m12 * m12)
        return np.where(np.isfinite(squared), np.sqrt(np.maximum(squared, 0)), np.inf)


def fundamental_residuals(F: Float64, a: Float64, b: Float64) -> Float64:
    """Return the Sampson distance of each match from a fundamental matrix, in pixels of both images together.

    To first order the distance by which the match must be moved to lie on its epipolar lines (Hartley and
    Zisserman, 11.4.3); (N,) float64 for F (3, 3) and a, b (N, 2), infinite where it is not defined.
    """
    x, y, u, v = a[:, 0], a[:, 1], b[:, 0], b[:, 1]
    with np.errstate(all="ignore"):
        in_b = [F[i, 0] * x + F[i, 1] * y + F[i, 2] for i in range(3)]
        in_a = [F[0, j] * u + F[1, j] * v + F[2, j] for j in range(2)]
        error = u * in_b[0] + v * in_b[1] + in_b[2]
        distance = np.abs(error) / np.sqrt(in_b[0] ** 2 + in_b[1] ** 2 + in_a[0] ** 2 + in_a[1] ** 2)
        return np.where(np.isfinite(distance), distance, np.inf)


def plausible(H: Float64, a: Float64) -> Mask:
    """Tell at which points, (N, 2) of image A, a planar transform does what a camera can do: (..., N) bool.

    Around such a point the map keeps the orientation (photographs are not mirrored), lies on the near side of
    its horizon, zooms by less than 10 and squeezes by less than 8. Elsewhere a match fits by accident: a
    collapsing map brings many points of A near the few of B. `H`, (..., 3, 3), is of positive scale: positive
    third coordinates are the near side.
    """
    x, y = a[:, 0], a[:, 1]
    h = [[H[..., i, j, None] for j in range(3)] for i in range(3)]
    with np.errstate(all="ignore"):
        w = h[2][0] * x + h[2][1] * y + h[2][2]
        u = (h[0][0] * x + h[0][1] * y + h[0][2]) / w
        v = (h[1][0] * x + h[1][1] * y + h[1][2]) / w
        p1, q1 = (h[0][0] - u * h[2][0]) / w, (h[0][1] - u * h[2][1]) / w
        p2, q2 = (h[1][0] - v * h[2][0]) / w, (h[1][1] - v * h[2][1]) / w
        area = p1 * q2 - q1 * p2
        # Singular values s >= t: s t = area, s^2 + t^2 = this sum.
        squares = p1 * p1 + q1 * q1 + p2 * p2 + q2 * q2
        return np.asarray(
            (w > 0)
            & (area > MAX_ZOOM**-2)
            & (area < MAX_ZOOM**2)
            & (squares < area * (MAX_STRETCH + 1 / MAX_STRETCH))
        )


def turned_round(model: str, transform: Float64) -> Float64:
    """Return the transform from B to A, (3, 3), of one from A to B: F^T, or H^-1, of any (3, 3, P), scaled."""
    if model == "fundamental":
        return np.ascontiguousarray(transform.T)
    # The adjugate: up to its scale the inverse, and there for any matrix.
    (a, b, c), (d, e, f), (g, h, i) = transform.tolist() if transform.ndim == 2 else transform
    rows = [
        [e * i - f * h, c * h - b * i, b * f - c * e],
        [f * g - d * i, a * i - c * g, c * d - a * f],
        [d * h - e * g, b * g - a * h, a * e - b * d],
    ]
    return at_customary_scale(np.array(rows))


def at_customary_scale(H: Float64) -> Float64:
    """Return planar maps, (3, 3, ...), with H[2, 2] = 1, or where that is about 0 with a largest number of 1."""
    size = np.abs(H).max(axis=(0, 1))
    if H.ndim > 2:
        return np.asarray(H / np.where(np.abs(H[2, 2]) > 1e-12 * size, H[2, 2], size))
    return np.asarray(H / (H[2, 2] if abs(H[2, 2]) > 1e-12 * size else size))


def is_degenerate(a: Float64, b: Float64, *, minimum: int) -> bool:
    """Tell whether matches, (N, 2) each, fix no transform: fewer than `minimum` different ones, or on a line."""
    if len(a) < minimum:
        return True
    from delf_engine.verification.kernels import different_matches, on_a_line

    a, b = np.ascontiguousarray(a, np.float64), np.ascontiguousarray(b, np.float64)
    return bool(different_matches(a, b, minimum) < minimum or on_a_line(a, COLLINEAR) or on_a_line(b, COLLINEAR))


def occupied_bins(points: Float64, side: float) -> int:
    """Count the squares of a grid that hold a point: spatially effective inliers (Schönberger et al., ACCV 2016).

    `side` of a square is in the unit of the points, (N, 2); its corner lies on that of the first pixel.
    """
    with np.errstate(all="ignore"):
        bins = np.floor((points + 0.5) / side)
    return len({*zip(bins[:, 0].tolist(), bins[:, 1].tolist(), strict=True)})
