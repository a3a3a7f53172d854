"""Numba kernels of the fast assignment and of training. Imported only by functions that run them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["accumulate", "choose_apart", "decide"]


@njit(cache=True, nogil=True)
def decide(descriptors: Any, centroids: Any, proposed: Any, members: Any, starts: Any, out: Any) -> Any:
    """Pick each descriptor's nearest words from the groups of equal words proposed, by (distance, word).

    Parameters
    ----------
    descriptors : (N, D) float32
    centroids : (W, D) float32
    proposed : (N, C) int64
        Groups of words with the same centroid; negative ones are skipped.
    members : (W,) int32
        Words in the order of their groups, ascending in each.
    starts : (G + 1,) int64
        Where each group begins in `members`.
    out : (N, k) int32
        Overwritten.

    Returns
    -------
    (N,) bool
        False where fewer than k words were proposed.
    """
    n, k = out.shape
    enough = np.empty(n, np.bool_)
    distances = np.empty(k, np.float64)
    for i in range(n):
        found = 0
        for c in range(proposed.shape[1]):
            group = proposed[i, c]
            if group < 0:
                continue
            begin, end = starts[group], min(starts[group + 1], starts[group] + k)
            worst = distances[k - 1] if found == k else np.inf
            centroid = centroids[members[begin]]
            distance = 0.0
            for d in range(descriptors.shape[1]):
                difference = np.float64(descriptors[i, d]) - np.float64(centroid[d])
                distance += difference * difference
                if distance > worst:  # it only grows
                    break
            for m in range(begin, end):
                word = members[m]
                if found == k and (distance, word) >= (distances[k - 1], out[i, k - 1]):
                    break
                at = min(found, k - 1)
                while at > 0 and (distance, word) < (distances[at - 1], out[i, at - 1]):
                    distances[at] = distances[at - 1]
                    out[i, at] = out[i, at - 1]
                    at -= 1
                distances[at] = distance
                out[i, at] = word
                found = min(found + 1, k)
        enough[i] = found == k
    return enough


@njit(cache=True, nogil=True)
def accumulate(
    descriptors: Any, centroids: Any, words: Any, sums: Any, counts: Any, errors: Any, farthest: Any, rows: Any
) -> None:
    """Add descriptors to what one pass of k-means keeps of each word.

    Parameters
    ----------
    descriptors : (N, D) float32
    centroids : (W, D) float32
    words : (N,) int32
        Of each descriptor.
    sums : (W, D) float64
    counts : (W,) int64
    errors : (W,) float64
        Sums of squared distances to the word.
    farthest : (W,) float64
        The largest of them, and
    rows : (W, D) float32
        the descriptor that has it, of several the first.
    """
    for i in range(len(descriptors)):
        word = words[i]
        counts[word] += 1
        error = 0.0
        for d in range(descriptors.shape[1]):
            value = np.float64(descriptors[i, d])
            sums[word, d] += value
            difference = value - np.float64(centroids[word, d])
            error += difference * difference
        errors[word] += error
        if error > farthest[word]:
            farthest[word] = error
            rows[word] = descriptors[i]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def choose_apart(sample: Any, draws: Any, begin: Any, chosen: Any, nearest: Any) -> None:
    """Choose rows by the rule of k-means++: each with a chance in proportion to its squared distance to the rest.

    Parameters
    ----------
    sample : (M, D) float32
    draws : (n,) float64
        In [0, 1), one for each row to be chosen now.
    begin : int
        How many were chosen before.
    chosen : (W,) int64
        ``chosen[begin : begin + n]`` is written.
    nearest : (M,) float32
        Squared distance of each row to those chosen; 0 before the first, -1 for the chosen. Updated.
    """
    rows, dim = sample.shape
    for w in range(begin, begin + len(draws)):
        total = 0.0
        if w > 0:
            last = sample[chosen[w - 1]]
            for i in range(rows):
                if nearest[i] >= 0:
                    distance = np.float32(0)
                    for d in range(dim):
                        difference = sample[i, d] - last[d]
                        distance += difference * difference
                    if w == 1 or distance < nearest[i]:
                        nearest[i] = distance
                    total += np.float64(nearest[i])
        pick = -1
        if total > 0:
            rest = draws[w - begin] * total
            for i in range(rows):
                if nearest[i] > 0:
                    pick = i
                    rest -= np.float64(nearest[i])
                    if rest < 0:
                        break
        else:  # the first, or all that remain equal one that is chosen: any will do
            free = np.int64(draws[w - begin] * (rows - w))
            for i in range(rows):
                if nearest[i] >= 0:
                    if free == 0:
                        pick = i
                        break
                    free -= 1
        chosen[w] = pick
        nearest[pick] = -1
