"""The votes of a KD-tree index: from the neighbours of single descriptors to scores of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["gathered"]

_BACKGROUND = 0.99


def gathered(
    rows: npt.NDArray[np.int32], squared: npt.NDArray[np.float32], images: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float32]:
    """Return the score of each image.

    Parameters
    ----------
    rows : (Q, K) int32
        Neighbours of each query descriptor, nearest first, -1 for none.
    squared : (Q, K) float32
        Their squared distances.
    images : (R,) int64
        Image of each row.
    count : int
        Number of images.
    """
    there = rows.ravel() >= 0
    # Cosines, since descriptors have unit length.
    similarity = np.where(rows >= 0, np.clip(1 - squared.astype(np.float64) / 2, 0, 1), 0)
    votes = (similarity - _BACKGROUND * similarity[:, -1:]).ravel()[there]
    query = np.repeat(np.arange(len(rows)), rows.shape[1])[there]
    row, distance = rows.ravel()[there].astype(np.int64), squared.ravel()[there].astype(np.float64)
    # The nearest descriptor of each (query descriptor, image), then the nearest query descriptor of each of these.
    order = np.lexsort((row, distance, query * count + images[row]))
    order = order[_first(query[order] * count + images[row[order]])]
    order = order[np.lexsort((query[order], distance[order], row[order]))]
    order = order[_first(row[order])]
    return np.bincount(images[row[order]], votes[order], minlength=count).astype(np.float32)


def _first(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mark the first of each run of equal keys."""
    return np.concatenate([np.ones(min(1, len(keys)), bool), keys[1:] != keys[:-1]])
