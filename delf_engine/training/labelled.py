"""The list of labelled photographs: file names grouped by class, and what may be chosen from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError


@dataclass(frozen=True)
class LabelledImages:
    """N photographs of C classes, grouped by class.

    Names are kept as bytes in one array: some hundred MB for the four million photographs of Google Landmarks v2.
    """

    root: str  # folder that the names are relative to
    files: npt.NDArray[np.bytes_]  # (N,) bytes array: names, sorted within each class
    # (C + 1,) int64: class c has the photographs ``starts[c]`` to ``starts[c + 1]``; it has at least one.
    starts: npt.NDArray[np.int64]
    classes: tuple[str, ...]  # names of the classes, sorted

    @classmethod
    def group(cls, root: str | os.PathLike[str], files: Sequence[str], labels: Sequence[str]) -> LabelledImages:
        """Group `files`, names relative to `root`, by their `labels`, names of classes."""
        names = np.array([os.fsencode(file) for file in files], dtype=np.bytes_)
        found, label = np.unique(np.array([os.fsencode(name) for name in labels], np.bytes_), return_inverse=True)
        order = np.lexsort((names, label))
        starts = np.searchsorted(label[order], np.arange(len(found) + 1)).astype(np.int64)
        return cls(os.fspath(root), names[order], starts, tuple(os.fsdecode(name) for name in found))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Photographs of each class, (C,)."""
        return np.diff(self.starts)

    def path(self, index: int) -> str:
        """Return the path of photograph `index`."""
        return os.path.join(self.root, os.fsdecode(bytes(self.files[index])))

    def paths(self) -> list[str]:
        """Return the paths of all photographs, class by class."""
        return [self.path(index) for index in range(len(self))]

    def take(self, chosen: npt.NDArray[np.bool_], *, keep_classes: bool = False) -> LabelledImages:
        """Return the photographs where the (N,) mask is true; classes without any go, unless they are kept."""
        sizes = np.diff(np.concatenate([[0], np.cumsum(chosen)])[self.starts])
        stay = np.full(len(sizes), True) if keep_classes else sizes > 0
        return LabelledImages(
            self.root,
            self.files[chosen],
            np.concatenate([[0], np.cumsum(sizes[stay])]).astype(np.int64),
            tuple(name for name, kept in zip(self.classes, stay, strict=True) if kept),
        )

    def among(self, paths: Iterable[str]) -> LabelledImages:
        """Return the photographs that are named in `paths`; classes without any go."""
        wanted = {os.path.abspath(path) for path in paths}
        mask = np.fromiter((os.path.abspath(path) in wanted for path in self.paths()), np.bool_, len(self))
        return self.take(mask)

    @property
    def key(self) -> str:
        """SHA-256 of names and labels."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for array in (self.starts, self.files):
            digest.update(f"{array.dtype.str} {array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()

    def aligned(self, classes: Sequence[str]) -> LabelledImages:
        """Return the photographs of `classes`, sorted names, numbered as they are there; some may have none."""
        mine, wanted = {name: i for i, name in enumerate(self.classes)}, set(classes)
        shared = np.array([name in wanted for name in self.classes], dtype=bool)
        data = self.take(np.repeat(shared, self.sizes))
        sizes = [int(self.sizes[mine[name]]) if name in mine else 0 for name in classes]
        return LabelledImages(self.root, data.files, np.cumsum([0, *sizes]).astype(np.int64), tuple(classes))


def select_classes(
    data: LabelledImages, *, min_images: int = 1, max_images: int | None = None, seed: int = 0
) -> LabelledImages:
    """Leave out classes of fewer than `min_images` photographs, and draw `max_images` at most of each other.

    Same seed, same photographs, whatever other classes there are. A `DataError` if fewer than two classes stay, or
    a class has one photograph only, of which nothing can be held out.
    """
    stay = np.repeat(data.sizes >= min_images, data.sizes)
    if max_images is not None:
        stay &= _rank_within_class(data, seed) < max_images
    chosen = data.take(stay)
    if len(chosen.classes) < 2:
        before = (
            f" of {len(data.classes)}; min_images = {min_images}"
            if len(chosen.classes) < len(data.classes)
            else ""
        )
        raise DataError(
            f"{data.root}: classes to train on: {len(chosen.classes)}{before}; "
            "telling classes apart needs at least 2"
        )
    single = [name for name, size in zip(chosen.classes, chosen.sizes, strict=True) if size == 1]
    if single:
        raise DataError(
            f"{data.root}: {len(single)} of {len(chosen.classes)} classes have one photograph only "
            f"({named(single)}), none can be held out of them; "
            + ("max_images must be at least 2" if max_images == 1 else "set min_images to 2 to leave them out")
        )
    return chosen


def hold_out(data: LabelledImages, *, every: int, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Split each class: one photograph in `every`, at least one and never all, is held out to measure on.

    Both parts have the same classes, if each class has two photographs at least.
    """
    sizes = np.repeat(data.sizes, data.sizes)
    out = _rank_within_class(data, seed) < np.minimum(np.maximum(sizes // every, 1), sizes - 1)
    return data.take(~out, keep_classes=True), data.take(out, keep_classes=True)


def draw_balanced(data: LabelledImages, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw `count` photographs, each of a uniformly drawn class; return their (count,) indices."""
    label = rng.integers(0, len(data.classes), count)
    return np.asarray(data.starts[label] + rng.integers(0, data.sizes[label]), dtype=np.int64)


def named(names: Sequence[str], most: int = 3) -> str:
    """Return a few of many names for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _rank_within_class(data: LabelledImages, seed: int) -> npt.NDArray[np.int64]:
    """Return a random rank of each photograph within its class, from the seed and the names in the class alone."""
    ranks = np.empty(len(data), np.int64)
    for name, start, end in zip(data.classes, data.starts[:-1], data.starts[1:], strict=True):
        key = [seed, *os.fsencode(name)]
        ranks[start:end] = np.random.default_rng(key).permutation(end - start)
    return ranks
