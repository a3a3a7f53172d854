"""Affine estimators of our own: seeded or without chance, free of global state, exact about their residual.

RANSAC: OpenCV's `estimateAffine2D` ignores any seed and measures in one image only; the published pipelines use
scikit-image's `ransac(AffineTransform, min_samples=3)`, whose sampling this follows. All hypotheses of a block are
judged at once; a new best one is refined by total least squares on its inliers (Chum, Matas and Kittler,
Locally Optimized RANSAC, 2003).

Exhaustive: every match is a hypothesis. A feature has a scale and photographs stand upright, so one match fixes a
zoom and a shift (Philbin et al., Object Retrieval with Large Vocabularies and Fast Spatial Matching, CVPR 2007).
All matches are tried as such hypotheses against all others, in time N^2; the best are refined to affine maps by
least squares on their inliers, with a limit that shrinks to the threshold. Hypotheses whose match a refined map
already explains are left out. The constants were written down before they were measured; on Sub-RParis others near
them do as well.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from delf_engine.verification.geometry import MAX_STRETCH, MAX_ZOOM, plausible

Float64 = npt.NDArray[np.float64]

_BLOCK = 128
_REFINEMENTS = 10
# A sample whose triangle has an angle with a smaller sine is as good as collinear.
_MIN_SINE = 1e-3

#: A hypothesis may be off by twice the threshold, and by a tenth of the distance from its match.
SLACK, GROWTH = 2.0, 0.1
#: Hypotheses that are refined, and by what the threshold is multiplied in each round.
TRIES, ROUNDS = 8, np.array([2.0, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0, 1.0])


def ransac_affine(
    a: Float64, b: Float64, *, threshold: float, max_iterations: int, confidence: float, seed: int
) -> Float64 | None:
    """Return the affine map from A to B, (3, 3), that most matches agree with; None without a plausible sample.

    Hypotheses are ranked by the truncated squared residual (MSAC; Torr and Zisserman 2000).

    Parameters
    ----------
    a, b : (N, 2) float64
        Matched points, N >= 3.
    threshold : float
        Largest residual of an inlier, in pixels (Sampson distance, which is exact here).
    max_iterations : int
        Samples of three matches, at most.
    confidence : float
        Sampling stops once a better map is this unlikely to have been missed.
    """
    rng = np.random.default_rng(seed)
    best: Float64 | None = None
    best_score, needed, done = 0.0, float(max_iterations), 0
    while done < min(needed, max_iterations):
        count = min(_BLOCK, max_iterations - done)
        done += count
        maps = _through(a, b, _sample(rng, len(a), count))
        if not len(maps):
            continue
        scores = _score(maps, a, b, threshold)
        first = int(scores.argmax())
        if scores[first] <= best_score:
            continue
        best, best_score = _refined(maps[first], float(scores[first]), a, b, threshold)
        needed = _iterations_needed(_inliers(best, a, b, threshold), confidence)
    return best


def exhaustive_affine(
    a: Float64, b: Float64, scales_a: npt.ArrayLike, scales_b: npt.ArrayLike, *, threshold: float
) -> Float64 | None:
    """Return the affine map from A to B, (3, 3), that matches agree with; None if no hypothesis leads to one.

    The same bits for the same matches, (N, 2) float64 each, in the same order, on one kind of processor. Scales of
    the matched features are in the unit of the points: their ratio is the zoom of a hypothesis. `threshold` is the
    largest residual of an inlier, in pixels (Sampson distance, which is exact here), 1e-9 to 1e9.
    """
    from delf_engine.verification.kernels import search_affine

    zooms = np.asarray(scales_b, np.float64) / np.asarray(scales_a, np.float64)
    zooms = np.clip(zooms, 1 / MAX_ZOOM, MAX_ZOOM).astype(np.float32)
    out = np.zeros((3, 3))
    out[2, 2] = 1
    threshold = float(threshold)  # an integer would compile the kernels again
    reach, growth = np.float32((SLACK * threshold) ** 2), np.float32(GROWTH**2)
    bounds = (MAX_ZOOM, MAX_STRETCH)
    score = search_affine(a, b, zooms, threshold**2, reach, growth, TRIES, ROUNDS**2, bounds, out[:2])
    return out if score > 0 and np.isfinite(out).all() else None


def fit_least_squares(a: Float64, b: Float64) -> Float64 | None:
    """Return the affine map, (3, 3), with the least squared Sampson distances of matches, (N, 2) each, or None.

    The matches as points of four dimensions lie near a plane; its normals are the two weakest principal axes
    (Hartley and Zisserman, algorithm 4.7).
    """
    points = np.hstack([a, b])
    centre = points.mean(axis=0)
    points = points - centre
    try:
        # einsum, not BLAS: the same bits with any number of threads.
        normals = np.linalg.eigh(np.einsum("ni,nj->ij", points, points))[1][:, :2].T
        linear = -np.linalg.solve(normals[:, 2:], normals[:, :2])
    except np.linalg.LinAlgError:
        return None
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = centre[2:] - linear @ centre[:2]
    return out if np.isfinite(out).all() else None


def _sample(rng: np.random.Generator, n: int, count: int) -> npt.NDArray[np.int64]:
    """Draw `count` triples of three different numbers below `n`."""
    i = rng.integers(0, [n, n - 1, n - 2], (count, 3))
    i[:, 1] += i[:, 1] >= i[:, 0]
    low, high = np.minimum(i[:, 0], i[:, 1]), np.maximum(i[:, 0], i[:, 1])
    i[:, 2] += i[:, 2] >= low
    i[:, 2] += i[:, 2] >= high
    return i


def _through(a: Float64, b: Float64, triples: npt.NDArray[np.int64]) -> Float64:
    """Return the plausible ones, (K, 3, 3), of the affine maps through each triple of matches."""
    origin_a, origin_b = a[triples[:, 0]], b[triples[:, 0]]
    d = a[triples[:, 1:]] - origin_a[:, None]
    e = b[triples[:, 1:]] - origin_b[:, None]
    maps = np.zeros((len(triples), 3, 3))
    maps[:, 2, 2] = 1
    with np.errstate(all="ignore"):
        area = d[:, 0, 0] * d[:, 1, 1] - d[:, 0, 1] * d[:, 1, 0]
        for row in range(2):
            maps[:, row, 0] = (e[:, 0, row] * d[:, 1, 1] - e[:, 1, row] * d[:, 0, 1]) / area
            maps[:, row, 1] = (e[:, 1, row] * d[:, 0, 0] - e[:, 0, row] * d[:, 1, 0]) / area
            maps[:, row, 2] = (
                origin_b[:, row] - maps[:, row, 0] * origin_a[:, 0] - maps[:, row, 1] * origin_a[:, 1]
            )
        lengths = np.sqrt((d * d).sum(axis=2))
        sound = np.abs(area) > _MIN_SINE * lengths[:, 0] * lengths[:, 1]
    sound &= np.isfinite(maps).all(axis=(1, 2))
    sound &= plausible(maps, a[:1])[:, 0]  # an affine map is alike everywhere: one point is enough
    return np.asarray(maps[sound])


def _squared_residuals(maps: Float64, a: Float64, b: Float64) -> Float64:
    """Return what `planar_residuals` does, squared, at a quarter of the work: (..., N) for maps (..., 3, 3)."""
    m = [[maps[..., i, j, None] for j in range(3)] for i in range(2)]
    with np.errstate(all="ignore"):
        m11 = m[0][0] ** 2 + m[0][1] ** 2 + 1
        m22 = m[1][0] ** 2 + m[1][1] ** 2 + 1
        m12 = m[0][0] * m[1][0] + m[0][1] * m[1][1]
        scale = 1 / (m11 * m22 - m12 * m12)
        e1 = m[0][0] * a[:, 0] + m[0][1] * a[:, 1] + (m[0][2] - b[:, 0])
        e2 = m[1][0] * a[:, 0] + m[1][1] * a[:, 1] + (m[1][2] - b[:, 1])
        return np.asarray((m22 * scale * e1 - 2 * m12 * scale * e2) * e1 + m11 * scale * e2 * e2)


def _score(maps: Float64, a: Float64, b: Float64, threshold: float) -> Float64:
    lost = _squared_residuals(maps, a, b) / threshold**2
    return np.asarray(1 - np.fmin(lost, 1)).sum(axis=-1)  # fmin: a residual beyond floats is lost too


def _inliers(model: Float64, a: Float64, b: Float64, threshold: float) -> npt.NDArray[np.bool_]:
    return np.asarray(_squared_residuals(model, a, b) <= threshold**2)


def _iterations_needed(inliers: npt.NDArray[np.bool_], confidence: float) -> float:
    share = float(inliers.mean())
    if share in (0, 1):
        return math.inf if share == 0 else 0
    return math.log(1 - confidence) / math.log1p(-(share**3))


def _refined(best: Float64, score: float, a: Float64, b: Float64, threshold: float) -> tuple[Float64, float]:
    for _ in range(_REFINEMENTS):
        inliers = _inliers(best, a, b, threshold)
        fitted = fit_least_squares(a[inliers], b[inliers]) if inliers.sum() > 3 else None
        if fitted is None or not plausible(fitted, a[:1])[0]:
            break
        fitted_score = float(_score(fitted, a, b, threshold))
        if fitted_score <= score:
            break
        best, score = fitted, fitted_score
    return best, score
