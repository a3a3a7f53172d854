from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import AsmkIndex, Codebook
from delf_engine.index.score_kernels import score_signs
from helpers import random_features
from index.oracles import asmk_score, bag, float_bag

RNG = np.random.default_rng(0)
DEFAULT = load_profile().asmk


def signs(rng: np.random.Generator, n: int, dim: int) -> LocalFeatures:
    """Descriptors from a small set: many duplicates, and residuals that are exactly zero."""
    one = np.ones(n)
    rows = np.eye(dim)[rng.integers(0, min(dim, 3), n)] * rng.choice([-1, 1], (n, 1))
    return LocalFeatures(np.zeros((n, 2)), one, one, rows, (9, 9))


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
        kernel=st.sampled_from(["binary", "float"]),
        strict_threshold=st.booleans(),
    ),
    padded=st.booleans(),
)
@settings(deadline=None, max_examples=80)
def test_scores_equal_the_oracle(
    seed: int, dim: int, words: int, sizes: list[int], duplicates: bool, config: AsmkConfig, padded: bool
) -> None:
    if padded and config.kernel == "binary":
        config = config.model_copy(update={"divisor": "padded"})
    rng = np.random.default_rng(seed)
    draw = signs if duplicates else random_features
    images = [draw(rng, n, dim) for n in sizes]
    query = draw(rng, 7, dim)
    codebook = Codebook(draw(rng, words, dim).descriptors)
    index = AsmkIndex(codebook, config)
    for i, image in enumerate(images):
        index.add([f"{i}"], [image])
        index.search(query, 1)  # a segment each
    if config.kernel == "binary":
        bags = [bag(image, codebook.centroids, config.image_assignments) for image in images]
        asked = bag(query, codebook.centroids, config.query_assignments)
    else:
        halves = [float_bag(image, codebook.centroids, config.image_assignments, np.float16) for image in images]
        bags, asked = halves, float_bag(query, codebook.centroids, config.query_assignments, np.float32)
    wanted = np.array([asmk_score(asked, b, bags, dim, config) for b in bags])
    ids, scores = index.search(query, len(images))
    found = np.zeros(len(images))
    found[[int(i) for i in ids]] = scores
    np.testing.assert_allclose(found, np.maximum(wanted, 0), rtol=1e-6, atol=1e-7)
    assert scores.dtype == np.float32
    assert (scores > 0).all()
    assert (np.diff(scores) <= 0).all()


def test_an_image_finds_itself_first_and_scores_one() -> None:
    images = [random_features(RNG, 200) for _ in range(20)]
    config = DEFAULT.model_copy(update={"query_assignments": 1})
    index = AsmkIndex(Codebook.train(np.concatenate([i.descriptors for i in images]), 64), config)
    index.add([str(i) for i in range(20)], images)
    for i, image in enumerate(images):
        ids, scores = index.search(image, 3)
        assert ids[0] == str(i)
        assert scores[0] == pytest.approx(1, abs=1e-6)
        assert scores[1] < 0.3


def test_unrelated_codes_score_nothing_on_average() -> None:
    """Hamming distance over the true 40 bits: random codes have similarity 0, not 0.375."""
    codebook = Codebook(np.zeros((1, 40)))
    config = DEFAULT.model_copy(update={"threshold": -1.0, "alpha": 1.0, "query_assignments": 1})
    index = AsmkIndex(codebook, config)
    index.add([str(i) for i in range(4000)], [random_features(RNG, 1) for _ in range(4000)])
    index.search(random_features(RNG, 1), 1)
    (scores,) = index._scores(index._queries([random_features(RNG, 1)], 1), 1)
    assert abs(float(scores.mean())) < 0.02


def test_ties_keep_the_order_of_insertion() -> None:
    image, other = random_features(RNG, 30), random_features(RNG, 30)
    index = AsmkIndex(Codebook(RNG.normal(size=(10, 40))))
    names = ["d", "b", "a", "c"]
    index.add(names, [image] * 4)
    index.search(image, 1)
    index.add(["z", "other"], [image, other])
    assert index.search(image, 3)[0] == ["d", "b", "a"]
    assert index.search(image, 9)[0][:5] == [*names, "z"]
    index.remove(["d"])
    index.add(["d"], [image])
    assert index.search(image, 9)[0][:5] == ["b", "a", "c", "z", "d"]


def test_results_do_not_depend_on_segments(tmp_path: Path) -> None:
    images = {str(i): random_features(RNG, int(RNG.integers(0, 60))) for i in range(60)}
    query = random_features(RNG, 50)
    codebook = Codebook(RNG.normal(size=(40, 40)) / 6)
    config = DEFAULT.model_copy(update={"idf": True})
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
    for index in (parts, None, AsmkIndex.load(tmp_path, codebook)):
        if index is None:
            parts.save(tmp_path)
            continue
        if index is not parts:
            index = AsmkIndex.load(tmp_path, codebook)
        ids, scores = index.search(query, 100)
        assert ids == wanted_ids
        np.testing.assert_array_equal(scores, wanted)


def test_load_checks_codebook_and_options(tmp_path: Path) -> None:
    codebook = Codebook(RNG.normal(size=(10, 40)))
    index = AsmkIndex(codebook)
    index.add(["a"], [random_features(RNG, 5)])
    index.save(tmp_path)
    with pytest.raises(MismatchError, match=f"built with codebook {codebook.hash[:8]}"):
        AsmkIndex.load(tmp_path, Codebook(RNG.normal(size=(10, 40))))
    assert AsmkIndex.load(tmp_path, codebook).config == DEFAULT
    other = DEFAULT.model_copy(update={"alpha": 2.0})
    assert AsmkIndex.load(tmp_path, codebook, other).config == other
    with pytest.raises(MismatchError, match="image_assignments = 1, asked for 2"):
        AsmkIndex.load(tmp_path, codebook, DEFAULT.model_copy(update={"image_assignments": 2}))
    assert "1 images" in repr(index)


@pytest.mark.parametrize(("name", "row"), [("image_ids", 3), ("word_offsets", 4)])
@pytest.mark.parametrize("value", [-7, 10**9])
def test_postings_that_point_outside_are_found_when_searched(
    tmp_path: Path, name: str, row: int, value: int
) -> None:
    """Checksums of large collections are not compared on opening: a wild address must not be followed."""
    rng = np.random.default_rng(0)
    codebook = Codebook(random_features(rng, 10).descriptors)
    image = random_features(rng, 200)
    index = AsmkIndex(codebook, DEFAULT.model_copy(update={"idf": True}))
    index.add(["a", "b"], [image, image])
    index.save(tmp_path)
    array = np.lib.format.open_memmap(tmp_path / "segment-00000001" / f"{name}.npy", mode="r+")
    array[row] = value
    array.flush()
    with pytest.raises(FormatError, match=rf"{name}\.npy: .*checksum"):
        AsmkIndex.load(tmp_path, codebook)
    for config in (None, DEFAULT):
        with pytest.raises(FormatError, match="segment-00000001: postings are damaged"):
            AsmkIndex.load(tmp_path, codebook, config, check=False).search(image, 5)
    damaged = AsmkIndex.load(tmp_path, codebook, check=False)
    with pytest.raises(FormatError, match="postings are damaged"):
        damaged.save(tmp_path / "copy")


def test_codes_with_bits_beyond_the_dimension_are_damaged() -> None:
    one = np.ones((1, 1), np.uint64) << np.uint64(63)
    arrays = (np.array([0, 1]), np.zeros(1, np.int32), one)
    for array in arrays:
        array.flags.writeable = False
    asked = (np.zeros(1, np.int32), np.zeros((1, 1), np.uint64), np.ones(1), np.zeros(1))
    assert not score_signs(0, 1, *asked, *arrays, np.zeros(1))
