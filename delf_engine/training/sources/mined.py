"""Source ``mined``: verified pairs of real photographs, with other viewpoint, light and season."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from delf_engine.errors import ConfigError, DataError
from delf_engine.training.batches import Batch, Kind
from delf_engine.training.contract import SourceContext, SourceOptions
from delf_engine.training.correspondence import project
from delf_engine.training.mined import MinedItems, places, read_pairs
from delf_engine.training.sources.views import ViewsSource, draw_rows, gather_pairs

__all__ = ["MinedOptions", "MinedSource"]


class MinedOptions(SourceOptions):
    """Options of the source of mined pairs.

    Attributes
    ----------
    share : float
        Of a batch; the rest are views of single photographs, as the source ``views`` draws them.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class MinedSource:
    """Views around the matched region of two photographs, one of each; without pairs of held-out photographs.

    Raises
    ------
    ConfigError
        If no file of pairs was given.
    DataError
        If fewer than two pairs are left.
    """

    Options = MinedOptions
    kind: Kind = "pairs"
    n_classes: int | None = None

    def __init__(self, options: MinedOptions, context: SourceContext) -> None:
        if context.pairs is None:
            raise ConfigError("the recipe draws mined pairs: give their file, --pairs FILE")
        self.context = context
        held_out = {os.path.realpath(path) for path in context.held_out}
        found = read_pairs(context.pairs)
        kept = [p for p in found if held_out.isdisjoint((os.path.realpath(p.a), os.path.realpath(p.b)))]
        if len(kept) < 2:
            raise DataError(
                f"{context.pairs}: {len(kept)} of {len(found)} pairs have no held-out photograph; at least 2 are "
                "needed: mine more"
            )
        self.items = MinedItems(kept, context.views, context.run_seed)
        self.store = context.stores.open("mined", self.items)
        self.places = places(kept)
        self.count = min(max(1, round(options.share * context.batch)), context.batch)
        self.views = ViewsSource(SourceOptions(kind="views"), context) if self.count < context.batch else None

    def describe(self) -> str:
        """Say how many pairs and places there are."""
        mined = f"{len(self.store)} mined pairs of {len(set(self.places.values()))} places"
        return mined if self.views is None else f"{mined} + {self.views.describe()}"

    def batch(self, index: int) -> Batch:
        """Return mined pairs, and pairs of views where the share is below 1."""
        rows = draw_rows(self.store.rows, self.count, index, seed=(self.context.seed, 3))
        rng = np.random.default_rng((self.context.seed, 4, index))
        views = []
        for _ in rows:
            of_a = int(rng.integers(self.items.of_first))
            of_b = int(rng.integers(self.items.of_first, self.items.views))
            views.append((of_a, of_b) if rng.random() < 0.5 else (of_b, of_a))
        mined = gather_pairs(self.store, rows, views)
        supports = [self._support(int(row), first) for row, (first, _) in zip(rows, views, strict=True)]
        groups = np.array([self.places[os.path.realpath(self.items.pairs[row].a)] for row in rows], np.int64)
        if self.views is None:
            return Batch(mined.maps, mined.size, homographies=mined.homographies, supports=supports, groups=groups)
        single = self.views.pairs(index, self.context.batch - self.count)
        return _joined(mined, supports, groups, single, self._groups_of_views(index))

    def held_out(self) -> Iterator[Batch]:
        """Yield nothing: losses over pairs are judged by the retrieval figure."""
        return iter(())

    def _support(self, row: int, first: int) -> npt.NDArray[np.float64]:
        return project(self.store.homographies[row][first], self.items.pairs[row].points[:, :2])

    def _groups_of_views(self, index: int) -> npt.NDArray[np.int64]:
        assert self.views is not None
        rows = self.views.rows(index, self.context.batch - self.count)
        alone = len(self.places)  # numbers from here on are of photographs that no pair holds
        return np.array(
            [self.places.get(os.path.realpath(self.context.photos[row]), alone + row) for row in rows.tolist()],
            np.int64,
        )


def _joined(
    mined: Batch,
    supports: Sequence[npt.NDArray[np.float64]],
    groups: npt.NDArray[np.int64],
    single: Batch,
    single_groups: npt.NDArray[np.int64],
) -> Batch:
    """Join pairs so that all first views still come before all second ones."""
    assert mined.homographies is not None
    assert single.homographies is not None
    maps = {}
    for name in mined.maps:
        (a, b), (c, d) = mined.maps[name].chunk(2), single.maps[name].chunk(2)
        maps[name] = torch.cat([a, c, b, d])
    return Batch(
        maps,
        mined.size,
        homographies=np.concatenate([mined.homographies, single.homographies]),
        supports=[*supports, *[None] * len(single.homographies)],
        groups=np.concatenate([groups, single_groups]),
    )
