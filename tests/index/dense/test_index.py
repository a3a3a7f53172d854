"""BoW, VLAD and Fisher vectors against plain loops; scores of the same bits however they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from delf_engine.config import BowConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook, DenseIndex, Mixture
from delf_engine.index.dense.encodings import bow_vector, euclidean_length, fisher_vector, vlad_vector
from delf_engine.index.dense.index import LARGEST, DenseKind
from helpers import raises, random_features
from index.asmk.test_aggregation import lattice
from index.kinds import IMAGES, NAMES, Kind, assert_same
from index.oracles import bow_scores, fisher, regional_sums, sums, vlad, word_counts

PROFILE = load_profile()
KINDS: list[Any] = ["bow", "vlad", "fisher"]
SIZES = st.sampled_from([0, 1, 2, 30])


def some_mixture(rng: np.random.Generator, components: int, dim: int) -> Mixture:
    means = rng.normal(size=(components, dim)) / np.sqrt(dim)
    return Mixture(rng.uniform(0.1, 1, components), means, rng.uniform(0.3, 3, means.shape) / dim)


def some_words(rng: np.random.Generator, kind: DenseKind, dim: int = 40) -> Any:
    return some_mixture(rng, 5, dim) if kind == "fisher" else Codebook(random_features(rng, 9, dim).descriptors)


def changed(config: Any, **changes: Any) -> Any:
    return type(config).model_validate({**config.model_dump(), **changes})


def corners(*rows: int) -> LocalFeatures:
    one = np.ones(len(rows))
    return LocalFeatures(np.zeros((len(rows), 2)), one, one, np.eye(4)[list(rows)], (9, 9))


# -------------------------------------------------------------------------------------------------- the vectors


def test_long_vectors_have_the_same_length_with_any_number_of_threads(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(20, 100_000))
    for vector in vectors:
        assert euclidean_length(vector) == pytest.approx(float(np.linalg.norm(vector)), rel=1e-12)
    lengths = set()
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            lengths.add(tuple(map(euclidean_length, vectors)))
    assert len(lengths) == 1


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 40]), st.sampled_from([1, 6, 30]), SIZES, st.integers(1, 5))
def test_bow_equals_the_oracle(seed: int, dim: int, words: int, size: int, assignments: int) -> None:
    rng = np.random.default_rng(seed)
    codebook, image = Codebook(random_features(rng, words, dim).descriptors), random_features(rng, size, dim)
    found = bow_vector(image, codebook, assignments=assignments)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, word_counts(image, codebook.centroids, assignments))


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 7, 40]),
    words=st.sampled_from([1, 2, 9]),
    size=SIZES,
    duplicates=st.booleans(),
    intra=st.booleans(),
    power=st.sampled_from([1.0, 0.5, 0.3]),
    regions=st.sampled_from([None, "grid"]),
)
def test_vlad_equals_the_oracle(
    seed: int,
    dim: int,
    words: int,
    size: int,
    duplicates: bool,
    intra: bool,
    power: float,
    regions: Literal["grid"] | None,
) -> None:
    rng = np.random.default_rng(seed)
    draw = lattice if duplicates else random_features
    codebook, image = Codebook(draw(rng, words, dim).descriptors), draw(rng, size, dim)
    found = vlad_vector(image, codebook, intra=intra, power=power, regions=regions)
    if regions:
        total = regional_sums(image, codebook.centroids, 1, scaled=True)
    else:
        total = sums(image, codebook.centroids, 1)
    # What is zero but for rounding would be scaled up to any direction.
    total = {w: np.where(np.abs(residual) < 1e-12, 0.0, residual) for w, residual in total.items()}
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, vlad(total, words, dim, intra=intra, power=power), atol=1e-5)


@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 7, 40]),
    st.sampled_from([1, 2, 9]),
    SIZES,
    st.sampled_from([1.0, 0.5]),
)
def test_fisher_equals_the_oracle(seed: int, dim: int, components: int, size: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    mixture, image = some_mixture(rng, components, dim), random_features(rng, size, dim)
    found = fisher_vector(image, mixture, power=power)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, fisher(image, mixture, power), atol=1e-5)


def test_huge_centroids_and_equal_gaussians(rng: np.random.Generator) -> None:
    centroids = np.zeros((3, 40), np.float32)
    centroids[:, 0] = [-1e15, 5e14, 1e15]
    image = random_features(rng, 30)
    found = vlad_vector(image, Codebook(centroids), intra=False, power=0.5)
    np.testing.assert_allclose(np.abs(found).max(), 1.0)
    equal = Mixture([1, 1], np.zeros((2, 40)), np.full((2, 40), 1e15))  # all posteriors are a half
    assert np.linalg.norm(fisher_vector(image, equal, power=1.0)) == pytest.approx(1, abs=1e-6)


# ------------------------------------------------------------------------------------------------- the searches


@given(
    seed=st.integers(0, 2**32),
    words=st.sampled_from([1, 2, 6, 30]),
    sizes=st.lists(SIZES, min_size=1, max_size=6),
    asked=st.sampled_from([0, 1, 7]),
    duplicates=st.booleans(),
    config=st.builds(BowConfig, query_assignments=st.integers(1, 5), idf=st.booleans()),
)
def test_bow_scores_equal_the_oracle(
    seed: int, words: int, sizes: list[int], asked: int, duplicates: bool, config: BowConfig
) -> None:
    rng = np.random.default_rng(seed)
    draw = lattice if duplicates else random_features
    images, query = [draw(rng, n, 7) for n in sizes], draw(rng, asked, 7)
    codebook = Codebook(draw(rng, words, 7).descriptors)
    index = DenseIndex("bow", codebook, config)
    for i, image in enumerate(images):
        index.add([f"{i}"], [image])
        index.search(query, 1)  # a segment each
    ids, scores = index.search(query, len(images))
    found = np.zeros(len(images))
    found[[int(i) for i in ids]] = scores
    wanted = bow_scores(query, images, codebook.centroids, config)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_word_that_all_images_have_weighs_nothing() -> None:
    codebook = Codebook(np.eye(4))
    index = DenseIndex("bow", codebook)
    index.add(["a"], [corners(0)])
    assert index.search(corners(0), 5)[0] == []
    plain = DenseIndex("bow", codebook, changed(PROFILE.bow, idf=False))
    plain.add(["a"], [corners(0)])
    assert plain.search(corners(0), 5)[1].tolist() == [1.0]
    index.add(["both"], [corners(0, 1)])
    assert index.search(corners(0), 5)[0] == []
    assert index.search(corners(1), 5)[0] == ["both"]


def test_a_word_that_no_image_has_counts_in_the_query() -> None:
    index = DenseIndex("bow", Codebook(np.eye(4)))
    index.add(["a", "b"], [corners(0), corners(1)])
    np.testing.assert_allclose(index.search(corners(0), 5)[1], [1], rtol=1e-6)
    np.testing.assert_allclose(index.search(corners(0, 3), 5)[1], [np.sqrt(0.5)], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_merged_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("delf_engine.index.vectors._ROWS", 2)
    index = Kind(kind).of(NAMES[:5])
    index.save(tmp_path)
    index.add(NAMES[5:], [IMAGES[name] for name in NAMES[5:]])
    index.remove(NAMES[1:3])
    index.compact()
    index.save(tmp_path)
    assert_same(index, Kind(kind).of([NAMES[0], *NAMES[3:]]))
    assert (index.info().kind, index.info().entries) == (kind, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_a_direction_are_never_found(rng: np.random.Generator, kind: DenseKind) -> None:
    """No descriptor, or for VLAD all of them on their centroids: there is nothing that could agree."""
    index = DenseIndex(kind, some_mixture(rng, 3, 4) if kind == "fisher" else Codebook(np.eye(4)))
    index.add(["none"], [LocalFeatures.empty((9, 9), 4)])
    if kind == "vlad":
        index.add(["on"], [corners(0)])
    for query in (corners(0), LocalFeatures.empty((9, 9), 4), random_features(rng, 9, 4)):
        assert index.search(query, 9)[0] == []


# -------------------------------------------------------------------------------------------- what goes together


def test_codebooks_and_mixtures_that_are_too_large() -> None:
    dim = 512
    DenseIndex("vlad", Codebook(np.zeros((LARGEST // dim, dim))))
    with raises(ConfigError, "262,656"):
        DenseIndex("vlad", Codebook(np.zeros((LARGEST // dim + 1, dim))))
    shape = (LARGEST // dim // 2 + 1, dim)
    with raises(ConfigError, "263,168"):
        DenseIndex("fisher", Mixture(np.ones(shape[0]), np.zeros(shape), np.ones(shape)))


@pytest.mark.parametrize(
    ("kind", "given_kind", "options"),
    [("vlad", "fisher", "vlad"), ("fisher", "vlad", "fisher"), ("bow", "bow", "vlad"), ("cow", "bow", "bow")],
)
def test_what_does_not_go_together(rng: np.random.Generator, kind: Any, given_kind: Any, options: str) -> None:
    with raises(ConfigError, repr(kind)):
        DenseIndex(kind, some_words(rng, given_kind), getattr(PROFILE, options))
