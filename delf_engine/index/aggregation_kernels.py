"""Numba kernels that aggregate descriptors. Imported only by functions that run them: numba takes a while to load.

Sums are in float64 and in a fixed order, and each image is summed by one thread: results are the same bits however
images are shared out among threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["aggregate_signs", "aggregate_sums", "aggregate_units", "region_weights"]


@njit(cache=True, nogil=True)
def _sum_word(
    keys: Any, at: Any, end: Any, k: Any, descriptors: Any, first: Any, centroids: Any, weights: Any, residual: Any
) -> Any:
    """Sum the weighted residuals of the run of equal words that begins at `at`; return where the run ends."""
    word = keys[at] >> 32
    residual[:] = 0.0
    while at < end and keys[at] >> 32 == word:
        row = first + (keys[at] & 0xFFFFFFFF) // k
        weight = weights[row]
        for d in range(len(residual)):
            residual[d] += weight * (np.float64(descriptors[row, d]) - np.float64(centroids[word, d]))
        at += 1
    return at


@njit(cache=True, nogil=True)
def aggregate_signs(
    begin: Any,
    end: Any,
    starts: Any,
    descriptors: Any,
    centroids: Any,
    keys: Any,
    weights: Any,
    out_words: Any,
    out_codes: Any,
    counts: Any,
) -> None:
    """Sum the residuals of each image's descriptors in each visual word and keep their signs.

    Parameters
    ----------
    begin, end : int
        Aggregate images ``begin`` to ``end - 1``.
    starts : (n + 1,) int64
        Where the descriptors of each image begin.
    descriptors : (N, D) float32
    centroids : (W, D) float32
    keys : (N k,) int64
        Assignments: word << 32 | assignment, counted from the first of its image; ascending within each image.
    weights : (N,) float64
        Of each descriptor. Those of weight 0 still count among the words of their image.
    out_words : (N k,) int32
        From ``k starts[i]`` on the distinct words of image i, ascending.
    out_codes : (N k, ceil(D / 64)) uint64
        Overwritten. Bit d % 64 of column d // 64 is set where component d of the sum is positive.
    counts : (n,) int64
        Overwritten: distinct words of each image.
    """
    dim = descriptors.shape[1]
    k = len(keys) // max(1, len(descriptors))
    residual = np.empty(dim, np.float64)
    for image in range(begin, end):
        first, at, last = starts[image], k * starts[image], k * starts[image + 1]
        row = at
        while at < last:
            out_words[row] = keys[at] >> 32
            at = _sum_word(keys, at, last, k, descriptors, first, centroids, weights, residual)
            for part in range(out_codes.shape[1]):
                bits = np.uint64(0)
                for d in range(64 * part, min(dim, 64 * part + 64)):  # without a branch: signs are random
                    bits |= np.uint64(residual[d] > 0) << np.uint64(d & 63)
                out_codes[row, part] = bits
            row += 1
        counts[image] = row - first * k


@njit(cache=True, nogil=True)
def aggregate_units(
    begin: Any,
    end: Any,
    starts: Any,
    descriptors: Any,
    centroids: Any,
    keys: Any,
    weights: Any,
    out_words: Any,
    out_codes: Any,
    counts: Any,
) -> None:
    """Do as `aggregate_signs`, but keep the sums at unit length.

    Parameters
    ----------
    begin, end, starts, descriptors, centroids, keys, weights, out_words, counts
        As there.
    out_codes : (N k, D) float32
        Overwritten. A sum that is exactly zero stays zero.
    """
    dim = descriptors.shape[1]
    k = len(keys) // max(1, len(descriptors))
    residual = np.empty(dim, np.float64)
    for image in range(begin, end):
        first, at, last = starts[image], k * starts[image], k * starts[image + 1]
        row = at
        while at < last:
            out_words[row] = keys[at] >> 32
            at = _sum_word(keys, at, last, k, descriptors, first, centroids, weights, residual)
            squared = 0.0
            for d in range(dim):
                squared += residual[d] * residual[d]
            norm = np.sqrt(squared)
            for d in range(dim):
                out_codes[row, d] = residual[d] / norm if norm > 0 else 0.0
            row += 1
        counts[image] = row - first * k


@njit(cache=True, nogil=True)
def aggregate_sums(
    begin: Any,
    end: Any,
    starts: Any,
    descriptors: Any,
    centroids: Any,
    keys: Any,
    weights: Any,
    out_words: Any,
    out_codes: Any,
    counts: Any,
) -> None:
    """Do as `aggregate_signs`, but keep the sums as they are.

    Parameters
    ----------
    begin, end, starts, descriptors, centroids, keys, weights, out_words, counts
        As there.
    out_codes : (N k, D) float64
        Overwritten.
    """
    k = len(keys) // max(1, len(descriptors))
    for image in range(begin, end):
        first, at, last = starts[image], k * starts[image], k * starts[image + 1]
        row = at
        while at < last:
            out_words[row] = keys[at] >> 32
            at = _sum_word(keys, at, last, k, descriptors, first, centroids, weights, out_codes[row])
            row += 1
        counts[image] = row - first * k


@njit(cache=True, nogil=True)
def region_weights(
    begin: Any,
    end: Any,
    starts: Any,
    descriptors: Any,
    centroids: Any,
    keys: Any,
    region_starts: Any,
    offsets: Any,
    indices: Any,
    scaled: Any,
    weights: Any,
) -> None:
    """Say how often each descriptor counts: once for its image, and once for each region that it lies in.

    Parameters
    ----------
    begin, end, starts, descriptors, centroids, keys
        As of `aggregate_signs`.
    region_starts : (n + 1,) int64
        Where the regions of each image begin.
    offsets : (R + 1,) int64
        Where the members of each region begin.
    indices : (M,) int64
        Descriptors of the region's image, counted from its first.
    scaled : bool
        Scale the sums of the image, and of each region, to unit length over all words before they are added.
    weights : (N,) float64
        Overwritten.
    """
    residual = np.empty(descriptors.shape[1], np.float64)
    inside = np.zeros(len(descriptors), np.float64)  # 1 for members of the region at hand
    k = len(keys) // max(1, len(descriptors))
    for image in range(begin, end):
        first, last = starts[image], starts[image + 1]
        inside[first:last] = 1.0
        weights[first:last] = 0.0
        for region in range(region_starts[image] - 1, region_starts[image + 1]):
            if region >= region_starts[image]:
                inside[first:last] = 0.0
                for m in range(offsets[region], offsets[region + 1]):
                    inside[first + indices[m]] = 1.0
            share = 1.0
            if scaled:
                squared, at = 0.0, k * first
                while at < k * last:
                    at = _sum_word(keys, at, k * last, k, descriptors, first, centroids, inside, residual)
                    for d in range(len(residual)):
                        squared += residual[d] * residual[d]
                share = 1.0 / np.sqrt(squared) if squared > 0 else 0.0
            for row in range(first, last):
                weights[row] += share * inside[row]
