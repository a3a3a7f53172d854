"""`AsmkIndex` against its definition, and by the options that published variants differ in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import AsmkIndex, Codebook
from delf_engine.index.asmk.index import selectivity
from delf_engine.index.asmk.kernels import score_signs
from helpers import random_features
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
@settings(deadline=None, max_examples=80)
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


def test_an_image_finds_itself_first_and_scores_one(rng: np.random.Generator) -> None:
    images = [random_features(rng, 200) for _ in range(20)]
    codebook = Codebook.train(np.concatenate([i.descriptors for i in images]), 64)
    index = AsmkIndex(codebook, changed(query_assignments=1))
    index.add([str(i) for i in range(20)], images)
    for i, image in enumerate(images):
        ids, scores = index.search(image, 3)
        assert ids[0] == str(i)
        assert scores[0] == pytest.approx(1, abs=1e-6)
        assert scores[1] < 0.3


def test_ties_keep_the_order_of_insertion(rng: np.random.Generator) -> None:
    image, other = random_features(rng, 30), random_features(rng, 30)
    index = AsmkIndex(Codebook(rng.normal(size=(10, 40))), changed(query_assignments=1))  # no other scores 1
    names = ["d", "b", "a", "c"]
    index.add(names, [image] * 4)
    index.search(image, 1)
    index.add(["z", "other"], [image, other])
    assert index.search(image, 3)[0] == ["d", "b", "a"]
    assert index.search(image, 9)[0][:5] == [*names, "z"]
    index.remove(["d"])
    index.add(["d"], [image])
    assert index.search(image, 9)[0][:5] == ["b", "a", "c", "z", "d"]


def test_results_do_not_depend_on_segments(rng: np.random.Generator, tmp_path: Path) -> None:
    images = {str(i): random_features(rng, int(rng.integers(0, 60)), 65) for i in range(60)}
    query = random_features(rng, 50, 65)
    codebook = Codebook(random_features(rng, 40, 65).descriptors)
    config = changed(idf=True)
    whole = AsmkIndex(codebook, config)
    kept = [i for i in images if int(i) % 7]
    whole.add(kept, [images[i] for i in kept])
    wanted_ids, wanted = whole.search(query, 100)

    parts = AsmkIndex(codebook, config)
    for start in range(0, 60, 3):
        some = list(images)[start : start + 3]
        parts.add(some, [images[i] for i in some])
        if start % 2:
            parts.search(query, 1)
        if start % 5 == 0:
            parts.save(tmp_path)
    parts.remove([i for i in images if i not in kept])
    parts.save(tmp_path / "copy")
    for index in (parts, AsmkIndex.load(tmp_path / "copy", codebook)):
        ids, scores = index.search(query, 100)
        assert ids == wanted_ids
        np.testing.assert_array_equal(scores, wanted)
        codes = index._collection.segments[0].arrays["codes"]
        assert (codes.dtype, codes.shape[1]) == (np.uint64, 2)


def test_load_checks_codebook_and_options(rng: np.random.Generator, tmp_path: Path) -> None:
    codebook = Codebook(rng.normal(size=(10, 40)))
    index = AsmkIndex(codebook)
    index.add(["a"], [random_features(rng, 5)])
    index.save(tmp_path)
    with pytest.raises(MismatchError, match=codebook.hash[:8]):
        AsmkIndex.load(tmp_path, Codebook(rng.normal(size=(10, 40))))
    assert AsmkIndex.load(tmp_path, codebook).config == DEFAULT
    other = changed(alpha=2.0)
    assert AsmkIndex.load(tmp_path, codebook, other).config == other
    for name, value in (("image_assignments", 2), ("regions", "grid")):
        with pytest.raises(MismatchError, match=f"{name} = .*{value}"):
            AsmkIndex.load(tmp_path, codebook, changed(**{name: value}))
    assert "1 images" in repr(index)


def test_regions_change_codes_of_indexed_images_only(rng: np.random.Generator, tmp_path: Path) -> None:
    codebook = Codebook(random_features(rng, 60).descriptors)
    images = {name: random_features(rng, 200) for name in "abc"}
    plain, regional = AsmkIndex(codebook), AsmkIndex(codebook, changed(regions="grid"))
    for index in (plain, regional):
        index.add(list(images), list(images.values()))
    assert regional.info().bytes == plain.info().bytes
    codes, wanted = (index._collection.segments[0].arrays["codes"] for index in (regional, plain))
    assert not np.array_equal(codes, wanted)
    ids, scores = regional.search(images["a"], 5)
    assert (ids[0], scores[0] < 1) == ("a", True)
    regional.save(tmp_path)
    np.testing.assert_array_equal(AsmkIndex.load(tmp_path, codebook).search(images["a"], 5)[1], scores)


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
    with pytest.raises(FormatError, match=rf"{name}\.npy"):
        AsmkIndex.load(tmp_path, codebook)
    for config in (None, DEFAULT):
        with pytest.raises(FormatError, match="segment-00000001"):
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


def test_huge_centroids(rng: np.random.Generator) -> None:
    centroids = np.zeros((3, 40), np.float32)
    centroids[:, 0] = [-1e15, 0, 1e15]
    index = AsmkIndex(Codebook(centroids))
    image = random_features(rng, 30)
    index.add(["a"], [image])
    ids, scores = index.search(image, 5)
    assert ids == ["a"]
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("bad", [{"divisor": 40}, {"regions": "none"}, {"alpha": 0.0}])
def test_options_that_are_none(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(**bad)
