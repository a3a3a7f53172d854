"""Source ``mined``: verified pairs of real photographs, with other viewpoint, light and season.

Their file holds one JSON object a line: ``{"a": path, "b": path, "homography": 3 x 3 from pixels of a to pixels of
b, "points": [[xa, ya, xb, yb], ...]}``, the points being inlier matches; photographs of different places that look
alike are ``{"a": path, "b": path, "same": false}``. Relative paths are relative to the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.images import load_image
from delf_engine.support.arrays import check_array
from delf_engine.support.connected import first_connected
from delf_engine.training.batches import Batch, Kind
from delf_engine.training.contract import SourceContext, SourceOptions
from delf_engine.training.correspondence import project
from delf_engine.training.sources.views import ViewsSource, draw_rows, gather_pairs
from delf_engine.training.stores import Items
from delf_engine.training.views import ViewsConfig, random_view

Floats = npt.NDArray[np.float64]
Alike = list[tuple[str, str]]


@dataclass(frozen=True)
class MinedPair:
    """Two photographs of one place."""

    # Paths.
    a: str
    b: str
    homography: Floats  # (3, 3) float64: pixels of a to pixels of b
    points: Floats  # (M, 4) float64: inlier matches xa, ya, xb, yb, pixels


def read_pairs(path: str | os.PathLike[str]) -> tuple[list[MinedPair], Alike]:
    """Read a file of mined pairs: the pairs, and the paths of photographs of different places that look alike.

    Empty lines are passed over. A `FormatError` if the file cannot be read or holds no pair, or a line is bad; it
    names file and line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{os.fspath(path)}: cannot be read as JSON lines: {error}") from error
    pairs: list[MinedPair] = []
    alike: Alike = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = json.loads(line)
                a, b = _paths(value, Path(path).parent)
                if value.get("same") is False:
                    alike.append((a, b))
                else:
                    pairs.append(_parse(a, b, value))
            except (FormatError, ValueError, KeyError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise FormatError(f"{os.fspath(path)}, line {number}: {reason}") from error
    if not pairs:
        raise FormatError(f"{os.fspath(path)}: holds no pair")
    return pairs, alike


def places(pairs: Sequence[MinedPair]) -> dict[str, int]:
    """Return the place of each photograph, by its real path; a chain of pairs joins photographs to one place."""
    joined = [(os.path.realpath(pair.a), os.path.realpath(pair.b)) for pair in pairs]
    first = first_connected(chain.from_iterable(joined), joined)
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(other, len(numbers)) for name, other in first.items()}


def mined_items(pairs: Sequence[MinedPair], config: ViewsConfig, seed: int) -> Items:
    """Return augmented views around the matched regions of pairs: first those of photograph a, then those of b.

    The frame that homographies start from is a's pixels.
    """

    def render(index: int) -> tuple[npt.NDArray[np.uint8], Floats]:
        pair, of_first = pairs[index], views_of_first(config.count)
        sides = (
            (load_image(pair.a), pair.points[:, :2], np.eye(3), range(of_first)),
            (load_image(pair.b), pair.points[:, 2:], pair.homography, range(of_first, config.count)),
        )
        views, homographies = [], []
        for photo, points, to_photo, numbers in sides:
            (x0, y0), (x1, y1) = points.min(0), points.max(0)
            region = float(x0), float(y0), float(x1), float(y1)
            for number in numbers:
                rng = np.random.default_rng((seed, 7, index, number))
                view, h = random_view(photo, config, rng, region=region)
                views.append(view)
                homographies.append(h @ to_photo)
        return np.stack(views), np.stack(homographies)

    digest = hashlib.sha256(f"{config.model_dump_json()} {seed}".encode())
    for pair in pairs:
        digest.update(f"{pair.a}\n{pair.b}\n".encode("utf-8", "surrogateescape"))
        digest.update(pair.homography.tobytes() + pair.points.tobytes())
    names = [f"{pair.a} + {pair.b}" for pair in pairs]
    return Items(digest.hexdigest(), names, config.count, config.size, render)


def companions(pairs: Sequence[MinedPair], alike: Alike) -> dict[int, list[int]]:
    """Return for each pair the pairs of other places with a photograph that looks like one of its own."""
    place = places(pairs)
    of: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        for name in (pair.a, pair.b):
            of.setdefault(os.path.realpath(name), []).append(row)
    found: dict[int, set[int]] = {}
    for a, b in ((os.path.realpath(a), os.path.realpath(b)) for a, b in alike):
        if a in of and b in of and place[a] != place[b]:
            for row in of[a]:
                found.setdefault(row, set()).update(of[b])
            for row in of[b]:
                found.setdefault(row, set()).update(of[a])
    return {row: sorted(others) for row, others in found.items()}


def views_of_first(views: int) -> int:
    """Return how many of a pair's views are of its photograph a; the others are of b."""
    return (views + 1) // 2


def _paths(value: Any, folder: Path) -> tuple[str, str]:
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    a, b = value["a"], value["b"]
    if not all(isinstance(p, str) and p for p in (a, b)):
        raise ValueError("a and b must be paths")
    return str(folder / a), str(folder / b)


def _parse(a: str, b: str, value: dict[str, Any]) -> MinedPair:
    homography = check_array("homographies", value["homography"], np.float64, (3, 3), error=FormatError)
    points = check_array("points", value["points"], np.float64, (None, 4), error=FormatError)
    if np.linalg.matrix_rank(homography) < 3:
        raise ValueError("homography is singular")
    if not len(points):
        raise ValueError("points must be one row xa, ya, xb, yb or more")
    return MinedPair(a, b, homography, points)


class MinedOptions(SourceOptions):
    """Options of the source of mined pairs."""

    # Of a batch; the rest are views of single photographs, as the source ``views`` draws them.
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Share of the mined pairs of a batch that are drawn because they look like another of its pairs and show
    # another place, as far as there are such: hard negatives.
    alike: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class MinedSource:
    """Views around the matched region of two photographs, one of each; without pairs of held-out photographs.

    A `ConfigError` if no file of pairs was given; a `DataError` if fewer than two pairs are left.
    """

    Options = MinedOptions
    kind: Kind = "pairs"
    n_classes: int | None = None

    def __init__(self, options: MinedOptions, context: SourceContext) -> None:
        if context.pairs is None:
            raise ConfigError("the recipe draws mined pairs: give their file, --pairs FILE")
        self.context = context
        held_out = {os.path.realpath(path) for path in context.held_out}
        found, alike = read_pairs(context.pairs)
        kept = [p for p in found if held_out.isdisjoint((os.path.realpath(p.a), os.path.realpath(p.b)))]
        if len(kept) < 2:
            raise DataError(
                f"{context.pairs}: {len(kept)} of {len(found)} pairs have no held-out photograph; at least 2 are "
                "needed: mine more"
            )
        self.pairs = kept
        self.store = context.stores.open("mined", mined_items(kept, context.views, context.run_seed))
        self.places = places(kept)
        drawn = set(self.store.rows.tolist())  # not those that cannot be read, or that a plan leaves out
        near = companions(kept, alike) if options.alike else {}
        self.companions = {row: [other for other in rows if other in drawn] for row, rows in near.items()}
        self.count = min(max(1, round(options.share * context.batch)), context.batch)
        self.alike = round(options.alike * self.count)
        self.views = ViewsSource(SourceOptions(kind="views"), context) if self.count < context.batch else None

    def batch(self, index: int) -> Batch:
        """Return mined pairs, and pairs of views where the share is below 1."""
        rows = draw_rows(self.store.rows, self.count, index, seed=(self.context.seed, 3))
        rng = np.random.default_rng((self.context.seed, 4, index))
        for place in range(min(self.alike, len(rows) // 2)):
            if near := self.companions.get(int(rows[place])):
                rows[-1 - place] = rng.choice(near)
        views, split = [], views_of_first(self.context.views.count)
        for _ in rows:
            of_a, of_b = int(rng.integers(split)), int(rng.integers(split, self.context.views.count))
            views.append((of_a, of_b) if rng.random() < 0.5 else (of_b, of_a))
        mined = gather_pairs(self.store, rows, views)
        supports: list[Floats | None] = [
            project(self.store.homographies[row][first], self.pairs[row].points[:, :2])
            for row, (first, _) in zip(rows.tolist(), views, strict=True)
        ]
        groups = [self.places[os.path.realpath(self.pairs[row].a)] for row in rows.tolist()]
        if self.views is not None:
            shown = self.views.rows(index, self.context.batch - self.count).tolist()
            alone = len(self.places)  # numbers from here on are of photographs that no pair holds
            mined = _joined(mined, self.views.pairs(index, self.context.batch - self.count))
            supports += [None] * len(shown)
            groups += [self.places.get(os.path.realpath(self.context.photos[row]), alone + row) for row in shown]
        return dataclasses.replace(mined, supports=supports, groups=np.array(groups, np.int64))

    def held_out(self) -> Iterator[Batch]:
        """Yield nothing: losses over pairs are judged by the retrieval figure."""
        return iter(())


def _joined(mined: Batch, single: Batch) -> Batch:
    """Join pairs so that all first views still come before all second ones."""
    assert mined.homographies is not None
    assert single.homographies is not None
    maps = {}
    for name in mined.maps:
        (a, b), (c, d) = mined.maps[name].chunk(2), single.maps[name].chunk(2)
        maps[name] = torch.cat([a, c, b, d])
    return Batch(maps, mined.size, homographies=np.concatenate([mined.homographies, single.homographies]))
