"""`AsmkIndex` against its definition, and by the options that published variants differ in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.errors import FormatError
from delf_engine.features import LocalFeatures
from delf_engine.index import AsmkIndex, Codebook
from delf_engine.index.asmk.index import selectivity
from delf_engine.index.asmk.kernels import score_signs
from helpers import raises, random_features
from index.asmk.test_aggregation import lattice
from index.oracles import asmk_score, bag

DEFAULT = load_profile().asmk
ORIGIN = Codebook(np.zeros((1, 40)))


def changed(**changes: Any) -> AsmkConfig:
    return AsmkConfig.model_validate({**DEFAULT.model_dump(), **changes})


def one(*descriptor: float) -> LocalFeatures:
    """An image of one feature."""
    return LocalFeatures(np.zeros((1, 2)), np.ones(1), np.ones(1), np.array([descriptor]), (9, 9))


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 40, 64, 65, 128]) | st.integers(1, 200),
    words=st.sampled_from([1, 2, 6, 30]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 9]), min_size=1, max_size=6),
    duplicates=st.booleans(),
    config=st.builds(
        AsmkConfig,
        image_assignments=st.integers(1, 2),
        query_assignments=st.integers(1, 5),
        alpha=st.sampled_from([1.0, 3.0, 2.5]),
        threshold=st.sampled_from([-1.0, 0.0, 0.3]),
        idf=st.booleans(),
        assignment=st.just("fast"),
        divisor=st.sampled_from(["bits", "padded"]),
        regions=st.none(),
    ),
)
@settings(max_examples=80)
def test_scores_equal_the_oracle(
    seed: int, dim: int, words: int, sizes: list[int], duplicates: bool, config: AsmkConfig
) -> None:
    rng = np.random.default_rng(seed)
    draw = lattice if duplicates else random_features
    images = [draw(rng, n, dim) for n in sizes]
    query = draw(rng, 7, dim)
    codebook = Codebook(draw(rng, words, dim).descriptors)
    index = AsmkIndex(codebook, config)
    for i, image in enumerate(images):
        index.add([f"{i}"], [image])
        index.search(query, 1)  # a segment each
    bags = [bag(image, codebook.centroids, config.image_assignments) for image in images]
    asked = bag(query, codebook.centroids, config.query_assignments)
    wanted = np.array([asmk_score(asked, b, bags, dim, config) for b in bags])
    ids, scores = index.search(query, len(images))
    found = np.zeros(len(images))
    found[[int(i) for i in ids]] = scores
    np.testing.assert_allclose(found, np.maximum(wanted, 0), rtol=1e-6, atol=1e-7)
    assert scores.dtype == np.float32
    assert (scores > 0).all()
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize(("name", "row"), [("image_ids", 3), ("word_offsets", 4)])
@pytest.mark.parametrize("value", [-7, 10**9])
def test_postings_that_point_outside_are_found_when_searched(
    tmp_path: Path, name: str, row: int, value: int
) -> None:
    """Checksums of large collections are not compared on opening: a wild address must not be followed."""
    rng = np.random.default_rng(0)
    codebook = Codebook(random_features(rng, 10).descriptors)
    image = random_features(rng, 200)
    index = AsmkIndex(codebook, changed(idf=True))
    index.add(["a", "b"], [image, image])
    index.save(tmp_path)
    array = np.lib.format.open_memmap(tmp_path / "segment-00000001" / f"{name}.npy", mode="r+")
    array[row] = value
    array.flush()
    with raises(FormatError, f"{name}.npy"):
        AsmkIndex.load(tmp_path, codebook)
    for config in (None, DEFAULT):
        with raises(FormatError, "segment-00000001"):
            AsmkIndex.load(tmp_path, codebook, config, check=False).search(image, 5)
    with pytest.raises(FormatError):
        AsmkIndex.load(tmp_path, codebook, check=False).save(tmp_path / "copy")


def test_kernels_follow_no_wild_address_and_no_wild_distance() -> None:
    zero = np.zeros(1, np.int32)
    far = np.ones((1, 1), np.uint64) << np.uint64(63)  # a bit beyond the dimension
    codes = (zero, np.zeros((1, 1), np.uint64), np.ones(1), np.zeros(1))
    assert not score_signs(0, 1, *codes, np.array([0, 1]), zero, far, np.zeros(1))
    assert not score_signs(0, 1, *codes, np.array([0, 9]), zero, 0 * far, np.zeros(1))


# ------------------------------------------------------------------------------------ what variants differ in


def test_codes_of_40_bits_by_both_divisors() -> None:
    far, near = (one(*(np.where(np.arange(40) < n, 1.0, -1.0) / np.sqrt(40))) for n in (20, 40))
    for divisor, wanted in (("bits", 0.0), ("padded", 0.375)):
        index = AsmkIndex(ORIGIN, changed(divisor=divisor, alpha=1.0))
        index.add(["far", "same"], [far, near])
        found = dict(zip(*index.search(near, 5), strict=True))
        assert found["same"] == 1.0
        assert found.get("far", 0.0) == wanted


@pytest.mark.parametrize("dim", [1, 31, 32, 33, 40, 64, 65, 128, 200])
def test_selectivity(dim: int) -> None:
    exact = [float(Fraction(dim - 2 * h, dim)) for h in range(dim + 1)]
    np.testing.assert_allclose(selectivity(dim, changed(alpha=1.0, threshold=-1.0)), exact, atol=1e-15)
    padded = selectivity(dim, changed(alpha=1.0, threshold=-1.0, divisor="padded"))
    assert padded[-1] == 1 - 2 * dim / (32 * ((dim + 31) // 32))


@pytest.mark.parametrize(("threshold", "found"), [(0.4, 1), (0.5, 1), (0.6, 0)])
def test_a_similarity_at_the_threshold_counts(threshold: float, found: int) -> None:
    """One of four signs differs: the similarity is 1/2 to the bit."""
    index = AsmkIndex(Codebook(np.zeros((1, 4))), changed(threshold=threshold))
    index.add(["a"], [one(0.5, 0.5, 0.5, -0.5)])
    assert len(index.search(one(0.5, 0.5, 0.5, 0.5), 5)[0]) == found


def test_residuals_that_are_zero() -> None:
    """A descriptor on its centroid has the word, and zero bits."""
    index = AsmkIndex(Codebook(np.eye(4)), changed(query_assignments=1))
    index.add(["on", "pair"], [one(1, 0, 0, 0), one(0, 1, 0, 0)])
    ids, scores = index.search(one(1, 0, 0, 0), 5)
    assert (ids, scores.tolist()) == (["on"], [1.0])
