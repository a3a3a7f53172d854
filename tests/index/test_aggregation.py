"""Aggregation of many images in threads, and with regions, against sums one descriptor at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import load_profile
from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import AsmkIndex, Codebook, aggregation
from delf_engine.index.aggregation import Kernel, aggregated
from delf_engine.regions import Regions, rigid_grid
from helpers import random_features
from index.oracles import Bags, regional_sums, sums

RNG = np.random.default_rng(0)
DEFAULT = load_profile().asmk


def lattice(rng: np.random.Generator, n: int, dim: int) -> LocalFeatures:
    """Descriptors from a small set: duplicates, residuals of exactly zero, and sums that are exact."""
    one = np.ones(n)
    rows = np.eye(dim)[rng.integers(0, min(dim, 3), n)] * rng.choice([-1, 1], (n, 1))
    return LocalFeatures(rng.uniform(0, 8, (n, 2)), one, one, rows, (9, 9))


def random_regions(rng: np.random.Generator, n: int) -> Regions | None:
    count = int(rng.integers(-1, 5))
    if count < 0:
        return None
    members = [np.flatnonzero(rng.random(n) < rng.choice([0, 0.2, 1])) for _ in range(count)]
    return Regions.from_members(np.tile(np.array([0.0, 0, 5, 5]), (count, 1)), members)


def unpacked(codes: np.ndarray, dim: int) -> np.ndarray:
    """(w, D) bool of (w, ceil(D / 64)) uint64; bits beyond D must be zero."""
    columns = np.arange(64 * codes.shape[1])
    bits = (codes[:, columns // 64] >> (columns % 64).astype(np.uint64)) & np.uint64(1)
    assert not bits[:, dim:].any()
    return bits[:, :dim].astype(bool)


def assert_is(found: aggregation.Aggregate, wanted: Bags, kernel: Kernel, dim: int, exact: bool) -> None:
    words, codes = found
    assert words.tolist() == sorted(wanted)
    assert words.dtype == np.int32
    total = np.array([wanted[word] for word in sorted(wanted)]).reshape(len(words), dim)
    if kernel == "binary":
        clear = np.abs(total) > (0 if exact else 1e-12)  # the order of sums decides the sign of what is left of 0
        signs = unpacked(codes, dim)
        np.testing.assert_array_equal(signs[clear], (total > 0)[clear])
        assert not exact or not signs[total == 0].any()
    else:
        norms = np.sqrt((total**2).sum(axis=1, keepdims=True))
        clear = norms[:, 0] > 1e-9
        np.testing.assert_allclose(codes[clear], total[clear] / norms[clear], atol=1e-6)
        assert not exact or not codes[norms[:, 0] == 0].any()


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 40, 64, 65, 128]) | st.integers(1, 200),
    words=st.sampled_from([1, 2, 6, 30]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 9, 30]), max_size=7),
    duplicates=st.booleans(),
    assignments=st.integers(1, 3),
    kernel=st.sampled_from(["binary", "float"]),
    norm=st.sampled_from([None, "l2"]),
    regional=st.booleans(),
    block=st.sampled_from([1, 20, 10**6]),
    threads=st.sampled_from([1, 2, 5]),
)
@settings(deadline=None, max_examples=150)
def test_codes_equal_the_oracle(
    seed: int,
    dim: int,
    words: int,
    sizes: list[int],
    duplicates: bool,
    assignments: int,
    kernel: Kernel,
    norm: Literal["l2"] | None,
    regional: bool,
    block: int,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    draw = lattice if duplicates else random_features
    codebook = Codebook(draw(rng, words, dim).descriptors)
    images = [draw(rng, n, dim) for n in sizes]
    regions = [random_regions(rng, n) for n in sizes] if regional else None
    options: Any = {"assignments": assignments, "kernel": kernel, "regions": regions, "region_norm": norm}
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
            wanted = regional_sums(image, codebook.centroids, assignments, regions[i], norm)
        assert_is(found[i], wanted, kernel, dim, exact=duplicates and (regions is None or norm is None))


@pytest.mark.parametrize("kernel", ["binary", "float"])
def test_without_regions_nothing_changes(kernel: Kernel) -> None:
    images = [random_features(RNG, n) for n in (0, 1, 50, 700)]
    codebook = Codebook(random_features(RNG, 20).descriptors)
    plain = aggregated(codebook, images, assignments=2, kernel=kernel, threads=1)
    empty = Regions(np.empty((0, 4)), np.zeros(1, np.int64), np.empty(0, np.int64))
    whole = [Regions.from_members(np.array([[0, 0, 640, 480]]), [np.arange(len(image))]) for image in images]
    for regions in ([None] * 4, [empty] * 4, whole):
        found = aggregated(codebook, images, assignments=2, kernel=kernel, threads=2, regions=regions)
        for (words, codes), (wanted_words, wanted) in zip(found, plain, strict=True):
            np.testing.assert_array_equal(words, wanted_words)
            np.testing.assert_array_equal(codes, wanted)  # twice the sum has its sign and direction


def test_regions_of_the_index(tmp_path: Path) -> None:
    """Only the indexed image changes: words, sizes and queries do not."""
    codebook = Codebook(random_features(RNG, 60).descriptors)
    images = {name: random_features(RNG, 200) for name in "abc"}
    grid = [Regions.of(image, rigid_grid(image.image_size)) for image in images.values()]
    plain, given_, chosen = (AsmkIndex(codebook, c) for c in (DEFAULT, DEFAULT, _regional("grid")))
    plain.add(list(images), list(images.values()))
    given_.add([*images, "a"], [*images.values(), images["b"]], [*grid, None])
    chosen.add(list(images), list(images.values()))
    assert chosen.info().bytes == given_.info().bytes == plain.info().bytes

    def codes(index: AsmkIndex) -> np.ndarray:
        return index._collection.segments[0].arrays["codes"]

    np.testing.assert_array_equal(codes(given_), codes(chosen))
    assert not np.array_equal(codes(given_), codes(plain))
    ids, scores = given_.search(images["a"], 5)
    np.testing.assert_array_equal(scores, chosen.search(images["a"], 5)[1])
    assert (ids[0], scores[0] < 1) == ("a", True)
    override = AsmkIndex(codebook, _regional("grid"))
    override.add(list(images), list(images.values()), [None, None, None])
    override.search(images["a"], 1)
    np.testing.assert_array_equal(codes(override), codes(plain))

    chosen.save(tmp_path)
    loaded = AsmkIndex.load(tmp_path, codebook)
    assert loaded.config == _regional("grid")
    np.testing.assert_array_equal(loaded.search(images["a"], 5)[1], scores)
    with pytest.raises(MismatchError, match="built with regions = grid, asked for None"):
        AsmkIndex.load(tmp_path, codebook, DEFAULT)


def test_what_fills_a_region_decides_the_code() -> None:
    """Three descriptors pull one way, two in a small region the other way."""
    one = np.ones(5)
    rows = np.array([[1.0, 0]] * 3 + [[-1.0, 0]] * 2)
    image = LocalFeatures(np.zeros((5, 2)), one, one, rows, (9, 9))
    regions = Regions.from_members(np.array([[0, 0, 1, 1], [0, 0, 1, 1]]), [np.array([3, 4])] * 2)
    codebook = Codebook(np.zeros((1, 2)))

    def code(**options: Any) -> np.ndarray:
        return aggregated(codebook, [image], assignments=1, kernel="float", threads=1, **options)[0][1][0]

    assert code().tolist() == [1, 0]
    assert code(regions=[regions]).tolist() == [-1, 0]
    once = Regions.from_members(regions.boxes[:1], [np.array([3])])
    assert code(regions=[once]).tolist() == [0, 0]  # 3 - 2 - 1
    assert code(regions=[once], region_norm="l2").tolist() == [0, 0]  # 1 - 1
    both = Regions.from_members(regions.boxes, [np.array([3]), np.array([4])])
    assert code(regions=[both], region_norm="l2").tolist() == [-1, 0]


def test_bad_regions() -> None:
    image = random_features(RNG, 3)
    index = AsmkIndex(Codebook(random_features(RNG, 5).descriptors))
    far = Regions.from_members(np.array([[0, 0, 5, 5]]), [np.array([1, 3])])
    with pytest.raises(FeatureError, match="b: a region has descriptor 3, the image has 3"):
        index.add(["a", "b"], [image, image], [None, far])
    with pytest.raises(FeatureError, match="a: expected Regions or None, got list"):
        index.add(["a"], [image], [[0]])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="the regions of 2 images for 1 ids"):
        index.add(["a"], [image], [None, None])
    for threads in (0, -1, 2.0):
        with pytest.raises(ConfigError, match="threads"):
            index.add(["a"], [image], threads=threads)  # type: ignore[arg-type]
    assert len(index) == 0
    assert index.add([], [], []) == []


def test_an_index_is_the_same_with_any_number_of_threads() -> None:
    images = {str(i): random_features(RNG, int(RNG.integers(0, 300))) for i in range(80)}
    codebook = Codebook(random_features(RNG, 50).descriptors)
    built = []
    for threads in (1, 2, 7, None):
        index = AsmkIndex(codebook)
        index.add(list(images), list(images.values()), threads=threads)
        index.search(images["0"], 1)
        built.append(index._collection.segments[0].arrays)
    for arrays in built[1:]:
        assert all(np.array_equal(arrays[name], array) for name, array in built[0].items())


def _regional(regions: str) -> Any:
    return type(DEFAULT).model_validate({**DEFAULT.model_dump(), "regions": regions})
