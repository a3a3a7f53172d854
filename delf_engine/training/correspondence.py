"""Cells of one view and their true places in the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.training.batches import Step

Supports = Sequence[npt.NDArray[np.float64] | None]


@dataclass(frozen=True)
class CellSample:
    """Cells drawn from the first views of a batch of pairs."""

    pair: Tensor  # (N,) int64: the pair each belongs to
    cell: Tensor  # (N,) int64: its index in the flattened map
    place: Tensor  # (N, 2) float32: x, y of its true place in the second view, in pixels


@dataclass(frozen=True)
class Direction:
    """The pairs of a step, looked at from one side."""

    # (B, C, h, w), features of both views.
    first: Tensor
    second: Tensor
    homographies: npt.NDArray[np.float64]  # (B, 3, 3) float64: pixels of the first view to pixels of the second
    # (M, 2) float64 or None of each pair: points of the first view near which the homography is trusted.
    supports: Supports | None
    groups: Tensor | None  # (B,) int64: place of each pair

    def sample(self, step: Step, count: int, support_px: float) -> CellSample:
        """Draw up to `count` cells of each first view; see `sample_cells`."""
        drawn = sample_cells(
            self.homographies,
            (self.first.shape[2], self.first.shape[3]),
            size=step.batch.size,
            stride=step.network.stride,
            count=count,
            rng=step.rng,
            supports=self.supports,
            support_px=support_px,
        )
        device = self.first.device
        return CellSample(*(x.to(device, non_blocking=True) for x in (drawn.pair, drawn.cell, drawn.place)))


def directions(step: Step, features: Tensor | None = None) -> Iterator[Direction]:
    """Yield the pairs of a step from first to second views, then from second to first; None: of its features."""
    first, second = (step.features if features is None else features).chunk(2)
    forward, supports = step.batch.homographies, step.batch.supports
    assert forward is not None, "a batch of pairs has homographies"
    groups = (
        None
        if step.batch.groups is None
        else torch.from_numpy(step.batch.groups).to(first.device, non_blocking=True)
    )
    yield Direction(first, second, forward, supports, groups)
    moved: Supports | None = None
    if supports is not None:
        moved = [
            None if points is None else project(h, points) for h, points in zip(forward, supports, strict=True)
        ]
    yield Direction(second, first, np.asarray(np.linalg.inv(forward), dtype=np.float64), moved, groups)


def project(homography: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Map (N, 2) points by a homography; those on or behind the horizon become NaN."""
    moved = np.c_[points, np.ones(len(points))] @ homography.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(moved[:, 2:] > 0, moved[:, :2] / moved[:, 2:], np.nan)


def cell_grid(height: int, width: int, stride: int) -> npt.NDArray[np.float64]:
    """Return the (height * width, 2) centres x, y of the cells of a map, row by row."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x.ravel(), y.ravel()], 1) * float(stride)


def sample_cells(
    homographies: npt.NDArray[np.float64],
    shape: tuple[int, int],
    *,
    size: int,
    stride: int,
    count: int,
    rng: np.random.Generator,
    supports: Supports | None = None,
    support_px: float = 32.0,
) -> CellSample:
    """Draw up to `count` cells of each first view whose true place lies inside the second.

    `homographies`, (B, 3, 3) float64, lead from first to second views of `size` pixels a side, whose maps have the
    `shape` (h, w). Cells farther than `support_px` from all of its `supports`, (M, 2), are not drawn of a pair.
    """
    grid = cell_grid(*shape, stride)
    pair, cell, place = [], [], []
    for i, homography in enumerate(homographies):
        places = project(homography, grid)
        with np.errstate(invalid="ignore"):
            eligible = (places >= 0).all(1) & (places <= size - 1).all(1)
        points = None if supports is None else supports[i]
        if points is not None:
            eligible &= _near(grid, points, support_px)
        drawn = rng.permutation(np.flatnonzero(eligible))[:count]
        pair.append(np.full(len(drawn), i, np.int64))
        cell.append(drawn)
        place.append(places[drawn].astype(np.float32))
    return CellSample(*(torch.from_numpy(np.concatenate(parts)) for parts in (pair, cell, place)))


def cell_vectors(maps: Tensor, sample: CellSample) -> Tensor:
    """Return the (N, C) vectors of the sampled cells of (B, C, h, w) first views."""
    return _rows(maps, sample.pair, sample.cell)


def sample_at(maps: Tensor, sample: CellSample, *, stride: int) -> Tensor:
    """Return the (N, C) vectors at the true places in (B, C, h, w) second views, bilinear between cells."""
    height, width = maps.shape[2:]
    pair, place = sample.pair, sample.place
    x = (place[:, 0] / stride).clamp(0, width - 1)
    y = (place[:, 1] / stride).clamp(0, height - 1)
    x0, y0 = x.floor().long(), y.floor().long()
    x1, y1 = (x0 + 1).clamp_max(width - 1), (y0 + 1).clamp_max(height - 1)
    right, down = (x - x0)[:, None], (y - y0)[:, None]
    upper = _rows(maps, pair, y0 * width + x0) * (1 - right) + _rows(maps, pair, y0 * width + x1) * right
    lower = _rows(maps, pair, y1 * width + x0) * (1 - right) + _rows(maps, pair, y1 * width + x1) * right
    return upper * (1 - down) + lower * down


def same_group(groups: Tensor | None, ours: Tensor, theirs: Tensor) -> Tensor | None:
    """Say which pairs `theirs`, (M,), show the place of which `ours`, (N,), and are not the same; None: none."""
    if groups is None:
        return None
    return (groups[ours][:, None] == groups[theirs][None]) & (ours[:, None] != theirs[None])


def _rows(maps: Tensor, pair: Tensor, cell: Tensor) -> Tensor:
    flat = maps.flatten(2).transpose(1, 2)
    return flat.reshape(-1, maps.shape[1]).index_select(0, pair * flat.shape[1] + cell)


def _near(grid: npt.NDArray[np.float64], points: npt.NDArray[np.float64], radius: float) -> npt.NDArray[np.bool_]:
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        return np.zeros(len(grid), np.bool_)
    squared = ((grid[:, None] - finite[None]) ** 2).sum(2)
    return np.asarray(squared.min(1) <= radius**2)
