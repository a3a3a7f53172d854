"""Global descriptors beside every kind of index: found exactly, added, removed, saved and merged with the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import FeatureError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.index.fusion import fuse_ranks, fuse_scores
from delf_engine.index.vectors import products
from helpers import raises

from .kinds import IMAGES, KINDS, NAMES, QUERY, Kind

LENGTH = 7


def with_vector(features: LocalFeatures, seed: int) -> LocalFeatures:
    vector = np.random.default_rng(seed).normal(size=LENGTH)
    return replace(features, global_descriptor=(vector / np.linalg.norm(vector)).astype(np.float32))


DESCRIBED = {name: with_vector(IMAGES[name], i) for i, name in enumerate(NAMES)}
ASKED = with_vector(QUERY, 3)  # the vector of image 3


def new(kind: str) -> Any:
    index = Kind(kind).new()
    index.keep_vectors(LENGTH)
    return index


def full(kind: str) -> Any:
    index = new(kind)
    index.add(NAMES, list(DESCRIBED.values()))
    return index


def wanted(names: list[str]) -> tuple[list[str], Any]:
    scores = {n: float(DESCRIBED[n].global_descriptor @ ASKED.global_descriptor) for n in names}  # type: ignore[operator]
    order = sorted((n for n in names if scores[n] > 0), key=lambda n: -scores[n])
    return order, np.array([scores[n] for n in order], np.float32)


def assert_found(index: Any, names: list[str], **options: Any) -> None:
    ids, scores = index.search(ASKED, 99, by="global", **options)
    order, values = wanted(names)
    assert ids == order
    assert ids[:1] == ["image 3"][: len(order)]
    np.testing.assert_allclose(scores, values, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_found_by_the_cosine_beside_what_the_kind_finds(kind: str) -> None:
    index = full(kind)
    assert_found(index, NAMES)
    assert_found(index, NAMES[2:5], among=NAMES[2:5])
    assert_found(index, [n for n in NAMES if n != NAMES[0]], exclude=NAMES[:1])
    ids, scores = index.search(ASKED, 99, by="local")
    plain_ids, plain_scores = Kind(kind).of(NAMES).search(QUERY, 99)
    assert ids == plain_ids
    np.testing.assert_array_equal(scores, plain_scores)
    with raises(UnknownIdError, "'nobody'"):
        index.search(ASKED, 9, by="global", among=["nobody"])


@pytest.mark.parametrize("kind", KINDS)
def test_removed_saved_merged_copied_and_opened(kind: str, tmp_path: Path) -> None:
    index = new(kind)
    for first in range(0, len(NAMES), 2):
        index.add(NAMES[first : first + 2], [DESCRIBED[n] for n in NAMES[first : first + 2]])
        index.save(tmp_path / "index", overwrite=True)
    index.remove([NAMES[5], NAMES[0]])
    left = [n for n in NAMES if n not in (NAMES[5], NAMES[0])]
    assert_found(index, left)
    assert_found(index.copy(), left)
    index.save(tmp_path / "index")
    opened = Kind(kind).load(tmp_path / "index")
    assert opened.vectors == LENGTH
    assert opened.info().vectors == LENGTH
    assert_found(opened, left)
    opened.compact()
    opened.save(tmp_path / "index")
    assert_found(Kind(kind).load(tmp_path / "index", check=True), left)


def test_an_image_without_a_vector_is_found_by_its_features_alone() -> None:
    index = new("kdtree")
    index.add(["plain", "described"], [IMAGES[NAMES[0]], DESCRIBED[NAMES[3]]])
    assert index.search(ASKED, 9, by="global")[0] == ["described"]
    assert set(index.search(ASKED, 9)[0]) == {"plain", "described"}
    assert set(index.search(ASKED, 9, by="fused")[0]) == {"plain", "described"}


def test_vectors_that_do_not_fit_are_refused_and_nothing_is_added() -> None:
    index, long = full("asmk"), replace(QUERY, global_descriptor=np.eye(1, LENGTH + 1)[0])
    with raises(MismatchError, "more", str(LENGTH), str(LENGTH + 1)):
        index.add(["fits", "more"], [DESCRIBED[NAMES[0]], long])
    assert index.ids() == NAMES
    with raises(MismatchError, str(LENGTH), str(LENGTH + 1)):
        index.search(long, 3, by="global")
    with raises(FeatureError, "query"):
        index.search(QUERY, 3, by="fused")
    with raises(MismatchError):
        Kind("asmk").of(NAMES).search(ASKED, 3, by="global")


@pytest.mark.parametrize("by", ["global", "fused"])
def test_many_queries_and_threads_give_the_bits_of_one(by: Any) -> None:
    index = full("asmk")
    queries = [ASKED, DESCRIBED[NAMES[4]], DESCRIBED[NAMES[0]]]
    alone = [index.search(query, 5, by=by) for query in queries]
    for threads in (1, 3):
        for (ids, scores), (ids_alone, scores_alone) in zip(
            index.search_many(queries, 5, by=by, threads=threads), alone, strict=True
        ):
            assert ids == ids_alone
            np.testing.assert_array_equal(scores, scores_alone)


@pytest.mark.parametrize("by", ["local", "global", "fused"])
@pytest.mark.parametrize("kind", ["asmk", "bow", "vlad", "fisher"])
def test_what_was_made_ready_elsewhere_finds_the_same(kind: str, by: Any) -> None:
    """As searchers of parts do it."""
    index, queries = full(kind), [ASKED, DESCRIBED[NAMES[4]]]
    encoded = new(kind).encoded(queries, by)
    for limits in ({}, {"among": NAMES[2:5], "exclude": NAMES[3:4]}, {"min_score": 0.2}):
        found = index.search_encoded(encoded, 4, **limits)
        for (ids, scores), (others, values) in zip(
            found, index.search_many(queries, 4, by=by, **limits), strict=True
        ):
            assert ids == others
            assert scores.tobytes() == values.tobytes()
    assert index.search_encoded([], 4) == index.encoded([], by) == []


def test_an_empty_index_finds_nothing() -> None:
    assert new("asmk").search(ASKED, 3, by="global")[0] == []
    assert new("asmk").search(ASKED, 3, by="fused")[0] == []


@given(st.integers(0, 400), st.integers(1, 70), st.integers(1, 4), st.integers(0, 99))
def test_products_are_those_of_numpy_whatever_stands_beside(n: int, length: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, query = (rng.normal(size=s).astype(np.float32) for s in ((n, length), (length,)))
    found = products(query, rows, threads)
    np.testing.assert_allclose(found, rows.astype(float) @ query, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[n // 2 :], products(query, rows[n // 2 :]))


def test_products_of_many_rows_are_the_same_with_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    rows, query = rng.normal(size=(40_000, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    np.testing.assert_array_equal(products(query, rows, 1), products(query, rows, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_fused_scores_are_those_of_all_that_are_there(kind: str) -> None:
    index = full(kind)
    index.remove(NAMES[4:5])
    left = [n for n in NAMES if n != NAMES[4]]
    local, vectors = (
        {**dict.fromkeys(left, 0.0), **dict(zip(*index.search(ASKED, 99, by=by), strict=True))}
        for by in ("local", "global")
    )
    wanted = {
        n: local[n] / np.std(list(local.values())) + 0.5 * vectors[n] / np.std(list(vectors.values()))
        for n in left
    }
    ids, scores = index.search(ASKED, 99, by="fused")
    order = sorted((n for n in left if wanted[n] > 0), key=lambda n: -wanted[n])
    assert ids == order
    np.testing.assert_allclose(scores, [wanted[n] for n in order], rtol=1e-4)
    some, values = index.search(ASKED, 2, by="fused", among=ids[1:4])  # scores stay the same
    assert some == ids[1:3]
    np.testing.assert_array_equal(values, scores[1:3])


@given(st.integers(0, 6), st.integers(0, 99))
def test_scores_are_fused_whatever_their_units(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, alive = rng.gamma(1, 1, n).astype(np.float32), rng.normal(size=n).astype(np.float32), rng.random(n) > 0.3
    found = fuse_scores(a, b, alive)
    assert not found[~alive].any()
    if alive.sum() > 1:
        np.testing.assert_allclose(fuse_scores(a * 4, b / 8, alive), found, rtol=1e-4, atol=1e-5)
    flat = np.ones(n, np.float32)  # all alike says nothing, and divides by nothing
    np.testing.assert_array_equal(fuse_scores(flat, flat, alive), np.where(alive, np.float32(1.5), 0))


@given(st.lists(st.lists(st.sampled_from("abcdefg"), unique=True), max_size=3), st.integers(1, 8))
def test_ranks_are_fused_as_published(rankings: list[list[str]], top_k: int) -> None:
    found = [(ids, np.zeros(len(ids), np.float32)) for ids in rankings]
    ids, scores = fuse_ranks(found, top_k)
    sums = {i: sum(1 / (61 + ids.index(i)) for ids in rankings if i in ids) for i in "abcdefg"}
    assert len(ids) == min(top_k, len({i for ids in rankings for i in ids}))
    np.testing.assert_allclose(scores, [sums[i] for i in ids], rtol=1e-6)
    assert (np.diff(scores) <= 0).all()
    assert all(sums[i] >= sums[j] - 1e-12 for i in ids for j in set("abcdefg") - set(ids) if sums[j])
