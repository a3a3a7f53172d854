"""From the descriptors of images to what an ASMK index keeps of each: its visual words and a code for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError
from delf_engine.features import LocalFeatures
from delf_engine.index.codebook import Codebook
from delf_engine.regions import Regions
from delf_engine.support.threads import in_threads

__all__ = ["Aggregate", "Kernel", "aggregated", "blocks", "by_image", "check_regions", "code_length"]

#: Distinct words of an image, ascending, (w,) int32; and their codes: (w, ceil(D / 64)) uint64 signs, or (w, D)
#: float32 residuals of unit length, or (w, D) float64 sums of residuals.
Aggregate: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[Any]]
Kernel: TypeAlias = Literal["binary", "float", "sum"]
Mode: TypeAlias = Literal["exact", "fast"]

_BLOCK = 32768  # descriptors held at a time
_SHARES = 4  # parts for each thread: images differ in size


def code_length(dim: int) -> int:
    """Return how many 64-bit numbers hold `dim` bits."""
    return -(-dim // 64)


def aggregated(
    codebook: Codebook,
    features: Sequence[LocalFeatures],
    *,
    assignments: int,
    kernel: Kernel,
    threads: int,
    mode: Mode = "exact",
    regions: Sequence[Regions | None] | None = None,
    region_norm: Literal["l2"] | None = None,
) -> list[Aggregate]:
    """Aggregate each image's descriptors by visual word.

    Parameters
    ----------
    codebook : Codebook
    features : sequence of LocalFeatures
        Of n images.
    assignments : int
        Words a descriptor; all if the codebook has fewer.
    kernel : "binary", "float" or "sum"
        Keep the signs of each word's sum, the sum at unit length, or the sum itself.
    threads : int
        The result has the same bits with any number.
    mode : "exact" or "fast"
        How words are found, see `Codebook.assign`.
    regions : sequence of n Regions or None, optional
        Each descriptor counts once for its image, and once more for each region that it lies in.
    region_norm : "l2" or None
        See `AsmkConfig`.

    Returns
    -------
    list of n (words, codes)
    """
    out: list[Aggregate] = []
    k = min(assignments, codebook.words)
    for block in blocks(features):
        places = None if regions is None else regions[block]
        out += _block(codebook, features[block], k, mode, kernel, threads, places, region_norm == "l2")
    return out


def blocks(features: Sequence[LocalFeatures]) -> Iterator[slice]:
    """Cut images into runs that together have about 32,768 descriptors, or one image that has more."""
    first = size = 0
    for i, item in enumerate(features):
        size += len(item)
        if size >= _BLOCK or i + 1 == len(features):
            yield slice(first, i + 1)
            first, size = i + 1, 0


def by_image(array: npt.NDArray[Any], features: Sequence[LocalFeatures]) -> list[npt.NDArray[Any]]:
    """Cut an array with a row for each descriptor of several images, (N, ...), into those of each."""
    return np.split(array, np.cumsum([len(item) for item in features])[:-1])


def check_regions(
    ids: Sequence[str], features: Sequence[LocalFeatures], regions: Sequence[Regions | None]
) -> dict[str, Regions | None]:
    """Return the regions of a batch by image id; of an id that occurs twice the first count.

    Raises
    ------
    ConfigError
        If there is not one for each id.
    FeatureError
        If they are no `Regions`, or name descriptors that their image does not have.
    """
    several = list(regions)
    if len(several) != len(ids):
        raise ConfigError(f"got the regions of {len(several)} images for {len(ids)} ids")
    batch: dict[str, Regions | None] = {}
    for image_id, item, places in zip(ids, features, several, strict=True):
        if places is not None:
            if not isinstance(places, Regions):
                raise FeatureError(f"{image_id}: expected Regions or None, got {type(places).__name__}")
            if len(places.indices) and int(places.indices.max()) >= len(item):
                raise FeatureError(
                    f"{image_id}: a region has descriptor {places.indices.max()}, the image has {len(item)}"
                )
        batch.setdefault(image_id, places)
    return batch


def _block(
    codebook: Codebook,
    features: Sequence[LocalFeatures],
    k: int,
    mode: Mode,
    kernel: Kernel,
    threads: int,
    regions: Sequence[Regions | None] | None,
    scaled: bool,
) -> list[Aggregate]:
    from delf_engine.index import aggregation_kernels as kernels

    descriptors = np.concatenate([item.descriptors for item in features])
    starts = _starts([len(item) for item in features])
    words = codebook.assign(descriptors, k, mode=mode, threads=threads)
    weights = np.ones(len(descriptors))
    found = np.empty(words.size, np.int32)
    length, dtype = {
        "binary": (code_length(codebook.dim), np.uint64),
        "float": (codebook.dim, np.float32),
        "sum": (codebook.dim, np.float64),
    }[kernel]
    codes = np.empty((words.size, length), dtype)
    counts = np.empty(len(features), np.int64)
    keys = _keys(words, starts)
    given: tuple[Any, ...] = (starts, descriptors, codebook.centroids, keys)
    members = None if regions is None else _members(regions)
    shares = np.unique(np.linspace(0, len(features), _SHARES * threads + 1).astype(np.int64))

    weigh: Any = kernels.region_weights
    aggregate: Any = {
        "binary": kernels.aggregate_signs,
        "float": kernels.aggregate_units,
        "sum": kernels.aggregate_sums,
    }[kernel]

    def work(i: int) -> None:
        begin, end = shares[i], shares[i + 1]
        for image in range(begin, end):
            keys[k * starts[image] : k * starts[image + 1]].sort()
        if members is not None:
            weigh(begin, end, *given, *members, scaled, weights)
        aggregate(begin, end, *given, weights, found, codes, counts)

    in_threads(work, len(shares) - 1, threads)
    rows = [slice(k * start, k * start + count) for start, count in zip(starts[:-1], counts, strict=True)]
    return [(found[row].copy(), codes[row].copy()) for row in rows]


def _keys(words: npt.NDArray[np.int32], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return what sorts the (N, k) assignments of each image by word, stably: word << 32 | assignment, (N k,)."""
    n, k = words.shape
    assignment = np.arange(n * k) - k * np.repeat(starts[:-1], k * np.diff(starts))
    return words.ravel().astype(np.int64) << 32 | assignment


def _members(regions: Sequence[Regions | None]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the regions of several images in three arrays, as `region_weights` takes them."""
    there = [item for item in regions if item is not None]
    sizes = [np.empty(0, np.int64), *(np.diff(item.offsets) for item in there)]
    indices = [np.empty(0, np.int64), *(item.indices for item in there)]
    numbers = [0 if item is None else len(item) for item in regions]
    return _starts(numbers), _starts(np.concatenate(sizes)), np.concatenate(indices)


def _starts(sizes: npt.ArrayLike) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
