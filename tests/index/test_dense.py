"""VLAD and Fisher vectors: what is kept of an image, and scores of the same bits however they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import FisherConfig, VladConfig, load_profile
from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook, FisherIndex, Mixture, VladIndex, aggregation, dense
from delf_engine.index.dense import LARGEST, normalised
from delf_engine.index.dense_kernels import products, products_of_halves
from delf_engine.index.halves import bits, half_values
from delf_engine.regions import Regions, rigid_grid
from helpers import random_features
from index.encoding_oracles import fisher, vlad
from index.oracles import regional_sums
from index.test_aggregation import lattice, random_regions

RNG = np.random.default_rng(0)


def vectors(index: Any) -> np.ndarray:
    """The rows that an index holds."""
    index.info()  # nothing waits any longer
    return np.concatenate([segment.arrays["vectors"] for segment in index._collection.segments])


def some_mixture(rng: np.random.Generator, components: int, dim: int) -> Mixture:
    means = rng.normal(size=(components, dim)) / np.sqrt(dim)
    return Mixture(rng.uniform(0.1, 1, components), means, rng.uniform(0.3, 3, means.shape) / dim)


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 7, 40]),
    words=st.sampled_from([1, 2, 9]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 30]), min_size=1, max_size=4),
    duplicates=st.booleans(),
    regional=st.booleans(),
    config=st.builds(
        VladConfig,
        assignments=st.integers(1, 3),
        intra=st.booleans(),
        power=st.sampled_from([1.0, 0.5, 0.3]),
        region_norm=st.sampled_from([None, "l2"]),
    ),
    block=st.sampled_from([1, 3, 32768]),
    threads=st.sampled_from([1, 3]),
)
@settings(deadline=None)
def test_vlad_equals_the_oracle(
    seed: int,
    dim: int,
    words: int,
    sizes: list[int],
    duplicates: bool,
    regional: bool,
    config: VladConfig,
    block: int,
    threads: int,
) -> None:
    rng = np.random.default_rng(seed)
    draw = lattice if duplicates else random_features
    codebook = Codebook(draw(rng, words, dim).descriptors)
    images = [draw(rng, n, dim) for n in sizes]
    regions = [random_regions(rng, n) for n in sizes] if regional else None
    index = VladIndex(codebook, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregation, "_BLOCK", block)
        index.add([str(i) for i in range(len(images))], images, regions, threads=threads)
    for i, (row, image) in enumerate(zip(vectors(index), images, strict=True)):
        sums = regional_sums(
            image,
            codebook.centroids,
            config.assignments,
            None if regions is None else regions[i],
            config.region_norm if regional else None,
        )
        # What is zero but for rounding would be scaled up to any direction.
        sums = {w: np.where(np.abs(total) < 1e-12, 0.0, total) for w, total in sums.items()}
        wanted = vlad(sums, words, dim, intra=config.intra, power=config.power)
        np.testing.assert_allclose(row, wanted, atol=1e-5)


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 7, 40]),
    components=st.sampled_from([1, 2, 9]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 30]), min_size=1, max_size=4),
    power=st.sampled_from([1.0, 0.5]),
    threads=st.sampled_from([1, 3]),
)
@settings(deadline=None)
def test_fisher_equals_the_oracle(
    seed: int, dim: int, components: int, sizes: list[int], power: float, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    mixture = some_mixture(rng, components, dim)
    images = [random_features(rng, n, dim) for n in sizes]
    index = FisherIndex(mixture, FisherConfig(power=power))
    index.add([str(i) for i in range(len(images))], images, threads=threads)
    for row, image in zip(vectors(index), images, strict=True):
        np.testing.assert_allclose(row, fisher(image, mixture, power), atol=1e-5)


def test_mixtures_of_extreme_values() -> None:
    image = random_features(RNG, 30, 3)
    for weights, means, variances in (
        ([1e-45, 1e15], [[0, 0, 0], [1e15, -1e15, 0]], np.full((2, 3), 1e-44)),
        ([1, 1], np.zeros((2, 3)), np.full((2, 3), 1e15)),  # equal Gaussians: all posteriors are a half
        ([1], np.full((1, 3), 1e15), np.full((1, 3), 1e-44)),
    ):
        index = FisherIndex(Mixture(weights, means, variances), FisherConfig(power=1.0))
        index.add(["a"], [image])
        assert np.linalg.norm(vectors(index)[0]) == pytest.approx(1, abs=1e-6)
        assert index.search(image, 5)[1][0] == pytest.approx(1, abs=1e-6)


def test_vlad_of_huge_centroids() -> None:
    centroids = np.zeros((3, 40), np.float32)
    centroids[:, 0] = [-1e15, 5e14, 1e15]
    index = VladIndex(Codebook(centroids), VladConfig(intra=False))
    index.add(["a"], [random_features(RNG, 30)])
    np.testing.assert_allclose(np.abs(vectors(index)).max(), 1.0)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [3e-200, -4e-200], [3e200, -4e200], []])
def test_vectors_have_unit_length_or_none(vector: list[float]) -> None:
    found = normalised(np.array(vector), 1.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.6, -0.8] if any(vector) else vector)


@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(0, 9),
    rows=st.integers(0, 6),
    length=st.sampled_from([1, 7, 8, 9, 64, 131]),
    half=st.booleans(),
)
@settings(deadline=None)
def test_products_equal_the_oracle_and_do_not_depend_on_the_batch(
    seed: int, queries: int, rows: int, length: int, half: bool
) -> None:
    rng = np.random.default_rng(seed)
    asked = rng.normal(size=(queries, length)).astype(np.float32).astype(np.float64)
    kept = rng.normal(size=(rows, length)).astype(np.float16 if half else np.float32)

    def run(q: np.ndarray, r: np.ndarray) -> np.ndarray:
        out = np.full((len(q), len(r)), np.nan)
        if half:
            products_of_halves(q, bits(r), half_values(), out)
        else:
            products(q, r, out)
        return out

    found = run(asked, kept)
    np.testing.assert_allclose(found, asked @ kept.astype(np.float64).T, rtol=1e-12, atol=1e-12)
    for q in range(queries):
        for r in range(rows):
            assert run(asked[q : q + 1], kept[r : r + 1])[0, 0] == found[q, r]


def test_every_half_has_its_value() -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(half_values(), numbers.astype(np.float32))


def both(precision: str) -> list[Any]:
    """How to make an index of each kind."""
    codebook, mixture = Codebook(random_features(RNG, 9).descriptors), some_mixture(RNG, 5, 40)
    return [
        (VladIndex, codebook, VladConfig(precision=precision)),
        (FisherIndex, mixture, FisherConfig(precision=precision)),
    ]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_results_do_not_depend_on_segments_or_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(dense, "_BLOCK", 2)
    images = {str(i): random_features(RNG, int(RNG.integers(0, 60))) for i in range(40)}
    queries = [random_features(RNG, int(n)) for n in RNG.integers(0, 60, 21)]
    kept = [i for i in images if int(i) % 7]
    for kind, source, config in both(precision):
        whole, parts = kind(source, config), kind(source, config)
        whole.add(kept, [images[i] for i in kept], threads=3)
        wanted = [whole.search(query, 100) for query in queries]
        for start in range(0, 40, 5):
            some = list(images)[start : start + 5]
            parts.add(some, [images[i] for i in some], threads=1)
            parts.save(tmp_path / kind.kind)
        parts.remove([i for i in images if i not in kept])
        parts.save(tmp_path / "copy" / kind.kind)  # merged
        copied = kind.load(tmp_path / "copy" / kind.kind, source)
        loaded = kind.load(tmp_path / kind.kind, source)
        loaded.remove([i for i in images if i not in kept])
        for index in (parts, copied, loaded, whole):
            for threads in (1, 3):
                found = index.search_many(queries, 100, threads=threads)
                for (ids, scores), (wanted_ids, wanted_scores) in zip(found, wanted, strict=True):
                    assert ids == wanted_ids
                    np.testing.assert_array_equal(scores, wanted_scores)
        assert vectors(whole).dtype == precision
        assert whole.info().entries == len(kept)


def test_float16_takes_half_the_space_and_loses_little() -> None:
    images = [random_features(RNG, 50) for _ in range(10)]
    for (kind, source, full), (_, _, half) in zip(both("float32"), both("float16"), strict=True):
        indexes = [kind(source, config) for config in (full, half)]
        for index in indexes:
            index.add([str(i) for i in range(10)], images)
        assert vectors(indexes[0]).nbytes == 2 * vectors(indexes[1]).nbytes
        np.testing.assert_allclose(vectors(indexes[1]), vectors(indexes[0]), atol=2**-11)
        ids, scores = indexes[1].search(images[3], 1)
        assert (ids, scores[0]) == (["3"], pytest.approx(1, abs=2**-10))


def test_images_find_themselves_first_and_ties_keep_their_order() -> None:
    images = [random_features(RNG, 50) for _ in range(10)]
    for kind, source, config in both("float32"):
        index = kind(source, config)
        index.add([str(i) for i in range(10)], images)
        for i, image in enumerate(images):
            ids, scores = index.search(image, 3)
            assert (ids[0], scores[0]) == (str(i), pytest.approx(1, abs=1e-6))
        index.add(["b", "a"], [images[4], images[4]])
        assert index.search(images[4], 3)[0] == ["4", "b", "a"]
        index.remove(["4"])
        index.add(["4"], [images[4]])
        assert index.search(images[4], 3)[0] == ["b", "a", "4"]


def test_images_without_a_direction_are_never_found() -> None:
    """No descriptor, or all of them on their centroids: there is nothing that could agree."""
    one = np.ones(1)
    on = LocalFeatures(np.zeros((1, 2)), one, one, np.eye(4)[:1], (9, 9))
    index = VladIndex(Codebook(np.eye(4)))
    index.add(["none", "on"], [LocalFeatures.empty((9, 9), 4), on])
    assert not vectors(index).any()
    for query in (on, random_features(RNG, 9, 4)):
        assert index.search(query, 9)[0] == []


def test_regions_of_the_index(tmp_path: Path) -> None:
    codebook = Codebook(random_features(RNG, 20).descriptors)
    images = {name: random_features(RNG, 200) for name in "abc"}
    grid = [Regions.of(image, rigid_grid(image.image_size)) for image in images.values()]
    config = VladConfig(regions="grid", region_norm="l2")
    plain, given_, chosen, override = (
        VladIndex(codebook, c) for c in (VladConfig(), VladConfig(region_norm="l2"), config, config)
    )
    plain.add(list(images), list(images.values()))
    given_.add([*images, "a"], [*images.values(), images["b"]], [*grid, None])
    chosen.add(list(images), list(images.values()))
    override.add(list(images), list(images.values()), [None, None, None])
    np.testing.assert_array_equal(vectors(given_), vectors(chosen))
    np.testing.assert_allclose(vectors(override), vectors(plain), atol=1e-6)
    assert not np.allclose(vectors(given_), vectors(plain), atol=1e-3)
    chosen.save(tmp_path)
    loaded = VladIndex.load(tmp_path, codebook)
    assert loaded.config == config
    np.testing.assert_array_equal(loaded.search(images["a"], 5)[1], given_.search(images["a"], 5)[1])
    far = Regions.from_members(np.array([[0, 0, 5, 5]]), [np.array([1, 300])])
    with pytest.raises(FeatureError, match="x: a region has descriptor 300, the image has 200"):
        plain.add(["x"], [images["a"]], [far])
    with pytest.raises(ConfigError, match="the regions of 2 images for 1 ids"):
        plain.add(["x"], [images["a"]], [None, None])
    assert len(plain) == 3


def test_load_checks_what_it_was_built_with(tmp_path: Path) -> None:
    for kind, source, config in both("float32"):
        other_source = both("float32")[0 if kind is VladIndex else 1][1]
        index = kind(source, config)
        index.add(["a"], [random_features(RNG, 9)])
        index.save(tmp_path / kind.kind)
        assert kind.load(tmp_path / kind.kind, source).config == config
        with pytest.raises(
            MismatchError, match=rf"built with \w+ {source.hash[:8]}, not with {other_source.hash[:8]}"
        ):
            kind.load(tmp_path / kind.kind, other_source)
        for change in ({"power": 0.25}, {"precision": "float16"}):
            name, value = next(iter(change.items()))
            with pytest.raises(MismatchError, match=f"built with {name} = .*, asked for {value}"):
                kind.load(tmp_path / kind.kind, source, config.model_copy(update=change))
        assert f"{kind.__name__}(1 images, " in repr(index)


def test_codebooks_and_mixtures_that_are_too_large() -> None:
    dim = 512
    VladIndex(Codebook(np.zeros((LARGEST // dim, dim))))
    with pytest.raises(ConfigError, match="513 words of 512 dimensions are 262,656 components an image"):
        VladIndex(Codebook(np.zeros((LARGEST // dim + 1, dim))))
    shape = (LARGEST // dim // 2 + 1, dim)
    with pytest.raises(ConfigError, match="257 Gaussians of 512 dimensions are 263,168 components an image"):
        FisherIndex(Mixture(np.ones(shape[0]), np.zeros(shape), np.ones(shape)))


def test_options() -> None:
    assert load_profile().vlad == VladConfig()
    assert load_profile().fisher == FisherConfig()
    for bad in ({"power": 0.0}, {"power": 1.5}, {"precision": "float64"}, {"regions": "none"}, {"assignments": 0}):
        with pytest.raises(ValidationError):
            VladConfig(**bad)
