"""Expansion, k-reciprocal re-ranking, diffusion and regions, beside dense oracles."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import MismatchError
from delf_engine.vectors import (
    DiffusionGraph,
    ReciprocalGraph,
    augment_database,
    expand_queries,
    region_scores,
)
from helpers import raises
from vectors.oracles import (
    clustered,
    collections,
    cosines,
    diffused,
    ranked,
    ranked_others,
    reciprocal_distances,
    units,
)

# ---------------------------------------------------------------------------------------------------- expansion


@given(collections(), st.integers(1, 50), st.sampled_from([0.0, 1.0, 3.0]))
def test_expanded_queries_are_sums_over_the_nearest(both: tuple[Any, Any], top: int, alpha: float) -> None:
    every = cosines(*both)
    weights = np.zeros(every.shape)
    near = ranked(every)[:, :top]
    np.put_along_axis(weights, near, np.maximum(np.take_along_axis(every, near, 1), 0) ** alpha, axis=1)
    check_sums(expand_queries(*both, top=top, alpha=alpha), both[0], weights, both[1])


@given(collections(), st.integers(1, 50), st.sampled_from([None, 0.0, 2.0]))
def test_augmented_vectors_are_sums_over_the_nearest_others(
    both: tuple[Any, Any], top: int, alpha: float | None
) -> None:
    vectors = both[1]
    near, weights = ranked_others(vectors)[:, :top], np.zeros((len(vectors),) * 2)
    given_weights = np.take_along_axis(np.maximum(cosines(vectors, vectors), 0), near, axis=1)
    by_rank = np.broadcast_to(1 - np.arange(1, near.shape[1] + 1) / (top + 1), near.shape)
    np.put_along_axis(weights, near, by_rank if alpha is None else given_weights.astype(float) ** alpha, axis=1)
    check_sums(augment_database(vectors, top=top, alpha=alpha), vectors, weights, vectors)


def check_sums(found: Any, start: Any, weights: Any, vectors: Any) -> None:
    total = units(start).astype(float) + weights @ units(vectors).astype(float)
    clear = np.linalg.norm(total, axis=1) > 1e-3  # else rounding is all that is left of the sum
    there = start.any(axis=1)
    assert np.allclose(found[clear & there], units(total)[clear & there], atol=1e-5)
    assert (found[~there] == 0).all()


# --------------------------------------------------------------------------------------------------- reciprocal


@given(collections(), st.integers(1, 24), st.integers(1, 8), st.sampled_from([0.0, 0.3, 1.0]))
def test_reciprocal_distances_are_those_of_sets(both: tuple[Any, Any], k1: int, k2: int, weight: float) -> None:
    distances, indices = ReciprocalGraph(both[1], k1=k1, k2=k2).rerank(both[0], weight=weight)
    wanted = reciprocal_distances(*both, k1, k2, weight)
    assert indices.shape == wanted.shape
    assert np.allclose(distances, np.take_along_axis(wanted, indices, axis=1), atol=2e-6)
    ordered = [list(zip(d, i, strict=True)) for d, i in zip(distances.tolist(), indices.tolist(), strict=True)]
    assert all(row == sorted(row) for row in ordered)


def test_a_shortlist_is_ranked_as_it_would_be_among_all(rng: np.random.Generator) -> None:
    vectors, queries = clustered(rng, 200, 16), clustered(rng, 3, 16)
    graph = ReciprocalGraph(vectors)
    everything, where = graph.rerank(queries, top=200)
    chosen = rng.permuted(np.tile(np.arange(200), (3, 1)), axis=1)[:, :40]
    distances, indices = graph.rerank(queries, np.concatenate([chosen, np.full((3, 2), -1)], axis=1))
    assert (indices[:, 40:] == -1).all()
    assert np.isinf(distances[:, 40:]).all()
    for q in range(3):
        kept = np.isin(where[q], chosen[q])
        assert indices[q, :40].tolist() == where[q, kept].tolist()
        assert np.array_equal(distances[q, :40], everything[q, kept])


@pytest.mark.parametrize("indices", [[[0, 5]], [[-2, 0]], [[0], [1]], [[0.5, 1]]])
def test_shortlists_of_other_collections_are_refused(indices: Any) -> None:
    with raises(MismatchError):
        ReciprocalGraph(np.eye(5)).rerank(np.eye(1, 5), indices)


def test_neighbors_of_neighbors_move_up(rng: np.random.Generator) -> None:
    """Along a bent line of vectors the far end is like the query, and unlike what merely points its way."""
    angles = np.linspace(0, 1.6, 12)
    line = np.stack([np.cos(angles), np.sin(angles), np.zeros(12)], axis=1)
    other = units(np.array([[0.5, -0.1, 1.0]]) + 0.02 * rng.normal(size=(12, 3)))
    vectors, query = np.concatenate([line, other]), line[:1]
    assert (cosines(query, other) > cosines(query, line[8:])[0].max()).all()
    _, indices = DiffusionGraph(vectors, neighbors=3).search(query, 12)
    assert sorted(indices[0].tolist()) == list(range(12))


# ---------------------------------------------------------------------------------------------------- diffusion


@given(
    collections(),
    st.integers(1, 50),
    st.sampled_from([1.0, 3.0]),
    st.integers(1, 12),
    st.sampled_from([0, 0.5, 0.99]),
)
def test_diffusion_solves_the_dense_system(
    both: tuple[Any, Any], neighbors: int, power: float, joined: int, alpha: float
) -> None:
    top = 100
    graph = DiffusionGraph(both[1], neighbors=neighbors, power=power)
    scores, indices = graph.search(both[0], top, neighbors=joined, alpha=alpha)
    wanted = diffused(*both, neighbors, power, joined, alpha)
    assert scores.shape == wanted.shape
    assert np.allclose(scores, np.take_along_axis(wanted, indices, axis=1), rtol=1e-4, atol=1e-6)
    ordered = [list(zip(s, i, strict=True)) for s, i in zip((-scores).tolist(), indices.tolist(), strict=True)]
    assert all(row == sorted(row) for row in ordered)


def test_an_isolated_vector_keeps_what_the_query_gives_it() -> None:
    vectors = np.array([[1, 0, 0], [1, 0.1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    scores, indices = DiffusionGraph(vectors, neighbors=1).search([[0, 0, 2.0], [0, 0, 0]], 4)
    assert indices.tolist() == [[2, 0, 1, 3], [0, 1, 2, 3]]
    assert scores.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


# ------------------------------------------------------------------------------------------------------ regions


def best_of_cone(query: Any, regions: Any) -> float:
    """The largest cosine to a weighted sum of regions, over all subsets that may be what is used."""
    best = max(float(query @ r) for r in regions)
    for size in range(2, len(regions) + 1):
        for subset in combinations(range(len(regions)), size):
            part = regions[list(subset)].T.astype(float)
            weights = np.linalg.lstsq(part, query.astype(float), rcond=None)[0]
            total = part @ weights
            if (weights >= 0).all() and np.linalg.norm(total) > 1e-9:
                best = max(best, float(query @ total / np.linalg.norm(total)))
    return best


@given(collections(smallest=5), st.integers(1, 5), st.booleans())
def test_region_scores_are_the_best_of_all_subsets(both: tuple[Any, Any], regions: int, combine: bool) -> None:
    query, vectors = both
    images = vectors[: len(vectors) // regions * regions].reshape(-1, regions, vectors.shape[1])
    scores = region_scores(query, images, combine=combine)
    asked = [q for q in units(query) if q.any()]
    wanted = []
    for image in units(images):
        there = image[image.any(axis=1)]
        by_query = [best_of_cone(q, there) if combine else max(there @ q) for q in asked if len(there)]
        wanted.append(np.mean(by_query) if by_query else 0)
    assert scores.dtype == np.float32
    assert np.allclose(scores, wanted, atol=1e-5)


def test_two_regions_together_are_found(rng: np.random.Generator) -> None:
    a, b, c = np.eye(3, 8)
    images = np.array([[a, c, a], [a, b, c], [a, b, 0 * a]])
    assert region_scores([a + 2 * b], images).tolist() == pytest.approx([1 / 5**0.5, 1, 1])
    assert region_scores([a + 2 * b], images, combine=False).tolist() == pytest.approx(
        [1 / 5**0.5, *2 * [2 / 5**0.5]]
    )
