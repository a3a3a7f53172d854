"""One ranking of several: of different ways to search, whose scores cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delf_engine.index.contract import Found

_RANK = 60  # as published: the first of a ranking counts 1 / 61


def fuse_ranks(rankings: Sequence[Found], top_k: int) -> Found:
    """Return one ranking by the sum of 1 / (60 + rank) over all: reciprocal rank fusion (Cormack, SIGIR 2009).

    Parameters
    ----------
    rankings : sequence of (ids, scores)
        Each best first; scores are not looked at.
    top_k : int
        Images returned at most.

    Returns
    -------
    ids : list of str
        Best first; ties by the better of both ranks, then in the order of the rankings.
    scores : (K,) float32
    """
    sums: dict[str, float] = {}
    bests: dict[str, int] = {}
    for ids, _ in rankings:
        for rank, image_id in enumerate(ids, start=1):
            sums[image_id] = sums.get(image_id, 0.0) + 1 / (_RANK + rank)
            bests[image_id] = min(bests.get(image_id, rank), rank)
    order = sorted(sums, key=lambda image_id: (-sums[image_id], bests[image_id]))[:top_k]
    return order, np.array([sums[image_id] for image_id in order], np.float32)
