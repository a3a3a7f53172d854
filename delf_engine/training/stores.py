"""Views rendered once, and the maps of the frozen part of the network over them, cached up to a limit.

All views of one item (a photograph, or a mined pair of them) are always rendered and encoded together and rounded
to half precision, so that a cached map and one that is computed again when it is drawn have the same bits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from delf_engine.errors import DataError, ImageError
from delf_engine.model.backbones import Trunk
from delf_engine.model.network import normalise_images
from delf_engine.training.batches import START, Teacher
from delf_engine.training.cache import Cache, memory_bytes

__all__ = ["Encoder", "Items", "Level", "Stores", "ViewStore", "deepest", "fingerprint", "item_bytes"]

Level = Literal["images", "conv3", "conv4"]
Rgb = npt.NDArray[np.uint8]
Homographies = npt.NDArray[np.float64]

#: Share of the memory that is free when a store is filled that its maps may take; more goes to files.
_MEMORY_SHARE = 0.4


class Items(Protocol):
    """What views are rendered of.

    Attributes
    ----------
    key : str
        Equal keys render equal views.
    views : int
        Views of an item.
    size : int
        Side of a view, pixels.
    """

    key: str
    views: int
    size: int

    def __len__(self) -> int:
        """Return the number of items."""

    def name(self, index: int) -> str:
        """Return the path that errors speak of."""

    def render(self, index: int) -> tuple[Rgb, Homographies]:
        """Return (V, size, size, 3) views and the (V, 3, 3) homographies from the item's own frame to each.

        Raises
        ------
        ImageError
            If a photograph cannot be read.
        """


@dataclass(frozen=True)
class Encoder:
    """The frozen part of a stage: the trunk up to `level`, and teachers.

    Attributes
    ----------
    trunk : Trunk
    level : "images", "conv3" or "conv4"
        What is kept of each view.
    teachers : mapping of str to Teacher
        Their maps are kept beside it.
    device : torch.device
    dtype : torch.dtype
        Of the arithmetic (autocast); maps are kept in float16.
    start : Trunk or None
        The trunk as it was when the stage began, its weights never changed: of views kept as conv3, its conv4 is
        kept beside them, as computed, so that nothing is lost against computing it in every step.
    """

    trunk: Trunk
    level: Level
    teachers: Mapping[str, Teacher]
    device: torch.device
    dtype: torch.dtype
    start: Trunk | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the maps that are kept."""
        return (self.level, *self.teachers, *([START] if self._starts else []))

    @property
    def _starts(self) -> bool:
        return self.start is not None and self.level == "conv3"

    def __call__(self, views: Rgb) -> dict[str, Tensor]:
        """Map (V, S, S, 3) views to their maps by name, on the CPU."""
        pixels = torch.from_numpy(views)
        with torch.no_grad():
            moved = pixels.to(self.device)
            maps = {name: _kept(teacher(moved)) for name, teacher in self.teachers.items()}
            if self.level == "images":
                return {"images": pixels, **maps}
            with self.autocast():
                conv3 = _kept(self.trunk.stem(normalise_images(moved)))
            if self.level == "conv4":
                return {"conv4": _kept(self._last(self.trunk, conv3)), **maps}
            if self.start is not None:
                maps[START] = _as_computed(self._last(self.start, conv3))
            return {"conv3": conv3, **maps}

    def last(self, conv3: Tensor) -> Tensor:
        """Map the (V, C, h, w) float16 conv3 maps of one item to conv4 as it is kept."""
        with torch.no_grad():
            return _kept(self._last(self.trunk, conv3))

    def _last(self, trunk: Trunk, conv3: Tensor) -> Tensor:
        with self.autocast():
            return trunk.last(conv3.to(self.device, torch.float32).contiguous(memory_format=torch.channels_last))

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the network computes."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


class ViewStore:
    """Maps and homographies of the views of all readable items.

    Attributes
    ----------
    items : Items
    rows : (P,) int64
        Indices of the readable items.
    homographies : mapping of int to (V, 3, 3) float64
        By index.
    cache : Cache
    """

    def __init__(self, items: Items, encoder: Encoder, cache: Cache) -> None:
        self.items, self.encoder, self.cache = items, encoder, cache
        self.rows: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.homographies: dict[int, Homographies] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def maps(self, index: int) -> dict[str, Tensor]:
        """Return the maps of item `index` by name, V rows each: float16, or uint8 for images."""
        if index not in self.cache:
            return self.encoder(self.items.render(index)[0])
        held = self.cache.get(index)
        return {name: held[name] for name in self.encoder.names}

    def fill(
        self,
        *,
        sample: int | None = None,
        workers: int,
        on_error: Callable[[str, ImageError], None],
        progress: Callable[[int, int], None],
    ) -> None:
        """Render all items, or the first `sample`, with `workers` threads; cache the maps of as many as fit."""
        rows, full = [], False
        total = min(len(self.items), sample or len(self.items))
        for done, (index, rendered) in enumerate(_rendered(self.items, total, workers), 1):
            progress(done, total)
            if isinstance(rendered, ImageError):
                on_error(self.items.name(index), rendered)
                continue
            views, self.homographies[index] = rendered
            rows.append(index)
            full = full or not self.cache.put(index, self.encoder(views))
        self.rows = np.array(rows, np.int64)

    def advance(self, encoder: Encoder, *, progress: Callable[[int, int], None]) -> None:
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

    Parameters
    ----------
    limit : int
        Bytes of maps held at most, in memory and files together.
    folder : path or None
        For maps that memory has no room for.
    workers : int
        Threads that decode and warp.
    on_error : callable
        Called with each photograph that cannot be read.
    progress : callable
        Called with a name, items done, items in all.
    sample : int or None
        Render only so many items of each store, to plan with.

    Attributes
    ----------
    planned : dict of str to (int, int, float)
        Of each store that was filled: items, bytes that the maps of all would take, seconds an item took.
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
        self._open: dict[str, tuple[_State, ViewStore]] = {}

    def begin(self, encoder: Encoder) -> None:
        """State what the stage that begins needs of each view."""
        self._encoder = encoder

    def open(self, name: str, items: Items, *, teachers: bool = True) -> ViewStore:
        """Return the filled store called `name`, taking over what an earlier stage has cached.

        Raises
        ------
        DataError
            If fewer than two items can be read.
        """
        assert self._encoder is not None, "begin() comes first"
        encoder = self._encoder
        if not teachers:
            encoder = replace(encoder, teachers={}, start=None)
        wanted = _state(items, encoder)
        if name in self._open:
            state, store = self._open[name]
            if wanted.within(state):
                store.encoder = encoder
                return store
            conv3 = replace(encoder, level="conv3", start=None)
            if encoder.level == "conv4" and _state(items, conv3).within(state):
                began = time.monotonic()
                store.advance(encoder, progress=lambda done, total: self.progress(f"{name}: conv4", done, total))
                self._opened(name, wanted, store, began)
                return store
            store.cache.close()
        began = time.monotonic()
        store = ViewStore(items, encoder, self._new_cache(name, items, encoder))
        store.fill(
            sample=self.sample,
            workers=self.workers,
            on_error=self.on_error,
            progress=lambda done, total: self.progress(name, done, total),
        )
        if len(store) < 2:
            raise DataError(
                f"{name}: training needs at least 2 readable photographs or pairs; {len(store)} of {len(items)} "
                "can be read"
            )
        self._opened(name, wanted, store, began)
        return store

    def close(self) -> None:
        """Drop all maps."""
        for _, store in self._open.values():
            store.cache.close()
        self._open.clear()

    def _opened(self, name: str, state: _State, store: ViewStore, began: float) -> None:
        self._open[name] = (state, store)
        items = len(store.items)
        seconds = (time.monotonic() - began) / min(items, self.sample or items)
        self.planned[name] = (items, items * item_bytes(store.items, store.encoder), seconds)

    def _new_cache(self, name: str, items: Items, encoder: Encoder) -> Cache:
        left = self.limit - sum(store.cache.used for key, (_, store) in self._open.items() if key != name)
        needed = len(items) * item_bytes(items, encoder)
        in_memory = self.folder is None or min(left, needed) < _MEMORY_SHARE * memory_bytes()
        return Cache(max(left, 0), None if in_memory else Path(self.folder or "") / name)


def item_bytes(items: Items, encoder: Encoder) -> int:
    """Return the bytes that the maps of one item take."""
    blank = np.zeros((1, items.size, items.size, 3), np.uint8)
    return items.views * sum(value.numel() * value.element_size() for value in encoder(blank).values())


def fingerprint(*modules: torch.nn.Module) -> str:
    """Return the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for module in modules:
        for key, value in module.state_dict().items():
            digest.update(key.encode() + np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def deepest(maps: Mapping[str, Tensor]) -> Level:
    """Return the deepest of the trunk's maps that a batch holds."""
    if "conv4" in maps:
        return "conv4"
    return "conv3" if "conv3" in maps else "images"


@dataclass(frozen=True)
class _State:
    """What the cached maps of a store depend on, and the teachers whose maps are among them."""

    facts: tuple[str, ...]
    teachers: frozenset[str]

    def within(self, other: _State) -> bool:
        return self.facts == other.facts and self.teachers <= other.teachers


def _state(items: Items, encoder: Encoder) -> _State:
    trunk = encoder.trunk
    below = {
        "images": "",
        "conv3": fingerprint(trunk.conv1, trunk.layer1, trunk.layer2),
        "conv4": fingerprint(trunk),
    }[encoder.level]
    teachers = set(encoder.teachers)
    if encoder.start is not None and encoder.level == "conv3":
        teachers.add(f"{START} {fingerprint(encoder.start)}")
    return _State((items.key, encoder.level, below, str(encoder.dtype)), frozenset(teachers))


def _kept(maps: Tensor) -> Tensor:
    # The vector of a cell lies together: convolutions want it so, and losses look at cells.
    return maps.to("cpu", torch.float16).contiguous(memory_format=torch.channels_last)


def _as_computed(maps: Tensor) -> Tensor:
    return maps.to("cpu").contiguous(memory_format=torch.channels_last)


def _rendered(
    items: Items, total: int, workers: int
) -> Iterator[tuple[int, tuple[Rgb, Homographies] | ImageError]]:
    """Yield the first `total` items in order, rendered a few ahead by threads."""

    def render(index: int) -> tuple[Rgb, Homographies] | ImageError:
        try:
            return items.render(index)
        except ImageError as error:
            return error

    ahead = 4 * workers
    with ThreadPoolExecutor(workers) as pool:
        jobs = {i: pool.submit(render, i) for i in range(min(ahead, total))}
        for index in range(total):
            yield index, jobs.pop(index).result()
            if index + ahead < total:
                jobs[index + ahead] = pool.submit(render, index + ahead)
