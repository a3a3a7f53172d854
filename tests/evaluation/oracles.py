"""The revisited protocol again, one plain loop at a time, and rankings that evaluators get wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delf_engine.evaluation import GroundTruth

RANKS = (1, 5, 10)


def plain_figures(
    ranking: Sequence[int], positives: set[int], ignored: set[int]
) -> tuple[float, list[float]] | None:
    """Average precision and precision at 1, 5, 10 of one query, as fractions; None if it has no positive."""
    if not positives:
        return None
    counted = [image for image in ranking if image not in ignored]
    area, hits, last = 0.0, 0, 0
    for rank, image in enumerate(counted, start=1):
        if image in positives:
            before = hits / (rank - 1) if rank > 1 else 1.0
            hits += 1
            area += (before + hits / rank) / 2 / len(positives)
            last = rank
    precisions = []
    for k in RANKS:
        depth = min(last, k)
        precisions.append(sum(image in positives for image in counted[:depth]) / depth if depth else 0.0)
    return area, precisions


def sets_of(truth: GroundTruth, q: int, setup: str) -> tuple[set[int], set[int]]:
    easy, hard, junk = ({int(i) for i in lists[q]} for lists in (truth.easy, truth.hard, truth.junk))
    return {
        "easy": (easy, junk | hard),
        "medium": (easy | hard, junk),
        "hard": (hard, junk | easy),
    }[setup]


def awkward_ranking(rng: np.random.Generator, truth: GroundTruth, q: int) -> np.ndarray:
    """A ranking of one of the kinds that evaluators get wrong."""
    order = rng.permutation(len(truth.names))
    easy, hard, junk = truth.easy[q], truth.hard[q], truth.junk[q]
    kind = rng.integers(8)
    if kind == 0:  # junk, then the positives
        first = np.concatenate([junk, easy, hard])
    elif kind == 1:  # perfect
        first = np.concatenate([easy, hard, junk])
    elif kind == 2:  # everything that is wrong first
        return np.concatenate([np.setdiff1d(order, np.concatenate([easy, hard])), easy, hard])
    elif kind == 3:  # ends early
        return order[: rng.integers(0, 30)]
    elif kind == 4:  # junk stands between all positives
        first = rng.permutation(np.concatenate([easy, hard, junk]))
    elif kind == 5:  # no junk in it at all
        return np.setdiff1d(order, junk)
    elif kind == 6:  # nothing but positives, some missing
        return rng.permutation(np.concatenate([easy, hard]))[: rng.integers(0, 20)]
    else:
        return order
    return np.concatenate([first, order[~np.isin(order, first)]])


def synthetic(rng: np.random.Generator, images: int, queries: int) -> GroundTruth:
    lists: list[list[np.ndarray]] = []
    for _ in range(queries):
        order = rng.permutation(images)
        cuts = np.sort(rng.integers(0, images + 1, 3))
        lists.append(list(np.split(order, cuts)[:3]))
        if rng.random() < 0.2:
            lists[-1][rng.integers(3)] = order[:0]
    easy, hard, junk = zip(*lists, strict=True)
    boxes = np.tile([0.0, 0.0, 10.0, 10.0], (queries, 1))
    return GroundTruth(
        tuple(f"im{i}" for i in range(images)), tuple(f"q{i}" for i in range(queries)), boxes, easy, hard, junk
    )
