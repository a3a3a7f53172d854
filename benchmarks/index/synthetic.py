"""Synthetic descriptors and inverted files for benchmarks of the index: clustered, and repeating themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from delf_engine import LocalFeatures

__all__ = ["DIM", "descriptors", "images", "postings"]

DIM = 40
_CLUSTERS = 2000
_WIDTH = 0.95  # of each dimension beside the one before
_DISTINCT = 0.68  # share of an image's descriptors that are no repetition of another of its own
_NOISE = 0.05  # of a repetition


def descriptors(n: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return n unit vectors of 40 dimensions in 2,000 Gaussian clusters.

    Each dimension is 0.95 times as wide as the one before: the nearest of 65,536 words that are further draws are
    then about as far away as among as many descriptors of delf-r18.
    """
    centres = np.random.default_rng(0).normal(size=(_CLUSTERS, DIM))
    data = (centres[rng.integers(_CLUSTERS, size=n)] + rng.normal(size=(n, DIM))) * _WIDTH ** np.arange(DIM)
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)


def images(count: int, per_image: int, seed: int) -> Iterator[LocalFeatures]:
    """Yield images whose descriptors repeat themselves: about 700 visual words of 65,536 for 1,000 descriptors."""
    distinct = max(1, round(_DISTINCT * per_image))
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        data = descriptors(distinct, rng)
        again = data[rng.integers(distinct, size=per_image - distinct)]
        again = again + _NOISE * rng.normal(size=again.shape).astype(np.float32) / np.sqrt(DIM)
        data = np.concatenate([data, again / np.linalg.norm(again, axis=1, keepdims=True)])
        yield LocalFeatures(
            keypoints=rng.uniform(0, 1000, (per_image, 2)).astype(np.float32),
            scales=np.ones(per_image, np.float32),
            scores=np.ones(per_image, np.float32),
            descriptors=data.astype(np.float32),
            image_size=(1000, 1000),
        )


def postings(
    count: int, words: int, per_image: int, seed: int
) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64]]]:
    """Return the words and codes of images as an ASMK index keeps them, without descriptors.

    How common a word is follows an exponential distribution: queries, whose words are drawn alike, meet twice as
    many postings as if all words were equally common. Codes are random bits.
    """
    rng = np.random.default_rng([seed, 1])
    common = np.cumsum(np.random.default_rng(0).exponential(size=words))
    out = []
    for row in np.searchsorted(common, common[-1] * rng.random((count, 2 * per_image))).astype(np.int32):
        several = np.unique(row)
        chosen = np.sort(several[rng.permutation(len(several))[:per_image]])
        out.append((chosen, rng.integers(0, 1 << DIM, size=(len(chosen), 1), dtype=np.uint64)))
    return out
