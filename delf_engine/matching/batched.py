"""Exact matching of many pairs at once, as tensors of one device: the rules and the ties of `descriptors`.

Unlike the kernels it writes the similarities of a pair down, N x M, since a card reads them back at once. Products
are summed in whatever order the library likes. Where two candidates are closer than float32 rounding can explain
in any order, float64 decides, as on a CPU: the matches are the same. Codes of 8 bits need none of that: their sums
are exact. Imported only by what has chosen a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from delf_engine.matching.descriptors import PreparedDescriptors
from delf_engine.support.threads import lock_across_forks

_TIES_BYTES = 1 << 28  # of the rows that float64 decides at a time
_switch = lock_across_forks()


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
    similarities = _products(a, b, of_a, of_b)
    place = _nearest(a, b, of_b, of_a, similarities)
    place_b = _nearest(b, a, of_a, of_b, similarities.transpose(1, 2))
    found = of_a & of_b.any(1)[:, None]
    wide, chosen = a.double(), b.take_along_dim(place[:, :, None], 1).double()
    distance = (wide - chosen).square().sum(2).sqrt()
    both = found & (place_b.gather(1, place) == torch.arange(a.shape[1], device=a.device))
    kept = found & (distance <= (torch.inf if max_distance is None else max_distance))
    if mutual:
        kept &= both
    if ratio is not None:
        other = similarities.scatter_(2, place[:, :, None], -torch.inf).max(2).indices
        second = (wide - b.take_along_dim(other[:, :, None], 1).double()).square().sum(2).sqrt()
        kept &= (of_b.sum(1) > 1)[:, None] & (second > 0) & (distance <= ratio * second)
    return BatchMatches(kept, place, (wide * chosen).sum(2).float(), both)


def match_codes(
    pairs: Sequence[tuple[PreparedDescriptors, PreparedDescriptors]], *, ratio: float, device: torch.device
) -> list[npt.NDArray[np.int32]]:
    """Return the `pairs` that `match_prepared` finds of each pair at 8 bits, mutual and by `ratio`, to the bit.

    All descriptors are of one dimension.
    """
    columns = (zip(*(side.codes for side in sides), strict=True) for sides in zip(*pairs, strict=True))
    (a, norms_a), (b, norms_b) = (
        [pad_sequence([torch.from_numpy(rows) for rows in each], batch_first=True).to(device) for each in column]
        for column in columns
    )
    if not (a.shape[1] and b.shape[1]):
        return [np.empty((0, 2), np.int32)] * len(pairs)
    of_a, of_b = norms_a > 0, norms_b > 0
    cosines = _products(a.float(), b.float(), of_a, of_b)
    for norms in (norms_b[:, None], norms_a[:, :, None]):  # in the order of `match_tile`
        cosines *= norms.clamp(min=1e-9)  # of what is no row at all, so that -inf stays
    best, place = cosines.max(2)
    kept = of_a & (cosines.max(1).indices.gather(1, place) == torch.arange(a.shape[1], device=device))
    second = cosines.scatter_(2, place[:, :, None], -torch.inf).amax(2)
    near, other = ((2 - 2 * each.double()).clamp(min=0).sqrt() for each in (best, second))  # as in `chords`
    kept &= (of_b.sum(1) > 1)[:, None] & (other > 0) & (near <= ratio * other)
    rows = kept.nonzero()
    found = torch.stack([rows[:, 1], place[kept]], 1).int().cpu().numpy()
    return np.split(found, kept.sum(1).cumsum(0).tolist()[:-1])


def _products(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> Tensor:
    """Return the inner products of rows that are an image's own, (P, N, M); -inf for others."""
    with full_float32(a.device):
        found = torch.bmm(a, b.transpose(1, 2))
    return found.masked_fill_(~of_b[:, None], -torch.inf).masked_fill_(~of_a[:, :, None], -torch.inf)


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
            total.addcmul_(few[:, d, None], their[:, :, d])
        place[p, i] = total.masked_fill_(~of_y[p], -torch.inf).max(1).indices
    return place


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Keep products of float32 from being rounded to 19 bits (TF32) or less (autocast), if somebody allowed it.

    One thread at a time, since TF32 is switched for all: only set the device to work in here, do not wait for it.
    """
    matmul: Any = torch.backends.cuda.matmul
    with _switch, torch.autocast(device.type, enabled=False):
        try:
            switch: tuple[Callable[[Any], Any], Any, Any]
            switch = partial(setattr, matmul, "allow_tf32"), matmul.allow_tf32, False
            if matmul.allow_tf32 and torch.get_float32_matmul_precision() == "medium":
                switch = torch.set_float32_matmul_precision, "medium", "highest"
        except RuntimeError:  # somebody used the switch that is new in torch 2.9: the older ones answer no more
            switch = partial(setattr, matmul, "fp32_precision"), matmul.fp32_precision, "ieee"
        turn, before, off = switch
        if before != off:
            turn(off)
        try:
            yield
        finally:
            if before != off:
                turn(before)
