"""`nearest_neighbors`, and what every function of the room checks first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from delf_engine import vectors as v
from delf_engine.errors import ConfigError, FeatureError, MismatchError
from helpers import raises
from vectors.oracles import clustered, collections, cosines, ranked


@given(collections(), st.integers(1, 60))
def test_neighbors_are_those_of_all_products(both: tuple[Any, Any], k: int) -> None:
    scores, indices = v.nearest_neighbors(*both, k)
    every = cosines(*both)
    wanted = ranked(every)[:, :k]
    assert scores.dtype == np.float32
    assert np.array_equal(indices, wanted)
    assert np.array_equal(scores, np.take_along_axis(every, wanted, axis=1))


def test_more_copies_than_are_looked_at_come_in_order(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 300, 16)
    vectors[50:250:2] = vectors[3]
    vectors[51:251:2] = 0
    scores, indices = v.nearest_neighbors(vectors[[3, 51, 7]], vectors, 60)
    assert indices[0].tolist() == [3, *range(50, 168, 2)]
    assert indices[1].tolist() == list(range(60))
    assert (scores[1] == 0).all()
    assert np.array_equal(indices, ranked(cosines(vectors[[3, 51, 7]], vectors))[:, :60])


def test_what_rounding_cannot_tell_apart_is_ranked_by_exact_products(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 400, 64)
    vectors[100:] = vectors[0] + 1e-7 * rng.normal(size=(300, 64))
    queries = vectors[[0, 120, 330, 5]]
    _, indices = v.nearest_neighbors(queries, vectors, 25)
    assert np.array_equal(indices, ranked(cosines(queries, vectors))[:, :25])


def everything(rng: np.random.Generator) -> list[Any]:
    """What each function gives for one collection that is large enough for BLAS to share it out."""
    vectors, queries = clustered(rng, 1500, 48), clustered(rng, 40, 48)
    rows = np.arange(1400)
    pca, itq = v.pca_whitening(vectors, 32), v.itq(vectors, 24, seed=3)
    learned = v.learned_whitening(vectors, np.stack([rows, (rows + 150) % 1500], 1), 16)
    codes, asked = v.sign_codes(itq(vectors)), v.sign_codes(itq(queries))
    return [
        *v.nearest_neighbors(queries, vectors, 30),
        *(array for w in (pca, itq, learned) for array in (w.mean, w.matrix, w(vectors))),
        *v.hamming_then_exact(queries, vectors, asked, codes, keep=100, top=10),
        v.expand_queries(queries, vectors),
        v.augment_database(vectors),
        *v.ReciprocalGraph(vectors).rerank(queries),
        *v.DiffusionGraph(vectors).search(queries, 50),
        v.region_scores(queries[:3], vectors.reshape(300, 5, 48)),
    ]


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, out = faiss.omp_get_max_threads(), []
    for threads in (1, 2, 5):
        faiss.omp_set_num_threads(threads)
        with threadpool_limits(threads, user_api="blas"):
            out.append(everything(np.random.default_rng(0)))
    faiss.omp_set_num_threads(before)
    for other in out[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(out[0], other, strict=True))


def test_queries_do_not_depend_on_each_other(rng: np.random.Generator) -> None:
    vectors, queries = clustered(rng, 400, 24), clustered(rng, 30, 24)
    codes, asked = v.sign_codes(vectors), v.sign_codes(queries)
    reciprocal, diffusion = v.ReciprocalGraph(vectors), v.DiffusionGraph(vectors)

    def results(rows: slice) -> list[Any]:
        q = queries[rows]
        return [
            *v.nearest_neighbors(q, vectors, 9),
            v.expand_queries(q, vectors),
            *v.hamming_then_exact(q, vectors, asked[rows], codes, keep=20, top=5),
            *reciprocal.rerank(q),
            *diffusion.search(q, 20),
        ]

    for one, all_of_them in zip(results(slice(4, 5)), results(slice(None)), strict=True):
        assert np.array_equal(one[0], all_of_them[4])


GOOD = np.eye(12, 4, dtype=np.float32)
CALLS: dict[str, Callable[[Any], Any]] = {
    "nearest": lambda x: v.nearest_neighbors(GOOD, x, 3),
    "queries": lambda x: v.nearest_neighbors(x, GOOD, 3),
    "pca": lambda x: v.pca_whitening(x, 2),
    "learned": lambda x: v.learned_whitening(x, [[0, 1]], 2),
    "apply": lambda x: v.Whitening(np.zeros(4), np.eye(4))(x),
    "signs": v.sign_codes,
    "itq": lambda x: v.itq(x, 2),
    "hamming": lambda x: v.hamming_then_exact(GOOD, x, GOOD > 0, GOOD > 0, keep=2, top=1),
    "expand": lambda x: v.expand_queries(x, GOOD),
    "augment": v.augment_database,
    "reciprocal": v.ReciprocalGraph,
    "rerank": lambda x: v.ReciprocalGraph(GOOD).rerank(x),
    "diffusion": v.DiffusionGraph,
    "search": lambda x: v.DiffusionGraph(GOOD).search(x, 2),
    "region query": lambda x: v.region_scores(x, GOOD[None]),
    "regions": lambda x: v.region_scores(GOOD, np.asarray(x)[None]),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_vectors_is_refused(name: str) -> None:
    bad = GOOD.copy()
    bad[5, 1] = np.nan
    for wrong in (bad, GOOD[0], np.full((3, 4), 1e30)):
        with raises(FeatureError):
            CALLS[name](wrong)


@pytest.mark.parametrize(
    "name", ["nearest", "queries", "apply", "hamming", "expand", "rerank", "search", "regions"]
)
def test_another_dimension_is_refused(name: str) -> None:
    with raises(MismatchError, "4", "7"):
        CALLS[name](np.ones((12, 7)))


@pytest.mark.parametrize(
    ("call", "fact"),
    [
        (lambda: v.nearest_neighbors(GOOD, GOOD, 0), "k"),
        (lambda: v.nearest_neighbors(GOOD, GOOD, True), "k"),
        (lambda: v.pca_whitening(GOOD, 2, power=1.5), "power"),
        (lambda: v.itq(GOOD, 2, seed=-1), "seed"),
        (lambda: v.expand_queries(GOOD, GOOD, alpha=float("nan")), "alpha"),
        (lambda: v.augment_database(GOOD, top=2.5), "top"),  # type: ignore[arg-type]
        (lambda: v.ReciprocalGraph(GOOD, k1=0), "k1"),
        (lambda: v.ReciprocalGraph(GOOD).rerank(GOOD, weight=2), "weight"),
        (lambda: v.DiffusionGraph(GOOD).search(GOOD, 2, alpha=1), "alpha"),
    ],
)
def test_options_out_of_range_are_refused(call: Callable[[], Any], fact: str) -> None:
    with raises(ConfigError, fact):
        call()
