"""Source ``views``: pairs of augmented views of single photographs, related by known homographies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.training.batches import Batch, Kind
from delf_engine.training.contract import SourceContext, SourceOptions
from delf_engine.training.stores import Items, ViewStore
from delf_engine.training.views import ViewsConfig, random_view, read_photograph


def photo_items(photos: Sequence[str], config: ViewsConfig, seed: int) -> Items:
    """Return augmented views of single photographs; random numbers come from (seed, photograph, view)."""

    def render(index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        photo = read_photograph(photos[index])
        rngs = [np.random.default_rng((seed, index, view)) for view in range(config.count)]
        views, homographies = zip(*(random_view(photo, config, rng) for rng in rngs), strict=True)
        return np.stack(views), np.stack(homographies)

    stated = "\n".join([config.model_dump_json(), str(seed), *photos])
    key = hashlib.sha256(stated.encode("utf-8", "surrogateescape")).hexdigest()
    return Items(key, photos, config.count, config.size, render)


class ViewsSource:
    """Pairs of views of one photograph; the photographs of a batch differ, and all come before one comes again."""

    Options = SourceOptions
    kind: Kind = "pairs"
    n_classes: int | None = None

    def __init__(self, options: SourceOptions, context: SourceContext) -> None:
        self.context = context
        items = photo_items(context.photos, context.views, context.run_seed)
        self.store = context.stores.open("views", items)

    def batch(self, index: int) -> Batch:
        """Return pairs of views of `context.batch` photographs, fewer if there are not so many."""
        return self.pairs(index, self.context.batch)

    def pairs(self, index: int, count: int) -> Batch:
        """Return `count` pairs; see `batch`."""
        rows = self.rows(index, count)
        rng = np.random.default_rng((self.context.seed, 2, index))
        views = [tuple(rng.permutation(self.store.items.views)[:2].tolist()) for _ in rows]
        return gather_pairs(self.store, rows, views)

    def rows(self, index: int, count: int) -> npt.NDArray[np.int64]:
        """Return which photographs `pairs` draws."""
        return draw_rows(self.store.rows, count, index, seed=(self.context.seed, 1))

    def held_out(self) -> Iterator[Batch]:
        """Yield nothing: losses over pairs are judged by the retrieval figure."""
        return iter(())


def draw_rows(
    rows: npt.NDArray[np.int64], count: int, index: int, *, seed: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Return `count` of `rows` for batch number `index`: in random order, all of an epoch different.

    A last part of an epoch that is smaller than a batch is left out.
    """
    count = min(count, len(rows))
    epoch, position = divmod(index, len(rows) // count)
    order = np.random.default_rng((*seed, epoch)).permutation(rows)
    return order[position * count : (position + 1) * count]


def gather_pairs(
    store: ViewStore, rows: Sequence[int] | npt.NDArray[np.int64], views: Sequence[tuple[int, int]]
) -> Batch:
    """Return the pairs of `views` (first, second) of the items `rows`."""
    held = [store.maps(int(row)) for row in rows]
    maps = {
        name: _stacked([item[name][pair[side]] for side in (0, 1) for item, pair in zip(held, views, strict=True)])
        for name in held[0]
    }
    frames = [store.homographies[int(row)] for row in rows]
    h = np.stack([f[b] @ np.linalg.inv(f[a]) for f, (a, b) in zip(frames, views, strict=True)])
    return Batch(maps, store.items.size, homographies=h / h[:, 2:, 2:])


def _stacked(views: Sequence[Tensor]) -> Tensor:
    """Stack images (size, size, 3) or maps (C, h, w); of maps, the channels of a cell stay together in memory."""
    if views[0].is_floating_point():
        return torch.stack([view.permute(1, 2, 0) for view in views]).permute(0, 3, 1, 2)
    return torch.stack(list(views))
