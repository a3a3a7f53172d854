"""Features that stay on a device, and pairs of them verified there, up to what the host makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from delf_engine.config import VerificationConfig
from delf_engine.features import LocalFeatures
from delf_engine.matching import PreparedDescriptors
from delf_engine.matching.batched import match_batch
from delf_engine.verification.models import MINIMUM_MATCHES
from delf_engine.verification.order import room
from delf_engine.verification.overlays import LEAST, MOST, STILL
from delf_engine.verification.tensors import fit_batch, occupied_bins

_FIRST_ROWS = 1 << 14
_BYTES = 24  # of intermediate results for each similarity


class _Place(NamedTuple):
    """Where an image's rows begin, how many there are, and what `order.room` says of it."""

    start: int
    rows: int
    room: float


class BatchAnswers(NamedTuple):
    """What was found of P pairs with up to M matches, on the host; see `Verification`.

    `matches` are (P, M, 2), `similarities` (P, M), `own` and `inliers` say which of them are matches and inliers.
    `suspect` pairs may wear the same overlay.
    """

    matches: np.ndarray
    similarities: np.ndarray
    own: np.ndarray
    inliers: np.ndarray
    found: np.ndarray
    transform: np.ndarray
    effective: np.ndarray
    error: np.ndarray
    similarity: np.ndarray
    suspect: np.ndarray


class Shard:
    """Descriptors and keypoints of images, all of one dimension, in tables of a device.

    An image is known as long as its `LocalFeatures` live, and until the tables are full: then they begin anew.

    Parameters
    ----------
    device : torch.device
    dim : int
        Descriptor dimension D.
    """

    def __init__(self, device: torch.device, dim: int) -> None:
        self.device = device
        self._places: dict[int, tuple[_Place, ref[LocalFeatures]]] = {}  # by id, of those that live
        self._used = 0
        self._most = share_of(device) // (4 * (dim + 3))
        self._table = torch.empty(_FIRST_ROWS, dim + 3, dtype=torch.float32, device=device)

    @torch.inference_mode()  # the table is changed in the mode in which it was made
    def places(self, images: Sequence[LocalFeatures]) -> list[_Place]:
        """Return where images are, once they all are there."""
        several = {id(image): image for image in images}
        missing = [image for key, image in several.items() if key not in self._places]
        rows = sum(map(len, missing))
        if self._used + rows > self._most:
            self._places.clear()
            self._used, missing = 0, list(several.values())
            rows = sum(map(len, missing))
        if self._used + rows > len(self._table):
            most = max(self._used + rows, min(2 * (self._used + rows), self._most))
            larger = self._table.new_empty(most, self._table.shape[1])
            larger[: self._used] = self._table[: self._used]
            self._table = larger
        if missing:
            units = [PreparedDescriptors(image.descriptors, "an image", "float32").unit for image in missing]
            columns = zip(units, missing, strict=True)
            new = np.concatenate([np.hstack([unit, i.keypoints, i.scales[:, None]]) for unit, i in columns])
            self._table[self._used : self._used + rows] = torch.from_numpy(new).to(self.device)
        for image in missing:
            forget = partial(self._forget, id(image))
            self._places[id(image)] = _Place(self._used, len(image), room(image)), ref(image, forget)
            self._used += len(image)
        return [self._places[id(image)][0] for image in images]

    def _forget(self, key: int, _: object) -> None:
        self._places.pop(key, None)

    def rows(self, start: Tensor, count: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of P images: descriptors, (P, N, D), x, y, scale, (P, N, 3), and which are own."""
        places = torch.arange(most, device=self.device)
        own = places < count[:, None]
        found = self._table[torch.where(own, start[:, None] + places, 0)]
        return found[..., :-3].contiguous(), found[..., -3:], own


def share_of(device: torch.device) -> int:
    """Return how many bytes features may take on a device, and intermediate results too: an eighth of a card."""
    return torch.cuda.get_device_properties(device).total_memory // 8 if device.type == "cuda" else 1 << 28


def in_batches(
    work: Callable[[Any], list[Any]], pairs: Sequence[Any], alone: Callable[[Any], Any], device: torch.device
) -> list[Any]:
    """Return what `work` makes of pairs of features, of half of them at a time where a device has no room for all.

    `alone` takes a pair for which there is no memory even by itself.
    """
    largest = max(len(side) for pair in pairs for side in pair[:2])
    try:
        if len(pairs) == 1 or len(pairs) * largest**2 * _BYTES <= share_of(device):
            return work(pairs)
    except torch.cuda.OutOfMemoryError:
        if len(pairs) == 1:
            return [alone(pairs[0])]
    halves = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    return [found for half in halves for found in in_batches(work, half, alone, device)]


@torch.inference_mode()
def verify_batch(
    shard: Shard,
    pairs: Sequence[tuple[LocalFeatures, LocalFeatures]],
    places: Sequence[tuple[_Place, _Place]],
    config: VerificationConfig,
    exponent: float,
) -> BatchAnswers:
    """Verify pairs that are in order (`goes_first`), without a look at overlays."""
    rows_and_sizes = np.array(
        [(*p[:2], *q[:2], *a.image_size, *b.image_size) for (p, q), (a, b) in zip(places, pairs, strict=True)],
        np.float64,
    )
    longer = np.maximum(rows_and_sizes[:, 4::2], rows_and_sizes[:, 5::2])
    zooms = np.minimum(1.0, (config.reference_size or np.inf) / longer)  # of `pixel_frame`
    facts = torch.from_numpy(np.hstack([rows_and_sizes, zooms, (zooms - 1) / 2])).to(shard.device)
    start_a, count_a, start_b, count_b = facts[:, :4].long().unbind(1)
    most_a, most_b = (max(1, *(two[side].rows for two in places)) for side in (0, 1))
    of_a, framed_a, own_a = shard.rows(start_a, count_a, most_a)
    of_b, framed_b, own_b = shard.rows(start_b, count_b, most_b)
    matched = match_batch(
        of_a, of_b, own_a, own_b, mutual=config.mutual, ratio=config.ratio, max_distance=config.max_distance
    )
    powers = matched.similarity.double().clamp(0, 1) ** exponent
    most = max(1, int(matched.kept.sum(1).max()))
    rows = torch.where(matched.kept, torch.arange(most_a, device=shard.device), most_a).sort(1).values[:, :most]
    own = rows < most_a
    rows = rows.clamp(max=most_a - 1)
    matches = torch.stack([rows, matched.place.gather(1, rows)], dim=2)
    sides = zip((framed_a, framed_b), matches.unbind(2), strict=True)
    raw = torch.stack([side.gather(1, i[:, :, None].expand(-1, -1, 3)) for side, i in sides], 2).double()
    zoom, shift = facts[:, None, 8:10, None], facts[:, None, 10:, None]
    points = raw[..., :2] * zoom + shift
    fit = fit_batch(
        points.flatten(2),
        raw[..., 2] * zoom[..., 0],
        own,
        threshold=config.residual_px,
        minimum=MINIMUM_MATCHES["affine"],
        room=share_of(shard.device),
    )
    inliers = fit.inliers & fit.found[:, None]
    agreeing = inliers.sum(1)
    still = _stands_still(raw[..., :2], facts[:, 4:8].unflatten(1, (2, 2)))
    effective = torch.stack([occupied_bins(points[:, :, i], inliers, config.residual_px) for i in (0, 1)])
    error = torch.where(inliers, fit.residuals.square(), 0.0).sum(1) / agreeing
    return BatchAnswers(
        *(
            each.cpu().numpy()
            for each in (
                matches.int(),
                matched.similarity.gather(1, rows),
                own,
                inliers,
                fit.found,
                _in_pixels(fit.transform, *facts[:, 8:, None].unbind(1)),
                effective.amin(0),
                error.sqrt(),
                torch.where(matched.mutual, powers, 0.0).sum(1),
                (agreeing >= LEAST) & ((still & inliers).sum(1) >= MOST * agreeing),
            )
        )
    )


def _in_pixels(transform: Tensor, zoom_a: Tensor, zoom_b: Tensor, shift_a: Tensor, shift_b: Tensor) -> Tensor:
    """Carry maps, (P, 2, 3), between shrunk images over to the original ones, (P, 3, 3)."""
    linear, shift = transform[..., :2], transform[..., 2]
    out = torch.eye(3, dtype=transform.dtype, device=transform.device).repeat(len(transform), 1, 1)
    out[:, :2, :2] = linear * (zoom_a / zoom_b)[:, :, None]
    out[:, :2, 2] = (linear.sum(2) * shift_a + shift - shift_b) / zoom_b
    return out


def _stands_still(points: Tensor, sizes: Tensor) -> Tensor:
    """Do what `overlays._stands_still` does, for points, (P, M, 2, 2), of A and B, of sizes (P, 2, 2)."""
    points, sizes = points + 0.5, sizes[:, None]
    shorter = sizes.amin(2)  # (P, 1, 2)
    parts, one = shorter[:, :, None] / sizes, torch.ones_like(sizes)  # (P, 1, 2, 2)

    def moved(axis: int, unit: Tensor) -> Tensor:
        ends = points[..., axis], sizes[..., axis] - points[..., axis]
        start, end = (((at * unit)[..., 0] - (at * unit)[..., 1]).abs() for at in ends)
        return torch.minimum(start, end)

    across = torch.minimum(moved(0, parts[..., 0]), moved(0, one[..., 0]))
    down = torch.minimum(moved(1, parts[..., 1]), moved(1, one[..., 0]))
    down = torch.minimum(down, moved(1, parts[..., 0]))
    return torch.maximum(across, down) <= STILL * shorter.amin(2)
