"""Views rendered once, and the maps of the frozen part of the network over them, cached up to a limit.

All views of one item (a photograph, or a mined pair of them) are always rendered and encoded together and rounded
to half precision, so that a cached map and one that is computed again when it is drawn have the same bits.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from delf_engine.errors import DataError, ImageError
from delf_engine.model.backbones import Trunk
from delf_engine.model.network import normalise_images
from delf_engine.support.processes import map_ordered
from delf_engine.training.batches import START, Level, Teacher
from delf_engine.training.options import autocast

Rgb = npt.NDArray[np.uint8]
Homographies = npt.NDArray[np.float64]
Needs = tuple[tuple[str, ...], frozenset[str]]

#: Share of the memory that is free when a store is filled that its maps may take; more goes to files.
_MEMORY_SHARE = 0.4


@dataclass(frozen=True)
class Items:
    """What views are rendered of."""

    key: str  # equal keys render equal views
    names: Sequence[str]  # what errors call each item: its path
    views: int  # views of an item
    size: int  # side of a view, pixels
    # Maps the number of an item to (views, size, size, 3) uint8 views and the (views, 3, 3) float64 homographies
    # from the item's own frame to each. Raises `ImageError` if a photograph cannot be read.
    render: Callable[[int], tuple[Rgb, Homographies]]


@dataclass(frozen=True)
class Encoder:
    """The frozen part of a stage: the trunk up to `level`, and teachers."""

    trunk: Trunk
    level: Level  # what is kept of each view
    teachers: Mapping[str, Teacher]  # their maps are kept beside it
    device: torch.device
    dtype: torch.dtype  # of the arithmetic (autocast); maps are kept in float16
    # The trunk as it was when the stage began, its weights never changed: of views kept as conv3, its conv4 is
    # kept beside them, as computed, so that nothing is lost against computing it in every step.
    start: Trunk | None = None

    def __call__(self, views: Rgb) -> dict[str, Tensor]:
        """Map (V, S, S, 3) views to their maps by name, on the CPU."""
        pixels = torch.from_numpy(views)
        with torch.no_grad():
            moved = pixels.to(self.device)
            maps = {name: _kept(teacher(moved)) for name, teacher in self.teachers.items()}
            if self.level == "images":
                return {"images": pixels, **maps}
            with autocast(self.device, self.dtype):
                conv3 = _kept(self.trunk.stem(normalise_images(moved)))
            if self.level == "conv4":
                return {"conv4": self.last(conv3), **maps}
            if self.start is not None:
                maps[START] = _in_cells(self._last(self.start, conv3).to("cpu"))
            return {"conv3": conv3, **maps}

    def last(self, conv3: Tensor) -> Tensor:
        """Map the (V, C, h, w) float16 conv3 maps of one item to conv4 as it is kept."""
        with torch.no_grad():
            return _kept(self._last(self.trunk, conv3))

    def _last(self, trunk: Trunk, conv3: Tensor) -> Tensor:
        with autocast(self.device, self.dtype):
            return trunk.last(conv3.to(self.device, torch.float32).contiguous(memory_format=torch.channels_last))

    def needs(self, items: Items) -> Needs:
        """Return what the maps of views depend on, and the names of the teachers whose maps are among them."""
        trunk: Any = self.trunk
        below: dict[Level, list[torch.nn.Module]] = {
            "images": [],
            "conv3": [trunk.conv1, trunk.layer1, trunk.layer2],
            "conv4": [trunk],
        }
        teachers = set(self.teachers)
        if self.start is not None and self.level == "conv3":
            teachers.add(f"{START} {fingerprint(self.start)}")
        facts = (items.key, self.level, fingerprint(*below[self.level]), str(self.dtype))
        return facts, frozenset(teachers)

    def item_bytes(self, items: Items) -> int:
        """Return the bytes that the maps of one item take."""
        return items.views * _bytes(self(np.zeros((1, items.size, items.size, 3), np.uint8)))


class Cache:
    """Maps of items in memory, or as safetensors files in a folder if there is one, up to `limit` bytes.

    Maps are floating-point (V, C, h, w) with the channels of a cell together in memory; or integer images.
    """

    def __init__(self, limit: int, folder: Path | None) -> None:
        self.limit, self.folder, self.used = limit, folder, 0
        self._sizes: dict[int, int] = {}
        self._memory: dict[int, dict[str, Tensor]] = {}
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def __contains__(self, index: int) -> bool:
        return index in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def get(self, index: int) -> dict[str, Tensor]:
        """Return the maps of an item that is held."""
        if self.folder is None:
            return self._memory[index]
        maps = load_file(self.folder / f"{index}.safetensors")
        return {name: x.permute(0, 3, 1, 2) if x.is_floating_point() else x for name, x in maps.items()}

    def put(self, index: int, maps: dict[str, Tensor]) -> bool:
        """Hold the maps of an item in place of earlier ones, if they fit; say whether they do."""
        size = _bytes(maps)
        used = self.used - self._sizes.get(index, 0) + size
        if used > self.limit:
            return False
        if self.folder is None:
            self._memory[index] = maps
        else:
            # As (V, h, w, C), as they lie in memory: files know no other order.
            flat = {name: x.permute(0, 2, 3, 1) if x.is_floating_point() else x for name, x in maps.items()}
            files = {name: x.contiguous() for name, x in flat.items()}
            save_file(files, self.folder / f"{index}.safetensors")
        self._sizes[index], self.used = size, used
        return True

    def close(self) -> None:
        """Drop everything."""
        self._memory.clear()
        self._sizes.clear()
        self.used = 0
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class ViewStore:
    """Maps of the views of all readable items, numbered by `rows`, and homographies, (V, 3, 3), by number."""

    def __init__(self, items: Items, encoder: Encoder, cache: Cache) -> None:
        self.items, self.encoder, self.cache = items, encoder, cache
        self.rows: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.homographies: dict[int, Homographies] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def maps(self, index: int) -> dict[str, Tensor]:
        """Return the maps of item `index` by name, V rows each: float16, or uint8 for images."""
        encoder = self.encoder
        if index not in self.cache:
            return encoder(self.items.render(index)[0])
        # An earlier stage may have needed more teachers.
        wanted = {encoder.level, *encoder.teachers, *([START] if encoder.start is not None else [])}
        return {name: value for name, value in self.cache.get(index).items() if name in wanted}

    def fill(
        self,
        total: int,
        workers: int,
        on_error: Callable[[str, ImageError], None],
        progress: Callable[[int, int], None],
    ) -> None:
        """Render the first `total` items with `workers` threads; cache the maps of as many as fit."""
        rows, full = [], False
        with ThreadPoolExecutor(workers) as pool:
            jobs = map_ordered(lambda index: pool.submit(self.items.render, index), range(total), 4 * workers)
            for index, job in jobs:
                progress(index + 1, total)
                try:
                    views, self.homographies[index] = job.result()
                except ImageError as error:
                    on_error(self.items.names[index], error)
                    continue
                rows.append(index)
                full = full or not self.cache.put(index, self.encoder(views))
        self.rows = np.array(rows, np.int64)

    def advance(self, encoder: Encoder, progress: Callable[[int, int], None]) -> None:
        """Turn conv3 into conv4 item by item, so that never all of both are held; cache more where it now fits."""
        full = False
        for done, index in enumerate(self.rows.tolist(), 1):
            if index in self.cache:
                maps = self.cache.get(index)
                kept = {name: maps[name] for name in encoder.teachers}
                self.cache.put(index, {"conv4": encoder.last(maps["conv3"]), **kept})
            elif not full:
                full = not self.cache.put(index, encoder(self.items.render(index)[0]))
            progress(done, len(self.rows))
        self.encoder = encoder


class Stores:
    """The stores of a run: opened by sources, kept from stage to stage as long as they fit.

    Maps take `limit` bytes at most, in memory and, where that has no room, in files in `folder`. `workers` threads
    decode and warp; `progress` is called with a name, items done, items in all. With a `sample`, only so many
    items of each store are rendered, to plan with: `planned` tells of each store that was filled the items, the
    bytes that the maps of all would take, and the seconds an item took.
    """

    def __init__(
        self,
        *,
        limit: int,
        folder: Path | None = None,
        workers: int = 1,
        on_error: Callable[[str, ImageError], None],
        progress: Callable[[str, int, int], None] = lambda *_: None,
        sample: int | None = None,
    ) -> None:
        self.limit, self.folder, self.workers, self.sample = limit, folder, workers, sample
        self.planned: dict[str, tuple[int, int, float]] = {}
        self.on_error, self.progress = on_error, progress
        self._encoder: Encoder | None = None
        self._open: dict[str, tuple[Needs, ViewStore]] = {}

    def begin(self, encoder: Encoder) -> None:
        """State what the stage that begins needs of each view."""
        self._encoder = encoder

    def open(self, name: str, items: Items, *, teachers: bool = True) -> ViewStore:
        """Return the filled store called `name`, taking over what an earlier stage has cached.

        A `DataError` if fewer than two items can be read.
        """
        assert self._encoder is not None, "begin() comes first"
        encoder = self._encoder if teachers else replace(self._encoder, teachers={}, start=None)
        needs = encoder.needs(items)
        if self._holds(name, needs):
            store = self._open[name][1]
            store.encoder = encoder
            return store
        began, total = time.monotonic(), min(len(items.names), self.sample or len(items.names))
        conv3 = replace(encoder, level="conv3", start=None)
        if encoder.level == "conv4" and self._holds(name, conv3.needs(items)):
            store = self._open[name][1]
            store.advance(encoder, lambda done, of: self.progress(f"{name}: conv4", done, of))
        else:
            if name in self._open:
                self._open.pop(name)[1].cache.close()
            store = ViewStore(items, encoder, self._new_cache(name, items, encoder))
            store.fill(total, self.workers, self.on_error, lambda done, of: self.progress(name, done, of))
            if len(store) < 2:
                raise DataError(
                    f"{name}: training needs at least 2 readable photographs or pairs; {len(store)} of "
                    f"{len(items.names)} can be read"
                )
        self._open[name] = needs, store
        seconds = (time.monotonic() - began) / total
        self.planned[name] = (len(items.names), len(items.names) * encoder.item_bytes(items), seconds)
        return store

    def close(self) -> None:
        """Drop all maps."""
        for _, store in self._open.values():
            store.cache.close()
        self._open.clear()

    def _holds(self, name: str, needs: Needs) -> bool:
        if name not in self._open:
            return False
        held = self._open[name][0]
        return needs[0] == held[0] and needs[1] <= held[1]

    def _new_cache(self, name: str, items: Items, encoder: Encoder) -> Cache:
        left = max(self.limit - sum(store.cache.used for _, store in self._open.values()), 0)
        needed = len(items.names) * encoder.item_bytes(items)
        if self.folder is None or min(left, needed) < _MEMORY_SHARE * memory_bytes():
            return Cache(left, None)
        return Cache(left, self.folder / name)


def memory_bytes() -> int:
    """Return the memory that is free, bytes; where the system does not say, 4 GiB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 4 << 30


def fingerprint(*modules: torch.nn.Module) -> str:
    """Return the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for module in modules:
        for key, value in module.state_dict().items():
            digest.update(key.encode() + np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _bytes(maps: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in maps.values())


def _kept(maps: Tensor) -> Tensor:
    return _in_cells(maps.to("cpu", torch.float16))


def _in_cells(maps: Tensor) -> Tensor:
    # The vector of a cell lies together: convolutions want it so, and losses look at cells.
    return maps.contiguous(memory_format=torch.channels_last)
