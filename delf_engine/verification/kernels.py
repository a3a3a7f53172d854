"""Numba kernels: degenerate matches, affine residuals, the exhaustive affine verifier (see `affine`).

Imported only by functions that run them. Squared residuals are those of `geometry.planar_residuals`: Sampson
distances, exact for affine maps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_QUICK = {"reassoc", "contract"}
MIN_AFFINE = 6  # matches from which on six numbers are fitted, and not four
FLAT = 1e-4  # matches that spread less off a line fix four numbers at most


@njit(cache=True)
def different_matches(a: Any, b: Any, enough: Any) -> Any:
    """Count matches, (N, 2) and (N, 2) float64, that differ from all before them, up to `enough`."""
    first = np.empty(enough, np.int64)
    found = 0
    for i in range(len(a)):
        known = False
        for k in range(found):
            j = first[k]
            known |= a[i, 0] == a[j, 0] and a[i, 1] == a[j, 1] and b[i, 0] == b[j, 0] and b[i, 1] == b[j, 1]
        if not known:
            first[found] = i
            found += 1
            if found == enough:
                break
    return found


@njit(cache=True)
def on_a_line(points: Any, tolerance: Any) -> Any:
    """Tell whether points, (N, 2) float64, spread off their best line by at most `tolerance` of that along it."""
    x, y = 0.0, 0.0
    for i in range(len(points)):
        x += points[i, 0]
        y += points[i, 1]
    x, y = x / len(points), y / len(points)
    xx, yy, xy = 0.0, 0.0, 0.0
    for i in range(len(points)):
        dx, dy = points[i, 0] - x, points[i, 1] - y
        xx += dx * dx
        yy += dy * dy
        xy += dx * dy
    total = xx + yy
    # Eigenvalues of the 2x2 scatter: their product over the square of their sum.
    return not (total > 0.0 and (xx * yy - xy * xy) / total / total > tolerance**2)  # true for NaN, too


# Python's check of every divisor would keep the loop from running in vectors; `reach` is above 0.
@njit(cache=True, nogil=True, fastmath=_QUICK, error_model="numpy")
def _support(ax: Any, ay: Any, bx: Any, by: Any, h: Any, zoom: Any, reach: Any, growth: Any) -> Any:
    """Return how well match h and its zoom explain all matches, each counting from 0 to 1.

    What a match may be off by grows with its distance from h: the zoom is coarse, the map upright.
    """
    tx, ty = bx[h] - zoom * ax[h], by[h] - zoom * ay[h]
    scale = np.float32(1) / (zoom * zoom + np.float32(1))
    total = np.float32(0)
    for i in range(len(ax)):
        ex, ey = bx[i] - zoom * ax[i] - tx, by[i] - zoom * ay[i] - ty
        dx, dy, gx, gy = ax[i] - ax[h], ay[i] - ay[h], bx[i] - bx[h], by[i] - by[h]
        far = dx * dx + dy * dy + gx * gx + gy * gy
        total += max(np.float32(0), np.float32(1) - (ex * ex + ey * ey) * scale / (reach + growth * far))
    return total


@njit(cache=True, nogil=True)
def _explained(a: Any, b: Any, h: Any, zoom: Any, reach: Any, growth: Any, inliers: Any) -> Any:
    """Mark the matches that match h and its zoom explain; return how many."""
    scale = 1.0 / (zoom * zoom + 1.0)
    count = 0
    for i in range(len(a)):
        dx, dy, gx, gy = a[i, 0] - a[h, 0], a[i, 1] - a[h, 1], b[i, 0] - b[h, 0], b[i, 1] - b[h, 1]
        ex, ey = gx - zoom * dx, gy - zoom * dy
        far = dx * dx + dy * dy + gx * gx + gy * gy
        inliers[i] = (ex * ex + ey * ey) * scale <= reach + growth * far
        count += inliers[i]
    return count


@njit(cache=True)
def squared_residuals(m: Any, a: Any, b: Any, out: Any) -> None:
    """Write the squared Sampson distances, (N,), of matches, (N, 2) float64 each, from an affine map, (2, 3)."""
    m11 = m[0, 0] * m[0, 0] + m[0, 1] * m[0, 1] + 1.0
    m22 = m[1, 0] * m[1, 0] + m[1, 1] * m[1, 1] + 1.0
    m12 = m[0, 0] * m[1, 0] + m[0, 1] * m[1, 1]
    scale = 1.0 / (m11 * m22 - m12 * m12)  # at least 1: the matrix has 1 added on its diagonal
    for i in range(len(a)):
        e1 = m[0, 0] * a[i, 0] + m[0, 1] * a[i, 1] + m[0, 2] - b[i, 0]
        e2 = m[1, 0] * a[i, 0] + m[1, 1] * a[i, 1] + m[1, 2] - b[i, 1]
        out[i] = (m22 * e1 * e1 - 2.0 * m12 * e1 * e2 + m11 * e2 * e2) * scale


@njit(cache=True, nogil=True)
def _within(residuals: Any, limit: Any, inliers: Any) -> Any:
    """Mark squared residuals up to a limit; return how many, and the sum of what they leave of it, 0 to 1 each."""
    count, score = 0, 0.0
    for i in range(len(residuals)):
        inliers[i] = residuals[i] <= limit
        if inliers[i]:
            count += 1
            score += 1.0 - residuals[i] / limit
    return count, score


@njit(cache=True, nogil=True)
def _fit(a: Any, b: Any, inliers: Any, count: Any, out: Any) -> Any:
    """Fit an affine map, or to few matches a similarity, by least squares in B; return whether there is one."""
    ma, na, mb, nb = 0.0, 0.0, 0.0, 0.0
    for i in range(len(a)):
        if inliers[i]:
            ma += a[i, 0]
            na += a[i, 1]
            mb += b[i, 0]
            nb += b[i, 1]
    ma, na, mb, nb = ma / count, na / count, mb / count, nb / count
    xx, xy, yy, ux, uy, vx, vy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(a)):
        if inliers[i]:
            x, y, u, v = a[i, 0] - ma, a[i, 1] - na, b[i, 0] - mb, b[i, 1] - nb
            xx += x * x
            xy += x * y
            yy += y * y
            ux += u * x
            uy += u * y
            vx += v * x
            vy += v * y
    size, area = xx + yy, xx * yy - xy * xy
    if not size > 0.0:
        return False
    if count >= MIN_AFFINE and area > FLAT * size * size:
        out[0, 0], out[0, 1] = (ux * yy - uy * xy) / area, (uy * xx - ux * xy) / area
        out[1, 0], out[1, 1] = (vx * yy - vy * xy) / area, (vy * xx - vx * xy) / area
    else:
        cosine, sine = (ux + vy) / size, (vx - uy) / size
        out[0, 0], out[0, 1], out[1, 0], out[1, 1] = cosine, -sine, sine, cosine
    out[0, 2] = mb - out[0, 0] * ma - out[0, 1] * na
    out[1, 2] = nb - out[1, 0] * ma - out[1, 1] * na
    return True


@njit(cache=True, nogil=True)
def plausible_affine(m: Any, zoom: Any, stretch: Any) -> Any:
    """Do what `geometry.plausible` does, for an affine map, (2, 3), which is alike everywhere."""
    area = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    squares = m[0, 0] ** 2 + m[0, 1] ** 2 + m[1, 0] ** 2 + m[1, 1] ** 2
    return zoom**-2 < area < zoom**2 and squares < area * (stretch + 1.0 / stretch)


@njit(cache=True, nogil=True)
def _optimise(
    a: Any, b: Any, limit: Any, shrinking: Any, bounds: Any, count: Any, inliers: Any, residuals: Any, work: Any,
    model: Any,
) -> Any:  # fmt: skip
    """Fit again and again, with a limit that shrinks to `limit`; write the best map, return its score.

    The score sums up, over its inliers, what the squared residual leaves of the limit.
    """
    best = 0.0
    for step in range(len(shrinking)):
        if count < 2 or not _fit(a, b, inliers, count, work) or not plausible_affine(work, bounds[0], bounds[1]):
            break
        squared_residuals(work, a, b, residuals)
        count, score = _within(residuals, limit, inliers)
        if score > best:
            best = score
            model[:] = work
        elif shrinking[step] == 1.0:
            break
        if shrinking[step] > 1.0:
            count, _ = _within(residuals, limit * shrinking[step], inliers)
    return best


@njit(cache=True, nogil=True)
def search_affine(
    a: Any, b: Any, zooms: Any, limit: Any, reach: Any, growth: Any, tries: Any, shrinking: Any, bounds: Any,
    out: Any,
) -> Any:  # fmt: skip
    """Try every match as a hypothesis, refine the best, write the map that explains most; return its score, or 0.

    Parameters
    ----------
    a, b : (N, 2) float64
        Matched points.
    zooms : (N,) float32
        Scale of the feature in B over that of the feature in A.
    limit : float
        Largest squared residual of an inlier.
    reach, growth : float32
        What a hypothesis may be off by, squared: `reach` + `growth` times the squared distance from its match.
    tries : int
        Hypotheses that are refined.
    shrinking : (R,) float64
        By what `limit` is multiplied in each round of refinement.
    bounds : (float, float)
        Largest zoom and stretch of a map.
    out : (2, 3) float64
        Overwritten.
    """
    n = len(a)
    ax, ay = a[:, 0].astype(np.float32), a[:, 1].astype(np.float32)
    bx, by = b[:, 0].astype(np.float32), b[:, 1].astype(np.float32)
    supports = np.empty(n, np.float32)
    for h in range(n):
        supports[h] = _support(ax, ay, bx, by, h, zooms[h], reach, growth)
    seen, inliers, residuals = np.zeros(n, np.bool_), np.empty(n, np.bool_), np.empty(n)
    work, model = np.empty((2, 3)), np.empty((2, 3))
    best, tried = 0.0, 0
    for h in np.argsort(-supports, kind="mergesort"):  # of equal ones the first
        if seen[h]:
            continue
        seen[h] = True
        count = _explained(a, b, h, np.float64(zooms[h]), np.float64(reach), np.float64(growth), inliers)
        score = _optimise(a, b, limit, shrinking, bounds, count, inliers, residuals, work, model)
        if score > 0.0:
            # Matches that the refined map explains would lead to it again.
            squared_residuals(model, a, b, residuals)
            for i in range(n):
                seen[i] |= residuals[i] <= limit
        if score > best:
            best = score
            out[:] = model
        tried += 1
        if tried == tries:
            break
    return best
