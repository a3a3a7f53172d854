from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from delf_engine.config import BowConfig, load_profile
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import BowIndex, Codebook
from delf_engine.index.bow_kernels import add_squares, score_counts
from helpers import random_features
from index.encoding_oracles import bow_scores

RNG = np.random.default_rng(0)
DEFAULT = load_profile().bow


def corners(rng: np.random.Generator, n: int, dim: int) -> LocalFeatures:
    """Descriptors from a small set: many duplicates, and ties between words."""
    one = np.ones(n)
    rows = np.eye(dim)[rng.integers(0, min(dim, 3), n)] * rng.choice([-1, 1], (n, 1))
    return LocalFeatures(np.zeros((n, 2)), one, one, rows, (9, 9))


def found_scores(index: BowIndex, query: LocalFeatures, count: int) -> np.ndarray:
    ids, scores = index.search(query, count)
    assert scores.dtype == np.float32
    assert (np.diff(scores) <= 0).all()
    found = np.zeros(count)
    found[[int(i) for i in ids]] = scores
    return found


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 2, 40, 65]),
    words=st.sampled_from([1, 2, 6, 30]),
    sizes=st.lists(st.sampled_from([0, 1, 2, 9, 60]), min_size=1, max_size=6),
    asked=st.sampled_from([0, 1, 7]),
    duplicates=st.booleans(),
    config=st.builds(
        BowConfig,
        image_assignments=st.integers(1, 2),
        query_assignments=st.integers(1, 5),
        idf=st.booleans(),
    ),
)
@settings(deadline=None)
def test_scores_equal_the_oracle(
    seed: int, dim: int, words: int, sizes: list[int], asked: int, duplicates: bool, config: BowConfig
) -> None:
    rng = np.random.default_rng(seed)
    draw = corners if duplicates else random_features
    images = [draw(rng, n, dim) for n in sizes]
    query = draw(rng, asked, dim)
    codebook = Codebook(draw(rng, words, dim).descriptors)
    index = BowIndex(codebook, config)
    for i, image in enumerate(images):
        index.add([f"{i}"], [image])
        index.search(query, 1)  # a segment each
    wanted = bow_scores(query, images, codebook.centroids, config)
    np.testing.assert_allclose(found_scores(index, query, len(images)), wanted, rtol=1e-6, atol=1e-7)


def test_an_image_finds_itself_first_and_scores_one() -> None:
    images = [random_features(RNG, 200) for _ in range(20)]
    index = BowIndex(Codebook(random_features(RNG, 64).descriptors))
    index.add([str(i) for i in range(20)], images)
    for i, image in enumerate(images):
        ids, scores = index.search(image, 3)
        assert (ids[0], scores[0]) == (str(i), 1.0)
        assert scores[1] < 0.9


def test_weights_follow_the_living_images(tmp_path: Path) -> None:
    """After any change scores are those of an index made anew of what is left."""
    codebook = Codebook(random_features(RNG, 30).descriptors)
    images = {str(i): random_features(RNG, int(RNG.integers(0, 60))) for i in range(40)}
    query = random_features(RNG, 50)
    index = BowIndex(codebook)
    for start in range(0, 40, 4):
        names = list(images)[start : start + 4]
        index.add(names, [images[name] for name in names])
        if start % 3:
            index.search(query, 1)
        else:
            index.save(tmp_path)
    before = dict(zip(*index.search(query, 99), strict=True))
    gone = [name for name in images if int(name) % 3 == 1]
    index.remove(gone)
    fresh = BowIndex(codebook)
    left = [name for name in images if name not in gone]
    fresh.add(left, [images[name] for name in left])
    wanted_ids, wanted = fresh.search(query, 99)
    for stage in ("removed", "saved", "loaded"):
        if stage == "saved":
            index.save(tmp_path)
        if stage == "loaded":
            index = BowIndex.load(tmp_path, codebook)
        ids, scores = index.search(query, 99)
        assert ids == wanted_ids
        np.testing.assert_array_equal(scores, wanted)
    assert any(before[name] != score for name, score in zip(wanted_ids, wanted, strict=True))


def test_a_word_that_all_images_have_weighs_nothing() -> None:
    codebook = Codebook(np.eye(4))
    a, b, both = (corner_features(rows) for rows in ([0], [1], [0, 1]))
    index = BowIndex(codebook)
    index.add(["a"], [a])
    assert index.search(a, 5)[0] == []
    plain = BowIndex(codebook, DEFAULT.model_copy(update={"idf": False}))
    plain.add(["a"], [a])
    assert plain.search(a, 5)[1].tolist() == [1.0]
    index.add(["both"], [both])
    assert index.search(a, 5)[0] == []
    assert index.search(b, 5)[0] == ["both"]


def test_a_word_that_no_image_has_counts_in_the_query() -> None:
    index = BowIndex(Codebook(np.eye(4)))
    index.add(["a", "b"], [corner_features([0]), corner_features([1])])
    assert index.search(corner_features([0]), 5)[1].tolist() == [1.0]
    np.testing.assert_allclose(index.search(corner_features([0, 3]), 5)[1], [np.sqrt(0.5)], rtol=1e-6)


def corner_features(rows: list[int]) -> LocalFeatures:
    one = np.ones(len(rows))
    return LocalFeatures(np.zeros((len(rows), 2)), one, one, np.eye(4)[rows], (9, 9))


def test_ties_keep_the_order_of_insertion() -> None:
    image, other = random_features(RNG, 30), random_features(RNG, 3)
    index = BowIndex(Codebook(random_features(RNG, 10).descriptors))
    index.add(["d", "b", "other"], [image, image, other])
    index.search(image, 1)
    index.add(["a"], [image])
    assert index.search(image, 2)[0] == ["d", "b"]
    assert index.search(image, 9)[0][:3] == ["d", "b", "a"]


def test_load_checks_codebook_and_options(tmp_path: Path) -> None:
    codebook = Codebook(random_features(RNG, 10).descriptors)
    index = BowIndex(codebook)
    index.add(["a"], [random_features(RNG, 5)])
    index.save(tmp_path)
    with pytest.raises(MismatchError, match=f"built with codebook {codebook.hash[:8]}"):
        BowIndex.load(tmp_path, Codebook(np.eye(40)))
    assert BowIndex.load(tmp_path, codebook).config == DEFAULT
    other = DEFAULT.model_copy(update={"query_assignments": 3, "idf": False})
    assert BowIndex.load(tmp_path, codebook, other).config == other
    with pytest.raises(MismatchError, match="image_assignments = 1, asked for 2"):
        BowIndex.load(tmp_path, codebook, DEFAULT.model_copy(update={"image_assignments": 2}))
    assert "BowIndex(1 images, Codebook(10 words" in repr(index)
    with pytest.raises(ValidationError):
        BowConfig(image_assignments=0)


@pytest.mark.parametrize(("name", "row"), [("image_ids", 3), ("word_offsets", 4)])
@pytest.mark.parametrize("value", [-7, 10**9])
def test_postings_that_point_outside_are_found_when_searched(
    tmp_path: Path, name: str, row: int, value: int
) -> None:
    rng = np.random.default_rng(0)
    codebook = Codebook(random_features(rng, 10).descriptors)
    image = random_features(rng, 200)
    index = BowIndex(codebook)
    index.add(["a", "b"], [image, image])
    index.save(tmp_path)
    array = np.lib.format.open_memmap(tmp_path / "segment-00000001" / f"{name}.npy", mode="r+")
    array[row] = value
    array.flush()
    for config in (None, DEFAULT.model_copy(update={"idf": False})):
        damaged = BowIndex.load(tmp_path, codebook, config, check=False)
        with pytest.raises(FormatError, match="segment-00000001: postings are damaged"):
            damaged.search(image, 5)


def test_kernels_follow_no_wild_address() -> None:
    ids, counts = np.zeros(1, np.int32), np.ones((1, 1), np.int32)
    for offsets, rows in (([0, 9], 1), ([-1, 1], 1), ([1, 0], 1), ([0, 1], 0)):
        postings = (np.array(offsets), ids, counts)
        assert not add_squares(np.ones(1), *postings, np.zeros(rows))
        assert not score_counts(np.zeros(1, np.int32), np.ones(1), np.ones(1), *postings, np.zeros(rows))
