"""Dense plain NumPy of what `delf_engine.vectors` does, and collections in which much may go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

Array = Any


@st.composite
def collections(draw: st.DrawFn, smallest: int = 0) -> tuple[Array, Array]:
    """Queries and vectors, (M, D) and (N, D) float32: few values, so that ties, copies and zeros are common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dim, count, queries = draw(st.integers(1, 6)), draw(st.integers(smallest, 40)), draw(st.integers(0, 4))
    if draw(st.booleans()):
        return whole(rng, queries, dim), whole(rng, count, dim)
    vectors = rng.normal(size=(count, dim)).astype(np.float32)
    return rng.normal(size=(queries, dim)).astype(np.float32), vectors


def whole(rng: np.random.Generator, count: int, dim: int) -> Array:
    return rng.integers(-1, 2, (count, dim)).astype(np.float32)


def clustered(rng: np.random.Generator, count: int, dim: int, spread: float = 0.5) -> Array:
    """Unit vectors around one centre for every ten, (count, dim) float32."""
    centres = rng.normal(size=(max(1, count // 10), dim))
    vectors = centres[np.arange(count) % len(centres)] + spread * rng.normal(size=(count, dim))
    return units(vectors)


def units(vectors: Array) -> Array:
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def cosines(queries: Array, vectors: Array) -> Array:
    """(M, N) float32; each product summed by itself, so that copies tie."""
    a, b = units(queries).astype(np.float64), units(vectors).astype(np.float64)
    return (a[:, None] * b[None]).sum(axis=2).astype(np.float32)


def ranked(scores: Array) -> Array:
    """Indices from the best of each row to the worst, the lower first where they tie."""
    return np.argsort(-scores, axis=1, kind="stable")


def ranked_others(vectors: Array) -> Array:
    """Of each vector the ranking of all others, (N, N - 1)."""
    scores = cosines(vectors, vectors)
    np.fill_diagonal(scores, np.inf)
    return ranked(scores)[:, 1:]


def reciprocal_distances(queries: Array, vectors: Array, k1: int, k2: int, weight: float) -> Array:
    """(M, N): as published (Zhong et al. 2017), with sets; queries outside the collection."""
    count, there = len(vectors), units(vectors).any(axis=1)
    own, others = cosines(vectors, vectors), ranked_others(vectors)
    asked = cosines(queries, vectors)

    def listed(i: int, k: int) -> list[int]:
        return [i] + [int(j) for j in others[i, :k] if there[i] and there[j]]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in listed(i, k) if i in listed(j, k)}

    half = [mutual(i, round(k1 / 2)) for i in range(count)]

    def encoded(reciprocal: set[int], similar: Array) -> Array:
        support = set(reciprocal)
        for j in reciprocal:
            if 3 * len(half[j] & reciprocal) > 2 * len(half[j]):
                support |= half[j]
        out = np.zeros(count)
        for j in support:
            out[j] = np.exp(float(similar[j]) - 1)
        return out / max(out.sum(), 1e-300)

    single = [encoded(mutual(i, k1), own[i]) for i in range(count)]
    full = [np.mean([single[j] for j in listed(i, k2 - 1)], axis=0) for i in range(count)]
    out = np.zeros((len(queries), count))
    for q, similar in enumerate(asked):
        near = [int(j) for j in ranked(asked)[q] if there[j] and units(queries)[q].any()]
        in_list = [j for j in ranked(asked)[q][:k1] if j in near]
        limits = {j: own[j, others[j, k1 - 1]] if count > k1 else -np.inf for j in in_list}
        first = encoded({int(j) for j in in_list if similar[j] >= limits[j]}, similar)
        around = [single[j] for j in ranked(asked)[q][: k2 - 1] if j in near]
        mine = np.mean([first, *around], axis=0)
        for j in range(count):
            shared, united = np.minimum(mine, full[j]).sum(), np.maximum(mine, full[j]).sum()
            jaccard = 1 - (shared / united if united > 0 else 0)
            out[q, j] = (1 - weight) * jaccard + weight * (1 - float(similar[j]))
    return out


def diffused(queries: Array, vectors: Array, neighbors: int, power: float, joined: int, alpha: float) -> Array:
    """(M, N) float64: the dense system, solved directly."""
    count = len(vectors)
    own, near = cosines(vectors, vectors).astype(np.float64), ranked_others(vectors)[:, :neighbors]
    listed = np.zeros((count, count), bool)
    np.put_along_axis(listed, near, True, axis=1)
    weights = np.where(listed & listed.T & (own > 0), np.maximum(own, 0) ** power, 0)
    degrees = weights.sum(axis=1)
    scale = 1 / np.sqrt(np.where(degrees > 0, degrees, 1))
    asked = cosines(queries, vectors).astype(np.float64)
    start = np.zeros(asked.shape)
    first = ranked(asked)[:, :joined]
    given = np.take_along_axis(asked, first, axis=1)
    np.put_along_axis(start, first, np.where(given > 0, np.maximum(given, 0) ** power, 0), axis=1)
    return np.linalg.solve(np.eye(count) - alpha * scale[:, None] * weights * scale, start.T).T
