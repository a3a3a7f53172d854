"""The nearest words of many descriptors on a torch device, where float32 is sure of them: those that a CPU finds.

A score is minus half the squared distance, but for a part that all words share, from one product of matrices that
may sum in any order. Where two of the words, or the last and the next, are nearer to each other than rounding
explains, or a CPU may not have looked into a word's cell, nothing is said. Imported only by what has a device.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.index.codebook.kernels import HALVINGS
from delf_engine.matching.batched import full_float32

Matrix: TypeAlias = npt.NDArray[np.float32]
Columns: TypeAlias = tuple[Matrix, Matrix]

_BYTES = 1 << 28  # of scores at a time
_UNDERFLOW = 1e-30  # below it products may have lost all digits


class DeviceWords:
    """The words of a codebook, and the cells that a fast search on a CPU looks into, on a device.

    Parameters
    ----------
    words : (D W,) float32, (W,) float32
        Columns of the centroids and minus half their squared norms.
    largest : float
        Of their squared norms.
    cells : tuple or None
        As of `CellSearcher.cells`; None: the words of the flat scan are wanted.
    device : str
    """

    def __init__(
        self, words: Columns, largest: float, cells: tuple[Columns, npt.NDArray[np.int32], int] | None, device: str
    ) -> None:
        self._device = torch.device(device)
        self._words, self._largest, self._cells = self._columns(*words), largest, cells is not None
        if cells is not None:
            self._centres, self._probes = self._columns(*cells[0]), cells[2]
            self._cell_of = torch.from_numpy(cells[1]).to(self._device).long()

    def _columns(self, *columns_and_bias: Matrix) -> tuple[Tensor, Tensor]:
        columns, bias = (torch.from_numpy(each).to(self._device) for each in columns_and_bias)
        own = bias > -torch.inf  # not the padding
        return columns.view(-1, len(bias))[:, own], bias[own]

    def nearest(self, data: Matrix, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return the k nearest words of each descriptor, (N, D), as (N, k), and whether they are sure, (N,).

        None are where the device has no memory left.
        """
        step = max(1, _BYTES // (4 * self._words[0].shape[1]))
        try:
            found = [self._block(part, k) for part in torch.tensor(data, device=self._device).split(step)]
            words, sure = (torch.cat(each).cpu().numpy() for each in zip(*found, strict=True))  # waits once
        except torch.cuda.OutOfMemoryError:
            return np.zeros((len(data), k), np.int32), np.zeros(len(data), bool)
        return words, sure

    def _block(self, data: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, found = self._scores(data, self._words), []
        for _ in range(k + 1):  # topk would read the scores more often
            found.append(scores.max(1, keepdim=True))
            scores.scatter_(1, found[-1].indices, -torch.inf)
        best, words = (torch.cat(each, 1) for each in zip(*found, strict=True))
        words = words[:, :k]
        # Twice what the sums of two scores, there and here, can be off by.
        margin = 8 * (data.shape[1] + 4) * 2.0**-24 * (data.double().square().sum(1) + self._largest) + _UNDERFLOW
        sure = (best[:, :k].double() - best[:, 1:] > margin[:, None]).all(1)
        if self._cells:
            scores = self._scores(data, self._centres)
            low, high = (each.double() for each in scores.aminmax(dim=1))
            # `kernels.probe` takes all cells above a limit, found to one part in 4,096 of the span, that no more
            # than so many reach: a cell that is above it for certain has been looked into.
            limit = scores.gather(1, self._cell_of[words]).amin(1).double()
            limit -= 1.01 * (high - low) / 2**HALVINGS + margin
            sure &= (limit > low) & ((scores > limit[:, None]).sum(1) <= self._probes)
        return words.int(), sure

    def _scores(self, data: Tensor, columns: tuple[Tensor, Tensor]) -> Tensor:
        with full_float32(self._device):
            return torch.addmm(columns[1], data, columns[0])
