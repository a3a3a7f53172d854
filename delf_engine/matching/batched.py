"""Exact matching of many pairs at once, as tensors of one device: the rules and the ties of `descriptors`.

Unlike the kernels it writes the similarities of a pair down, N x M, since a card reads them back at once. Products
are summed in whatever order the library likes. Where two candidates are closer than float32 rounding can explain
in any order, float64 decides, as on a CPU: the matches are the same. Imported only by what has chosen a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

_TIES_BYTES = 1 << 28  # of the rows that float64 decides at a time


class BatchMatches(NamedTuple):
    """What matching says of the rows of A of P pairs, (P, N) each.

    The nearest neighbour in B is at `place`, int64, and its cosine is `similarity`, float32. `kept` says whether
    that passes the rules, `mutual` whether the row is its nearest neighbour, too.
    """

    kept: Tensor
    place: Tensor
    similarity: Tensor
    mutual: Tensor


def match_batch(
    a: Tensor,
    b: Tensor,
    of_a: Tensor,
    of_b: Tensor,
    *,
    mutual: bool,
    ratio: float | None,
    max_distance: float | None,
) -> BatchMatches:
    """Match the descriptors of P pairs by the rules of `match_prepared`.

    Parameters
    ----------
    a, b : (P, N, D), (P, M, D) float32
        Unit rows; those beyond an image's own may hold anything finite.
    of_a, of_b : (P, N), (P, M) bool
        Which rows are an image's own.
    mutual, ratio, max_distance
        As for `match_prepared`.
    """
    with full_float32():
        similarities = torch.bmm(a, b.transpose(1, 2))
    similarities.masked_fill_(~(of_a[:, :, None] & of_b[:, None, :]), -torch.inf)
    place = _nearest(a, b, of_b, of_a, similarities)
    place_b = _nearest(b, a, of_a, of_b, similarities.transpose(1, 2))
    found = of_a & of_b.any(1)[:, None]
    wide = a.double()
    chosen = _rows(b, place).double()
    distance = (wide - chosen).square().sum(2).sqrt()
    both = found & (place_b.gather(1, place) == torch.arange(a.shape[1], device=a.device))
    kept = found & (distance <= (torch.inf if max_distance is None else max_distance))
    if mutual:
        kept &= both
    if ratio is not None:
        other = similarities.scatter_(2, place[:, :, None], -torch.inf).max(2).indices
        second = (wide - _rows(b, other).double()).square().sum(2).sqrt()
        kept &= (of_b.sum(1) > 1)[:, None] & (second > 0) & (distance <= ratio * second)
    return BatchMatches(kept, place, (wide * chosen).sum(2).float(), both)


def _nearest(x: Tensor, y: Tensor, of_y: Tensor, of_x: Tensor, similarities: Tensor) -> Tensor:
    """Return the first of the rows of Y nearest to each row of X, (P, N) int64, ties in float32 decided anew."""
    best, place = similarities.max(2)
    margin = 2 * (x.shape[2] + 2) * 2.0**-24  # as in `match_prepared`
    tied = (similarities >= (best - margin)[:, :, None]).sum(2) > 1
    pairs, rows = (tied & of_x & of_y.any(1)[:, None]).nonzero(as_tuple=True)
    step = max(1, _TIES_BYTES // (32 * y.shape[1] * y.shape[2]))
    for start in range(0, len(rows), step):
        p, i = pairs[start : start + step], rows[start : start + step]
        few, their = x[p, i].double(), y[p]
        total = torch.zeros(their.shape[:2], dtype=torch.float64, device=x.device)
        for d in range(x.shape[2]):  # in the order of `kernels.dot`: products are exact, equal rows get equal sums
            total += few[:, d, None] * their[:, :, d]
        place[p, i] = total.masked_fill_(~of_y[p], -torch.inf).max(1).indices
    return place


def _rows(b: Tensor, place: Tensor) -> Tensor:
    """Return the row of B that each of `place`, (P, N), names: (P, N, D)."""
    return b.gather(1, place[:, :, None].expand(-1, -1, b.shape[2]))


@contextmanager
def full_float32() -> Iterator[None]:
    """Keep cuBLAS from rounding float32 to 19 bits (TF32), if somebody has allowed it."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
