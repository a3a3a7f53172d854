"""The nearest word of many descriptors on a torch device, where float32 is sure of it: the word that a CPU finds.

A score is minus half the squared distance, but for a part that all words share, from one product of matrices that
may sum in any order. Where another word comes nearer than rounding explains, or a CPU may not have looked into the
word's cell, nothing is said. Imported only by what has a device.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.index.codebook.kernels import HALVINGS
from delf_engine.matching.batched import full_float32

Matrix: TypeAlias = npt.NDArray[np.float32]

_BYTES = 1 << 28  # of scores at a time
_UNDERFLOW = 1e-30  # below it products may have lost all digits


class Cells(NamedTuple):
    """Those of a `CellSearcher`: centres as columns and bias, the cell of each word, how many are probed."""

    centres: tuple[Matrix, Matrix]
    of_words: npt.NDArray[np.int32]
    probes: int


class DeviceWords:
    """The words of a codebook, and the cells that a fast search on a CPU looks into, on a device.

    Parameters
    ----------
    words : (D W,) float32, (W,) float32
        Columns of the centroids and minus half their squared norms.
    largest : float
        Of their squared norms.
    cells : Cells or None
        None: the words of the flat scan are wanted.
    device : str
    """

    def __init__(self, words: tuple[Matrix, Matrix], largest: float, cells: Cells | None, device: str) -> None:
        self._device = torch.device(device)
        self._words = self._columns(*words)
        self._largest = largest
        self._cells = cells
        if cells is not None:
            self._centres = self._columns(*cells.centres)
            self._cell_of = torch.from_numpy(cells.of_words).to(self._device).long()

    def _columns(self, columns: Matrix, bias: Matrix) -> tuple[Tensor, Tensor]:
        own = bias > -np.inf  # not the padding
        both = columns.reshape(-1, len(bias))[:, own], bias[own]
        return torch.from_numpy(both[0]).to(self._device), torch.from_numpy(both[1]).to(self._device)

    def nearest(self, data: Matrix) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return the nearest word of each descriptor, (N, D), and whether it is sure, (N,) each.

        None is sure where the device has no memory left.
        """
        words, sure = np.zeros(len(data), np.int32), np.zeros(len(data), bool)
        step = max(1, _BYTES // (4 * self._words[0].shape[1]))
        try:
            with full_float32():
                for start in range(0, len(data), step):
                    block = slice(start, start + step)
                    found = self._block(torch.from_numpy(data[block]).to(self._device))
                    words[block], sure[block] = (each.cpu().numpy() for each in found)
        except torch.cuda.OutOfMemoryError:
            sure[:] = False
        return words, sure

    def _block(self, data: Tensor) -> tuple[Tensor, Tensor]:
        scores = _scores(data, self._words)
        best, words = scores.max(1)
        second = scores.scatter_(1, words[:, None], -torch.inf).amax(1)
        # Twice what the sums of two scores, there and here, can be off by.
        margin = 8 * (data.shape[1] + 4) * 2.0**-24 * (data.double().square().sum(1) + self._largest) + _UNDERFLOW
        sure = best.double() - second > margin
        if self._cells is not None:
            scores = _scores(data, self._centres)
            low, high = (each.double() for each in scores.aminmax(dim=1))
            # `kernels.probe` takes all cells above a limit, found to one part in 4,096 of the span, that no more
            # than so many reach: a cell that is above it for certain has been looked into.
            limit = scores.gather(1, self._cell_of[words][:, None])[:, 0].double()
            limit -= 1.01 * (high - low) / 2**HALVINGS + margin
            sure &= (limit > low) & ((scores > limit[:, None]).sum(1) <= self._cells.probes)
        return words.int(), sure


def _scores(data: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
    columns, bias = rows
    return torch.addmm(bias, data, columns)
