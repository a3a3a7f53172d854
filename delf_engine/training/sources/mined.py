"""Source ``mined``: verified pairs of real photographs, with other viewpoint, light and season.

Their file holds one JSON object a line: ``{"a": path, "b": path, "homography": 3 x 3 from pixels of a to pixels of
b, "points": [[xa, ya, xb, yb], ...]}``, the points being inlier matches. Relative paths are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.images import load_image
from delf_engine.training.batches import Batch, Kind
from delf_engine.training.contract import SourceContext, SourceOptions
from delf_engine.training.correspondence import project
from delf_engine.training.sources.views import ViewsSource, draw_rows, gather_pairs
from delf_engine.training.views import ViewsConfig, random_view

__all__ = ["MinedItems", "MinedOptions", "MinedPair", "MinedSource", "places", "read_pairs"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MinedPair:
    """Two photographs of one place.

    Attributes
    ----------
    a, b : str
        Paths.
    homography : (3, 3) float64
        Pixels of a to pixels of b.
    points : (M, 4) float64
        Inlier matches xa, ya, xb, yb, pixels.
    """

    a: str
    b: str
    homography: Floats
    points: Floats


def read_pairs(path: str | os.PathLike[str]) -> list[MinedPair]:
    """Read a file of mined pairs; empty lines are passed over.

    Raises
    ------
    FormatError
        If the file cannot be read or holds no pair, or a line is bad; it names file and line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{os.fspath(path)}: cannot be read as JSON lines: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(_parse(json.loads(line), Path(path).parent))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise FormatError(f"{os.fspath(path)}, line {number}: {reason}") from error
    if not pairs:
        raise FormatError(f"{os.fspath(path)}: holds no pair")
    return pairs


def places(pairs: Sequence[MinedPair]) -> dict[str, int]:
    """Return the number of each photograph's place; a chain of pairs joins photographs to one place.

    Returns
    -------
    dict of str to int
        From the real path of each photograph.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for pair in pairs:
        parent[root(os.path.realpath(pair.a))] = root(os.path.realpath(pair.b))
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(root(name), len(numbers)) for name in sorted(parent)}


class MinedItems:
    """Augmented views around the matched regions of pairs: first those of photograph a, then as many of b.

    The frame that homographies start from is a's pixels.

    Parameters
    ----------
    pairs : sequence of MinedPair
    config : ViewsConfig
    seed : int
    """

    def __init__(self, pairs: Sequence[MinedPair], config: ViewsConfig, seed: int) -> None:
        self.pairs, self.config, self.seed = pairs, config, seed
        self.views, self.size = config.count, config.size
        digest = hashlib.sha256(f"{config.model_dump_json()} {seed}".encode())
        for pair in pairs:
            digest.update(f"{pair.a}\n{pair.b}\n".encode("utf-8", "surrogateescape"))
            digest.update(pair.homography.tobytes() + pair.points.tobytes())
        self.key = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def of_first(self) -> int:
        """Views of photograph a; the others are of b."""
        return (self.views + 1) // 2

    def name(self, index: int) -> str:
        """Return both paths of a pair."""
        return f"{self.pairs[index].a} + {self.pairs[index].b}"

    def render(self, index: int) -> tuple[npt.NDArray[np.uint8], Floats]:
        """Render all views of a pair; see `stores.Items`."""
        pair = self.pairs[index]
        sides = (
            (load_image(pair.a), pair.points[:, :2], np.eye(3), range(self.of_first)),
            (load_image(pair.b), pair.points[:, 2:], pair.homography, range(self.of_first, self.views)),
        )
        views, homographies = [], []
        for photo, points, to_photo, numbers in sides:
            (x0, y0), (x1, y1) = points.min(0), points.max(0)
            region = float(x0), float(y0), float(x1), float(y1)
            for number in numbers:
                rng = np.random.default_rng((self.seed, 7, index, number))
                view, h = random_view(photo, self.config, rng, region=region)
                views.append(view)
                homographies.append(h @ to_photo)
        return np.stack(views), np.stack(homographies)


def _parse(value: Any, folder: Path) -> MinedPair:
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    paths = [value["a"], value["b"]]
    if not all(isinstance(p, str) and p for p in paths):
        raise ValueError("a and b must be paths")
    homography = np.asarray(value["homography"], np.float64)
    points = np.asarray(value["points"], np.float64)
    if homography.shape != (3, 3) or not np.isfinite(homography).all():
        raise ValueError(f"homography must be 3 x 3 finite numbers, got shape {homography.shape}")
    if np.linalg.matrix_rank(homography) < 3:
        raise ValueError("homography is singular")
    if points.ndim != 2 or points.shape[1] != 4 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points must be one row xa, ya, xb, yb or more, all finite, got shape {points.shape}")
    a, b = (str(folder / p) for p in paths)
    return MinedPair(a, b, homography, points)


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
