"""The exhaustive affine verifier once more, plainly: all of it in float64, whole matrices, nobody's shortcuts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SLACK, GROWTH, TRIES = 2.0, 0.1, 8
ROUNDS = (2.0, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0, 1.0)
MAX_ZOOM, MAX_STRETCH = 10.0, 8.0
MIN_AFFINE, FLAT = 6, 1e-4


def search(a: Float64, b: Float64, scales_a: Float64, scales_b: Float64, threshold: float) -> Float64 | None:
    """Return the map, (3, 3), or None."""
    zooms = np.clip(scales_b / scales_a, 1 / MAX_ZOOM, MAX_ZOOM)
    losses = hypothesis_losses(a, b, zooms, threshold)
    supports = np.maximum(0, 1 - losses).sum(axis=1)
    left = [int(h) for h in np.argsort(-supports, kind="stable")]
    best, best_score = None, 0.0
    for _ in range(TRIES):
        if not left:
            break
        h = left.pop(0)
        model = optimise(a, b, losses[h] <= 1, threshold)
        if model is None:
            continue
        explained = residuals(model, a, b) <= threshold
        left = [k for k in left if not explained[k]]
        if score(model, a, b, threshold) > best_score:
            best, best_score = model, score(model, a, b, threshold)
    return best


def hypothesis_losses(a: Float64, b: Float64, zooms: Float64, threshold: float) -> Float64:
    """Return the squared Sampson distance of each match from each hypothesis, (N, N), over what it may be."""
    from_a, from_b = a - a[:, None], b - b[:, None]  # [h, i]: from match h to match i
    errors = ((from_b - zooms[:, None, None] * from_a) ** 2).sum(axis=2) / (zooms[:, None] ** 2 + 1)
    allowed = (SLACK * threshold) ** 2 + GROWTH**2 * ((from_a**2).sum(axis=2) + (from_b**2).sum(axis=2))
    return np.asarray(errors / allowed)


def optimise(a: Float64, b: Float64, inliers: Mask, threshold: float) -> Float64 | None:
    """Return the best of the maps that repeated fits lead to, with a limit that shrinks to the threshold."""
    best, best_score = None, 0.0
    for wider in ROUNDS:
        model = fit(a[inliers], b[inliers])
        if model is None or not camera_could(model):
            break
        found = score(model, a, b, threshold)
        if found > best_score:
            best, best_score = model, found
        elif wider == 1:
            break
        inliers = residuals(model, a, b) <= threshold * wider
    return best


def fit(a: Float64, b: Float64) -> Float64 | None:
    """Return the affine map, or where matches are few or in a line the similarity, of least squares in B."""
    if len(a) < 2 or not np.ptp(a, axis=0).any():
        return None
    centre_a, centre_b = a.mean(axis=0), b.mean(axis=0)
    p, q = a - centre_a, b - centre_b
    along, across = np.linalg.eigvalsh(p.T @ p)[::-1]
    if len(a) >= MIN_AFFINE and along * across > FLAT * (along + across) ** 2:
        linear = np.linalg.lstsq(p, q, rcond=None)[0].T
    else:  # one complex factor: z -> f z
        z, w = p @ [1, 1j], q @ [1, 1j]
        f = np.vdot(z, w) / np.vdot(z, z).real
        linear = np.array([[f.real, -f.imag], [f.imag, f.real]])
    model = np.eye(3)
    model[:2, :2], model[:2, 2] = linear, centre_b - linear @ centre_a
    return model


def camera_could(model: Float64) -> bool:
    """Tell whether a map keeps the orientation and zooms and squeezes within the limits."""
    large, small = np.linalg.svd(model[:2, :2])[1]
    upright = np.linalg.det(model[:2, :2]) > 0
    return bool(upright and 1 / MAX_ZOOM**2 < large * small < MAX_ZOOM**2 and large < MAX_STRETCH * small)


def residuals(model: Float64, a: Float64, b: Float64) -> Float64:
    """Return by how much each match, as a point of four dimensions, must be moved to fit."""
    linear = model[:2, :2]
    errors = a @ linear.T + model[:2, 2] - b
    return np.sqrt(np.einsum("ni,ij,nj->n", errors, np.linalg.inv(np.eye(2) + linear @ linear.T), errors))


def score(model: Float64 | None, a: Float64, b: Float64, threshold: float) -> float:
    """Return what the inliers leave of the squared threshold, summed up, each from 0 to 1; 0 for no map."""
    if model is None:
        return 0.0
    return float(np.maximum(0, 1 - (residuals(model, a, b) / threshold) ** 2).sum())
