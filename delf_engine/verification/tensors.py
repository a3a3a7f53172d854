"""The exhaustive affine search of many pairs at once, as tensors: what `affine` and `kernels` do for one.

Names and steps are those of `kernels`, where they are explained. P pairs have M places each, of which `own`,
(P, M) bool, are matches; the others may hold anything finite. As there, the support of hypotheses is in float32,
all else in float64; sums are taken in any order. There the hypotheses of a pair are tried one after the other, in
the order of their support, but for those that a refined map explains. Here a wave refines the next eight of every
pair together, and drops afterwards, as untried, those that one before them explains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from delf_engine.verification.affine import GROWTH, ROUNDS, SLACK, TRIES
from delf_engine.verification.geometry import COLLINEAR, MAX_STRETCH, MAX_ZOOM
from delf_engine.verification.kernels import FLAT, MIN_AFFINE


class BatchFit(NamedTuple):
    """Whether each of P pairs has a fit, (P,), its map, (P, 2, 3), inliers, (P, M), and residuals in pixels."""

    found: Tensor
    transform: Tensor
    inliers: Tensor
    residuals: Tensor


def fit_batch(
    points: Tensor, scales: Tensor, own: Tensor, *, threshold: float, minimum: int, room: int
) -> BatchFit:
    """Do what `models.estimate` does with the exhaustive estimator of affine maps.

    Parameters
    ----------
    points : (P, M, 4) float64
        x, y in A, and x, y in B.
    scales : (P, M, 2) float64
        Of the features, in A and in B.
    own : (P, M) bool
    threshold : float
        Largest residual of an inlier, in pixels.
    minimum : int
        Different matches that are evidence.
    room : int
        Bytes that intermediate results may take.
    """
    sound = ~_degenerate(points, own, minimum)
    zooms = (scales[..., 1] / scales[..., 0]).clamp(1 / MAX_ZOOM, MAX_ZOOM).float()
    reach, growth = float(np.float32((SLACK * threshold) ** 2)), float(np.float32(GROWTH**2))
    support = torch.empty_like(zooms)
    step = max(1, room // (48 * max(1, own.shape[1]) ** 2))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        support[part] = _support(points[part].float(), zooms[part], own[part], reach, growth)
    order = support.masked_fill_(~own, -1).sort(dim=1, descending=True, stable=True).indices
    found, transform = _search(
        points.gather(1, order[:, :, None].expand(-1, -1, 4)),
        zooms.gather(1, order).double(),
        own.gather(1, order) & sound[:, None],
        threshold**2,
        reach,
        growth,
    )
    residuals = _squared_residuals(transform[:, None], points)[:, 0].clamp(min=0).sqrt()
    inliers = own & found[:, None] & (residuals <= threshold)
    return BatchFit(found & ~_degenerate(points, inliers, minimum), transform, inliers, residuals)


def occupied_bins(points: Tensor, chosen: Tensor, side: float) -> Tensor:
    """Return what `geometry.occupied_bins` does of the chosen, (P, M) bool, of points, (P, M, 2): (P,)."""
    x, y = ((points + 0.5) / side).floor().unbind(-1)
    alike = (x[:, :, None] == x[:, None]) & (y[:, :, None] == y[:, None]) & chosen[:, None]
    return (chosen & ~alike.tril(-1).any(2)).sum(1)


def _support(points: Tensor, zooms: Tensor, own: Tensor, reach: float, growth: float) -> Tensor:
    """Return how well each match, with its zoom, explains all matches: (P, M) float32, for (P, M, 4) float32."""
    ax, ay, bx, by = points.unbind(-1)
    z = zooms[:, :, None]
    far = sum((c[:, None] - c[:, :, None]).square_() for c in (ax, ay, bx, by))
    ex, ey = ((v[:, None] - z * u[:, None]).sub_((v - zooms * u)[:, :, None]) for u, v in ((ax, bx), (ay, by)))
    lost = ex.square_().add_(ey.square_()).mul_(1 / (z * z + 1)).div_(far * growth + reach)
    kept = (1 - lost).masked_fill_(~own[:, None], 0)
    # In float64 sums of such numbers are nearly always exact: they do not depend on how many pairs there are.
    return torch.where(kept > 0, kept, 0).sum(2, dtype=torch.float64).float()


def _search(
    points: Tensor, zooms: Tensor, own: Tensor, limit: float, reach: float, growth: float
) -> tuple[Tensor, Tensor]:
    """Do what `kernels.search_affine` does, of matches in the order of their support: (P,) bool, (P, 2, 3)."""
    pairs, count = own.shape
    places = torch.arange(count, device=own.device)
    seen, tried = ~own, torch.zeros(pairs, dtype=torch.int64, device=own.device)
    best, out = points.new_zeros(pairs), points.new_zeros(pairs, 2, 3)
    while len(at := ((tried < TRIES) & ~seen.all(1)).nonzero()[:, 0]):
        some, ours, hidden = points[at], own[at], seen[at]
        ahead = torch.where(hidden, count, places).sort(dim=1).values[:, :TRIES]
        picked, real = ahead.clamp(max=count - 1), ahead < count
        start = _explained(some, picked, zooms[at].gather(1, picked), reach, growth)
        score, model = _optimise(some, ours, start & ours[:, None] & real[:, :, None], limit)
        close = (_squared_residuals(model, some) <= limit) & (score > 0)[:, :, None]
        close |= places == picked[:, :, None]
        goes, explains = real.clone(), close.gather(2, picked[:, None].expand(-1, ahead.shape[1], -1))
        for k in range(1, ahead.shape[1]):
            goes[:, k] &= ~(goes[:, :k] & explains[:, :k, k]).any(1)
        goes &= goes.cumsum(1) + tried[at, None] <= TRIES
        top, first = torch.where(goes, score, 0.0).max(1)
        better = top > best[at]
        best[at] = torch.where(better, top, best[at])
        out[at] = torch.where(
            better[:, None, None], model[torch.arange(len(at), device=at.device), first], out[at]
        )
        seen[at] = hidden | (close & goes[:, :, None]).any(1)
        tried[at] += goes.sum(1)
    return (best > 0) & out.isfinite().all(2).all(1) & _plausible(out), out


def _explained(points: Tensor, picked: Tensor, zooms: Tensor, reach: float, growth: float) -> Tensor:
    """Tell which matches the picked ones, (P, K), explain with their zooms: (P, K, M)."""
    own = points.gather(1, picked[:, :, None].expand(-1, -1, 4))
    dx, dy, gx, gy = (points[:, None] - own[:, :, None]).unbind(-1)
    z = zooms[:, :, None]
    ex, ey = gx - z * dx, gy - z * dy
    far = dx * dx + dy * dy + gx * gx + gy * gy
    return (ex * ex + ey * ey) * (1.0 / (z * z + 1.0)) <= reach + growth * far


def _optimise(points: Tensor, own: Tensor, inliers: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Refine maps, from the inliers, (P, K, M), of each; return their scores, (P, K), and maps, (P, K, 2, 3)."""
    best, model = points.new_zeros(inliers.shape[:2]), points.new_zeros(*inliers.shape[:2], 2, 3)
    alive = torch.ones_like(best, dtype=torch.bool)
    for shrinking in (ROUNDS**2).tolist():
        fitted, maps = _fit(points, inliers)
        alive = alive & fitted & _plausible(maps)
        residuals = _squared_residuals(maps, points)
        score = torch.where(own[:, None] & (residuals <= limit), 1.0 - residuals / limit, 0.0).sum(2)
        better = alive & (score > best)
        best = torch.where(better, score, best)
        model = torch.where(better[:, :, None, None], maps, model)
        if shrinking == 1.0:
            alive = better
        inliers = own[:, None] & (residuals <= limit * shrinking)
    return best, model


def _fit(points: Tensor, inliers: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a map to the inliers of each hypothesis: whether there is one, (P, K), and the maps, (P, K, 2, 3)."""
    count, mean, scatter = _scatter(points, inliers)
    of_a, across = scatter[..., :2, :2], scatter[..., 2:, :2]
    size, area = of_a.diagonal(dim1=-2, dim2=-1).sum(-1), _determinant(of_a)
    affine = (count >= MIN_AFFINE) & (area > FLAT * size * size)
    size, area = size[..., None, None], area[..., None, None]
    linear = torch.where(
        affine[..., None, None], across @ _cofactors(of_a) / area, (across + _cofactors(across)) / size
    )
    shift = mean[..., 2:, None] - linear @ mean[..., :2, None]
    return (count >= 2) & (size[..., 0, 0] > 0), torch.cat([linear, shift], -1)


def _squared_residuals(maps: Tensor, points: Tensor) -> Tensor:
    """Return the squared Sampson distances, (P, K, M), of matches, (P, M, 4), from affine maps, (P, K, 2, 3)."""
    linear, shift = maps[..., :2], maps[..., 2:]
    one = torch.eye(2, dtype=maps.dtype, device=maps.device)
    cov = linear @ linear.transpose(-1, -2) + one
    off = torch.cat([linear, -one.expand_as(linear)], -1) @ points.transpose(-1, -2)[:, None] + shift
    # At least 1: the matrix has 1 added on its diagonal, and its cofactors are its inverse but for that factor.
    return (off * (_cofactors(cov) @ off)).sum(-2) / _determinant(cov)[..., None]


def _plausible(maps: Tensor) -> Tensor:
    """Do what `kernels.plausible_affine` does, for maps (..., 2, 3)."""
    linear = maps[..., :2]
    area, squares = _determinant(linear), linear.square().sum((-2, -1))
    return (area > MAX_ZOOM**-2) & (area < MAX_ZOOM**2) & (squares < area * (MAX_STRETCH + 1 / MAX_STRETCH))


def _degenerate(points: Tensor, own: Tensor, minimum: int) -> Tensor:
    """Do what `geometry.is_degenerate` does, of the matches of each pair that are its own: (P,) bool."""
    left, different = own, torch.zeros(len(own), dtype=torch.int64, device=own.device)
    for _ in range(minimum):  # take one, and all that are equal to it
        different += left.any(1)
        one = left.byte().argmax(1)
        left = left & (points != points.gather(1, one[:, None, None].expand(-1, 1, 4))).any(2)
    flat = different < minimum
    _, _, scatter = _scatter(points, own[:, None])
    for of_side in (scatter[:, 0, :2, :2], scatter[:, 0, 2:, 2:]):
        total = of_side.diagonal(dim1=-2, dim2=-1).sum(-1)
        flat |= ~((total > 0) & (_determinant(of_side) / total / total > COLLINEAR**2))  # true for NaN, too
    return flat


def _scatter(points: Tensor, inliers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many inliers, (P, K, M), there are, their mean, (P, K, 4), and their scatter, (P, K, 4, 4)."""
    count = inliers.sum(-1)
    mean = (inliers.double() @ points) / count[..., None]
    apart = torch.where(inliers[..., None], points[:, None] - mean[:, :, None], 0.0)
    return count, mean, apart.transpose(-1, -2) @ apart


def _cofactors(m: Tensor) -> Tensor:
    """Return the cofactors of matrices, (..., 2, 2): where they are symmetric, determinant times inverse."""
    a, b, c, d = m.flatten(-2).unbind(-1)
    return torch.stack([d, -c, -b, a], -1).unflatten(-1, (2, 2))


def _determinant(m: Tensor) -> Tensor:
    return m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
