"""One ranking of two ways to search, whose scores cannot be compared as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.index.contract import Found

Scores = npt.NDArray[np.float32]

_RANK = 60  # as published: the first of a ranking counts 1 / 61
_GLOBAL = 0.5  # benchmarks.index.global_search: of 0.5, 1 and 1.5 the best on the development sets


def fuse_scores(local: Scores, vectors: Scores, alive: npt.NDArray[np.bool_]) -> Scores:
    """Return the scores of local features plus half the cosines of vectors, each divided by its deviation.

    All are (n,) float32, of every row of a collection, to be compared within one query. Cosines below 0 count as
    0, so that they take nothing away from what local features have found. Rows that are not `alive`, (n,) bool, do
    not count and get 0.
    """
    parts = []
    for scores in (local, np.maximum(vectors, 0)):
        deviation = float(scores[alive].astype(np.float64).std()) if alive.any() else 0.0
        parts.append(scores / (deviation or 1.0))
    return np.where(alive, parts[0] + _GLOBAL * parts[1], 0).astype(np.float32)


def fuse_ranks(rankings: Sequence[Found], top_k: int) -> Found:
    """Return one ranking by the sum of 1 / (60 + rank) over all: reciprocal rank fusion (Cormack, SIGIR 2009).

    For rankings whose scores are not known for every image, such as those of two systems. `rankings` are best
    first, their scores are not looked at; `top_k` images are returned at most, ties by the better of both ranks,
    then in the order of the rankings.
    """
    sums: dict[str, float] = {}
    bests: dict[str, int] = {}
    for ids, _ in rankings:
        for rank, image_id in enumerate(ids, start=1):
            sums[image_id] = sums.get(image_id, 0.0) + 1 / (_RANK + rank)
            bests[image_id] = min(bests.get(image_id, rank), rank)
    order = sorted(sums, key=lambda image_id: (-sums[image_id], bests[image_id]))[:top_k]
    return order, np.array([sums[image_id] for image_id in order], np.float32)
