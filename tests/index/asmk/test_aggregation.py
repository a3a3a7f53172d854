"""Aggregation of many images in threads, and with regions, against sums one descriptor at a time."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook
from delf_engine.index.asmk import aggregation
from delf_engine.index.asmk.aggregation import aggregated
from helpers import random_features
from index.oracles import Bags, regional_sums, sums


def lattice(rng: np.random.Generator, n: int, dim: int) -> LocalFeatures:
    """Descriptors from a small set: duplicates, residuals of exactly zero, and sums that are exact."""
    one = np.ones(n)
    rows = np.eye(dim)[rng.integers(0, min(dim, 3), n)] * rng.choice([-1, 1], (n, 1))
    return LocalFeatures(rng.uniform(0, 8, (n, 2)), one, one, rows, (9, 9))


def unpacked(codes: np.ndarray, dim: int) -> np.ndarray:
    """(w, D) bool of (w, ceil(D / 64)) uint64; bits beyond D must be zero."""
    assert codes.dtype == np.uint64
    columns = np.arange(64 * codes.shape[1])
    bits = (codes[:, columns // 64] >> (columns % 64).astype(np.uint64)) & np.uint64(1)
    assert not bits[:, dim:].any()
    return bits[:, :dim].astype(bool)


def assert_is(found: aggregation.Aggregate, wanted: Bags, dim: int, exact: bool) -> None:
    words, codes = found
    assert words.tolist() == sorted(wanted)
    assert words.dtype == np.int32
    total = np.array([wanted[word] for word in sorted(wanted)]).reshape(len(words), dim)
    clear = np.abs(total) > (0 if exact else 1e-12)  # the order of sums decides the sign of what is left of 0
    signs = unpacked(codes, dim)
    np.testing.assert_array_equal(signs[clear], (total > 0)[clear])
    assert not exact or not signs[total == 0].any()


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 40, 64, 65, 128]) | st.integers(1, 200),
    words=st.sampled_from([1, 2, 6, 30]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 9, 30]), max_size=7),
    duplicates=st.booleans(),
    assignments=st.integers(1, 3),
    regions=st.sampled_from([None, "grid"]),
    block=st.sampled_from([1, 20, 10**6]),
    threads=st.sampled_from([1, 2, 5]),
)
@settings(max_examples=150)
def test_codes_equal_the_oracle(
    seed: int,
    dim: int,
    words: int,
    sizes: list[int],
    duplicates: bool,
    assignments: int,
    regions: Literal["grid"] | None,
    block: int,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    draw = lattice if duplicates else random_features
    codebook = Codebook(draw(rng, words, dim).descriptors)
    images = [draw(rng, n, dim) for n in sizes]
    options: Any = {"assignments": assignments, "regions": regions}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregation, "_BLOCK", block)
        found = aggregated(codebook, images, threads=threads, **options)
    single = aggregated(codebook, images, threads=1, **options)
    assert len(found) == len(images)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(found[i][0], single[i][0])
        np.testing.assert_array_equal(found[i][1], single[i][1])
        if regions is None:
            wanted = sums(image, codebook.centroids, assignments)
        else:
            wanted = regional_sums(image, codebook.centroids, assignments, scaled=False)
        assert_is(found[i], wanted, dim, exact=duplicates)


def test_what_lies_in_many_regions_decides_the_code() -> None:
    """Two descriptors at the corner, in one region of each size, pull one way; one in the middle the other way."""
    one = np.ones(3)
    keypoints = np.array([[0.0, 0], [0, 0], [49, 49]])
    image = LocalFeatures(keypoints, one, one, np.array([[1.0, 0], [1, 0], [-1, 0]]), (100, 100))
    codebook = Codebook(np.zeros((1, 2)))

    def code(regions: Literal["grid"] | None) -> list[bool]:
        found = aggregated(codebook, [image], assignments=1, threads=1, regions=regions)
        return list(unpacked(found[0][1], 2)[0].tolist())

    assert code(None) == [True, False]
    assert code("grid") == [False, False]  # the image, 1 of 1, 4 of 4 and 4 of 9 regions: 10 against 2 * 4
