"""From the descriptors of images to what an ASMK index keeps of each: its visual words and a code for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.features import LocalFeatures
from delf_engine.grid import inside_regions
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.support.threads import in_threads

#: Distinct words of an image, ascending, (w,) int32; and their codes, (w, ceil(D / 64)) uint64.
Aggregate: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]

_BLOCK = 32768  # descriptors held at a time


def code_length(dim: int) -> int:
    """Return how many 64-bit numbers hold `dim` bits."""
    return -(-dim // 64)


def aggregated(
    codebook: Codebook,
    features: Sequence[LocalFeatures],
    assignments: int,
    mode: Literal["exact", "fast"] = "exact",
    regions: Literal["grid"] | None = None,
    *,
    threads: int,
) -> list[Aggregate]:
    """Aggregate each image's descriptors by visual word: return words and codes of each.

    A descriptor has `assignments` words, all if the codebook has fewer, found as `mode` says (`Codebook.assign`);
    the result has the same bits with any number of threads. With `regions` it counts once for its image, and once
    more for each region of the grid that it lies in. Codes are the signs of each word's sum: bit d % 64 of number
    d // 64 is set where component d is positive.
    """
    out: list[Aggregate] = []
    k = min(assignments, codebook.words)
    for block in blocks(features):
        some = features[block]
        descriptors = np.concatenate([item.descriptors for item in some])
        words = codebook.assign(descriptors, k, mode=mode, threads=threads)
        weights = [1.0 + inside_regions(item).sum(axis=0) if regions else np.ones(len(item)) for item in some]
        images = list(zip(by_image(words, some), by_image(descriptors, some), weights, strict=True))
        out += in_threads(partial(_aggregate, images, codebook), len(images), threads)
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


def _aggregate(
    images: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float64]]],
    codebook: Codebook,
    image: int,
) -> Aggregate:
    from delf_engine.index.asmk.kernels import word_sums

    assigned, descriptors, weights = images[image]
    keys = assigned.ravel().astype(np.int64) << 32 | np.arange(assigned.size)
    keys.sort()  # by word; within a word by descriptor
    words, sums = word_sums(keys, assigned.shape[1], descriptors, codebook.centroids, weights)
    codes = np.zeros((len(sums), code_length(sums.shape[1])), "<u8")
    packed = np.packbits(sums > 0, axis=1, bitorder="little")
    codes.view(np.uint8)[:, : packed.shape[1]] = packed
    return words, codes
