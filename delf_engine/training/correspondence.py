"""Cells of one view and their true places in the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CellSample", "cell_grid", "cell_vectors", "sample_at", "sample_cells"]


@dataclass(frozen=True)
class CellSample:
    """Cells drawn from the first views of a batch of pairs.

    Attributes
    ----------
    pair : (N,) int64 tensor
        The pair each belongs to.
    cell : (N,) int64 tensor
        Its index in the flattened map.
    place : (N, 2) float32 tensor
        x, y of its true place in the second view, in pixels.
    """

    pair: Tensor
    cell: Tensor
    place: Tensor


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
) -> CellSample:
    """Draw up to `count` cells of each first view whose true place lies inside the second.

    Parameters
    ----------
    homographies : (B, 3, 3) float64
        First to second view.
    shape : (h, w)
        Of the maps.
    size : int
        Side of a view, pixels.
    """
    grid = cell_grid(*shape, stride)
    projected = np.einsum("bij,nj->bni", homographies, np.c_[grid, np.ones(len(grid))])
    with np.errstate(divide="ignore", invalid="ignore"):
        places = projected[..., :2] / projected[..., 2:]
    inside = (projected[..., 2] > 0) & (places >= 0).all(2) & (places <= size - 1).all(2)
    pair, cell = [], []
    for i, eligible in enumerate(inside):
        drawn = rng.permutation(np.flatnonzero(eligible))[:count]
        pair.append(np.full(len(drawn), i))
        cell.append(drawn)
    pairs, cells = np.concatenate(pair), np.concatenate(cell)
    return CellSample(
        torch.from_numpy(pairs), torch.from_numpy(cells), torch.from_numpy(places[pairs, cells].astype(np.float32))
    )


def cell_vectors(maps: Tensor, sample: CellSample) -> Tensor:
    """Return the (N, C) vectors of the sampled cells of (B, C, h, w) first views."""
    return maps.flatten(2).transpose(1, 2)[sample.pair, sample.cell]


def sample_at(maps: Tensor, sample: CellSample, *, stride: int) -> Tensor:
    """Return the (N, C) vectors at the true places in (B, C, h, w) second views, bilinear between cells."""
    height, width = maps.shape[2:]
    cells = sample.place / stride
    # grid_sample with align_corners=True: -1 is the first cell's centre, 1 the last one's.
    grid = cells / torch.tensor([width - 1, height - 1]) * 2 - 1
    vectors = maps.new_empty((len(grid), maps.shape[1]))
    for i in range(len(maps)):
        mine = torch.nonzero(sample.pair == i).squeeze(1)
        got = F.grid_sample(maps[i : i + 1], grid[mine][None, :, None], align_corners=True, padding_mode="border")
        vectors = vectors.index_copy(0, mine, got[0, :, :, 0].T)
    return vectors
