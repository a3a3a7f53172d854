"""The votes of single descriptors: from their neighbours to scores of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BACKGROUND = 0.99


def gathered(
    rows: npt.NDArray[np.integer[Any]],
    squared: npt.NDArray[np.floating[Any]],
    images: npt.NDArray[np.integer[Any]],
    count: int,
) -> npt.NDArray[np.float32]:
    """Return the score of each image, (count,) float32: see `delf_engine.index.kdtree`.

    `rows`, (Q, K), are the neighbours of each query descriptor, nearest first, -1 for none, with their `squared`
    distances and the `images` that they are of, anything where there is none. Time grows with Q K; the number of
    images costs no more than an array of their scores.
    """
    rows, squared, images = rows.astype(np.int64), squared.astype(np.float64), images.astype(np.int64)
    tied = ((squared[:, 1:] == squared[:, :-1]) & (rows[:, 1:] < rows[:, :-1]) & (rows[:, 1:] >= 0)).any(1)
    if tied.any():  # bring neighbours that are equally near into the order of their rows
        order = np.broadcast_to(np.arange(rows.shape[1]), rows.shape).copy()
        order[tied] = np.lexsort((rows[tied], np.where(rows[tied] >= 0, squared[tied], np.inf)))
        rows, squared = np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)
        images = np.take_along_axis(images, order, 1)
    there = rows.ravel() >= 0
    # Cosines, since descriptors have unit length.
    similarity = np.where(rows >= 0, np.clip(1 - squared / 2, 0, 1), 0)
    background = np.where(rows >= 0, similarity, 1).min(1, initial=1)  # of the farthest that was found
    votes = (similarity - _BACKGROUND * background[:, None]).ravel()[there]
    query = np.repeat(np.arange(len(rows)), rows.shape[1])[there]
    row, distance, image = rows.ravel()[there], squared.ravel()[there], images.ravel()[there]
    # The nearest descriptor of each (query descriptor, image), then the nearest query descriptor of each of these.
    chosen = _firsts(query * count + image)
    chosen = chosen[np.argsort(distance[chosen], kind="stable")]  # of equally near ones the first query descriptor
    chosen = chosen[_firsts(row[chosen])]
    return np.bincount(image[chosen], votes[chosen], minlength=count).astype(np.float32)


def _firsts(keys: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return where each key, none of them negative, occurs first, in the order of the keys."""
    count = len(keys)
    if not count or int(keys.max()) >= (1 << 62) // count:
        return np.unique(keys, return_index=True)[1]
    # Numbers that differ from each other sort several times faster than equal ones do stably.
    key, place = np.divmod(np.sort(keys * count + np.arange(count)), count)
    return place[np.concatenate([np.ones(1, bool), key[1:] != key[:-1]])]
