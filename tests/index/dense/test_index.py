"""BoW, VLAD and Fisher vectors against plain loops; scores of the same bits however they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import BowConfig, Config, FisherConfig, VladConfig, load_profile
from delf_engine.errors import ConfigError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook, DenseIndex, Mixture
from delf_engine.index.dense.encodings import bow_vector, fisher_vector, vlad_vector
from delf_engine.index.dense.index import LARGEST, DenseKind
from helpers import raises, random_features
from index.asmk.test_aggregation import lattice
from index.dense.oracles import bow_scores, fisher, vlad, word_counts
from index.oracles import regional_sums, sums

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


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 40]), st.sampled_from([1, 6, 30]), SIZES, st.integers(1, 5))
@settings(deadline=None)
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
@settings(deadline=None)
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
@settings(deadline=None)
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
@settings(deadline=None)
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
def test_results_do_not_depend_on_segments_or_threads(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: DenseKind
) -> None:
    """Those of an index made anew of the images that are left, too: the weights of words follow the living."""
    monkeypatch.setattr("delf_engine.index.dense.index._BLOCK", 2)
    images = {str(i): random_features(rng, int(rng.integers(0, 60))) for i in range(40)}
    queries = [random_features(rng, int(n)) for n in rng.integers(0, 60, 21)]
    kept = [i for i in images if int(i) % 7]
    words = some_words(rng, kind)
    whole, parts = DenseIndex(kind, words), DenseIndex(kind, words)
    whole.add(kept, [images[i] for i in kept], threads=3)
    wanted = [whole.search(query, 100) for query in queries]
    for start in range(0, 40, 5):
        some = list(images)[start : start + 5]
        parts.add(some, [images[i] for i in some], threads=1)
        parts.save(tmp_path / "parts")
    loaded = DenseIndex.load(tmp_path / "parts", words)
    loaded.search(queries[0], 1)
    for index in (parts, loaded):
        index.remove([i for i in images if i not in kept])
    parts.save(tmp_path / "copy")  # merged
    for index in (parts, DenseIndex.load(tmp_path / "copy", words), loaded, whole):
        for threads in (1, 3):
            found = index.search_many(queries, 100, threads=threads)
            for (ids, scores), (wanted_ids, wanted_scores) in zip(found, wanted, strict=True):
                assert ids == wanted_ids
                np.testing.assert_array_equal(scores, wanted_scores)
    assert whole.info().entries == len(kept)
    assert whole.info().kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_images_find_themselves_first_and_ties_keep_their_order(rng: np.random.Generator, kind: DenseKind) -> None:
    images = [random_features(rng, 50) for _ in range(10)]
    index = DenseIndex(kind, some_words(rng, kind), changed(PROFILE.bow, idf=False) if kind == "bow" else None)
    index.add([str(i) for i in range(10)], images)
    for i, image in enumerate(images):
        ids, scores = index.search(image, 3)
        assert (ids[0], scores[0]) == (str(i), pytest.approx(1, abs=1e-6))
    index.add(["b", "a"], [images[4], images[4]])
    assert index.search(images[4], 3)[0] == ["4", "b", "a"]
    index.remove(["4"])
    index.add(["4"], [images[4]])
    assert index.search(images[4], 3)[0] == ["b", "a", "4"]


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_a_direction_are_never_found(rng: np.random.Generator, kind: DenseKind) -> None:
    """No descriptor, or for VLAD all of them on their centroids: there is nothing that could agree."""
    index = DenseIndex(kind, some_mixture(rng, 3, 4) if kind == "fisher" else Codebook(np.eye(4)))
    index.add(["none"], [LocalFeatures.empty((9, 9), 4)])
    if kind == "vlad":
        index.add(["on"], [corners(0)])
    for query in (corners(0), LocalFeatures.empty((9, 9), 4), random_features(rng, 9, 4)):
        assert index.search(query, 9)[0] == []


def test_queries_are_encoded_without_regions(rng: np.random.Generator, tmp_path: Path) -> None:
    words = some_words(rng, "vlad")
    images = {name: random_features(rng, 200) for name in "abc"}
    plain, regional = DenseIndex("vlad", words), DenseIndex("vlad", words, changed(PROFILE.vlad, regions="grid"))
    for index in (plain, regional):
        index.add(list(images), list(images.values()))
    assert regional.info().bytes == plain.info().bytes
    regional.save(tmp_path)
    ids, scores = DenseIndex.load(tmp_path, words).search(images["a"], 5)
    assert (ids[0], 0.5 < scores[0] < 0.999) == ("a", True)


# -------------------------------------------------------------------------------------------- what goes together


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("vlad", {"power": 0.25}),
        ("vlad", {"intra": True}),
        ("vlad", {"regions": "grid"}),
        ("fisher", {"power": 1.0}),
    ],
)
def test_load_checks_what_it_was_built_with(
    rng: np.random.Generator, tmp_path: Path, kind: DenseKind, change: dict[str, Any]
) -> None:
    words, config = some_words(rng, kind), getattr(PROFILE, kind)
    index = DenseIndex(kind, words)
    index.add(["a"], [random_features(rng, 9)])
    index.save(tmp_path)
    assert DenseIndex.load(tmp_path, words).config == config
    other = some_words(rng, kind)
    with pytest.raises(MismatchError, match=rf"{words.hash[:8]}.* {other.hash[:8]}"):
        DenseIndex.load(tmp_path, other)
    ((name, value),) = change.items()
    with pytest.raises(MismatchError, match=f"{name} = .*{value}"):
        DenseIndex.load(tmp_path, words, changed(config, **change))
    assert kind in repr(index)


def test_options_of_bow_may_change_when_it_is_opened(rng: np.random.Generator, tmp_path: Path) -> None:
    words = some_words(rng, "bow")
    DenseIndex("bow", words).save(tmp_path)
    other = changed(PROFILE.bow, query_assignments=3, idf=False)
    assert DenseIndex.load(tmp_path, words, other).config == other


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
    with pytest.raises(ConfigError, match=kind):
        DenseIndex(kind, some_words(rng, given_kind), getattr(PROFILE, options))


@pytest.mark.parametrize(
    ("options", "bad"),
    [
        (VladConfig, {"power": 0.0}),
        (VladConfig, {"power": 1.5}),
        (VladConfig, {"regions": "none"}),
        (FisherConfig, {"power": -1.0}),
        (BowConfig, {"query_assignments": 0}),
    ],
)
def test_options_out_of_range(options: type[Config], bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(getattr(PROFILE, options.__name__.removesuffix("Config").lower()), **bad)
