"""The votes of single descriptors: from their neighbours to scores of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["gathered"]

_BACKGROUND = 0.99


def gathered(
    rows: npt.NDArray[np.integer[Any]],
    squared: npt.NDArray[np.floating[Any]],
    images: npt.NDArray[np.integer[Any]],
    count: int,
) -> npt.NDArray[np.float32]:
    """Return the score of each image: see `delf_engine.index.kdtree`.

    Time grows with Q K; the number of images costs no more than an array of their scores.

    Parameters
    ----------
    rows : (Q, K) int
        Neighbours of each query descriptor, nearest first, -1 for none.
    squared : (Q, K) float
        Their squared distances.
    images : (Q, K) int
        The image that each neighbour is of; anything where there is none.
    count : int
        Number of images.

    Returns
    -------
    (count,) float32
    """
    there = rows.ravel() >= 0
    # Cosines, since descriptors have unit length.
    similarity = np.where(rows >= 0, np.clip(1 - squared.astype(np.float64) / 2, 0, 1), 0)
    background = np.where(rows >= 0, similarity, 1).min(1, initial=1)  # of the farthest that was found
    votes = (similarity - _BACKGROUND * background[:, None]).ravel()[there]
    query = np.repeat(np.arange(len(rows)), rows.shape[1])[there]
    row, distance = rows.ravel()[there].astype(np.int64), squared.ravel()[there].astype(np.float64)
    image = images.ravel()[there].astype(np.int64)
    # The nearest descriptor of each (query descriptor, image), then the nearest query descriptor of each of these.
    order = np.lexsort((row, distance, query * count + image))
    order = order[_first(query[order] * count + image[order])]
    order = order[np.lexsort((query[order], distance[order], row[order]))]
    order = order[_first(row[order])]
    return np.bincount(image[order], votes[order], minlength=count).astype(np.float32)


def _first(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the first of each run of equal keys."""
    return np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]])
