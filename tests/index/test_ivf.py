from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import IvfConfig, Profile, load_profile
from delf_engine.errors import ConfigError, FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook, IvfIndex, ProductQuantizer, disk, ivf_search
from delf_engine.index.ivf_layout import as_bytes, check_count
from delf_engine.index.ivf_search import Searcher
from helpers import random_features
from index.oracles import ivf_found, voted

RNG = np.random.default_rng(0)
DEFAULT = load_profile().ivf
CODEBOOK = Codebook(random_features(RNG, 30).descriptors)
QUANTIZER = ProductQuantizer.train(random_features(RNG, 500).descriptors, CODEBOOK)
SMALL = {"neighbours": 5, "probes": 2, "assignment": "exact"}


def index_of(images: list[LocalFeatures], codebook: Codebook = CODEBOOK, **options: Any) -> IvfIndex:
    config = DEFAULT.model_copy(update={**SMALL, **options})
    index = IvfIndex(codebook, config, QUANTIZER if config.codec == "pq" else None)
    index.add([str(i) for i in range(len(images))], images)
    return index


def searcher_of(index: IvfIndex) -> Searcher:
    index.info()  # of what was added, too
    return index._session()


def unit(descriptors: np.ndarray) -> LocalFeatures:
    """Features with these descriptors, at unit length."""
    rows = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    one = np.ones(len(rows))
    return LocalFeatures(np.zeros((len(rows), 2)), one, one, rows, (9, 9))


def drawn(rng: np.random.Generator, n: int, dim: int, values: str) -> LocalFeatures:
    if values == "ties":  # few different ones, so that many are equally far
        return unit(rng.choice([-1.0, 1.0], (n, dim)))
    return random_features(rng, n, dim)


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([2, 8, 40]),
    words=st.integers(1, 9),
    sizes=st.lists(st.sampled_from([0, 1, 5, 40]), min_size=1, max_size=5),
    asked=st.sampled_from([1, 12]),
    values=st.sampled_from(["normal", "ties"]),
    probes=st.integers(1, 9),
)
@settings(deadline=None)
def test_neighbours_and_scores_equal_the_oracle(
    seed: int, dim: int, words: int, sizes: list[int], asked: int, values: str, probes: int
) -> None:
    rng = np.random.default_rng(seed)
    codebook = Codebook(rng.normal(size=(words, dim)))
    images = [drawn(rng, n, dim, values) for n in sizes]
    query = drawn(rng, asked, dim, values)
    index = index_of(images, codebook, probes=probes)
    ids, scores = index.search(query, 9)
    if not sum(sizes):
        assert ids == []
        return
    searcher = searcher_of(index)
    assert searcher.probes == min(words, max(probes, -(-words * 4 * 5 // sum(sizes))))
    rows, squared, owners = searcher.nearest(query.descriptors, searcher.cells(query.descriptors), 3)
    wanted = ivf_found(query, images, codebook.centroids, searcher.probes, 5)
    for i, found in enumerate(wanted):
        there = rows[i] >= 0
        assert rows[i][there].tolist() == [row for _, row, _ in found]
        assert owners[i][there].tolist() == [image for _, _, image in found]
        np.testing.assert_allclose(squared[i][there], [distance for distance, _, _ in found], rtol=1e-12)
    score = np.zeros(len(images))
    score[[int(i) for i in ids]] = scores
    np.testing.assert_allclose(score, np.maximum(voted(wanted, len(images)), 0), rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([0, 1, 5, 40]), min_size=1, max_size=8),
    codec=st.sampled_from(["uint8", "pq"]),
    values=st.sampled_from(["normal", "ties"]),
    block=st.sampled_from([1, 30, 65536]),
)
@settings(deadline=None)
def test_the_same_bits_in_any_segments_threads_and_blocks(
    seed: int, sizes: list[int], codec: str, values: str, block: int
) -> None:
    rng = np.random.default_rng(seed)
    images = [drawn(rng, n, 40, values) for n in sizes]
    query = drawn(rng, 15, 40, values)
    whole = index_of(images, codec=codec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delf_engine.index.aggregation._BLOCK", block)
        patch.setattr(ivf_search, "_SHARE", 1)  # comparisons, so that all threads have some
        parts = index_of([], codec=codec)
        for i, image in enumerate(images):
            parts.add([f"gone {i}", str(i)], [query, image])
            parts.search(query, 1)
            parts.remove([f"gone {i}"])
        ids, scores = parts.search(query, 9)
        several = [parts.search_many([query] * 3, 9, threads=t) for t in (1, 2, 7)]
        searcher = searcher_of(parts)
        if searcher.descriptors:
            cells = searcher.cells(query.descriptors)
            found = [searcher.nearest(query.descriptors, cells, t) for t in (1, 2, 9)]
            for other in found[1:]:
                for one, two in zip(found[0], other, strict=True):
                    np.testing.assert_array_equal(one, two)
    wanted_ids, wanted = whole.search(query, 9)
    for found_ids, found_scores in [(ids, scores), *(found for part in several for found in part)]:
        assert found_ids == wanted_ids
        np.testing.assert_array_equal(found_scores, wanted)


def test_codes_that_are_all_compared_again_give_what_descriptors_give() -> None:
    images = [random_features(RNG, n) for n in (50, 0, 1, 120, 80)]
    query = random_features(RNG, 40)
    plain = index_of(images).search(query, 9)
    coded = index_of(images, codec="pq", rescored=100).search(query, 9)
    assert coded[0] == plain[0]
    np.testing.assert_array_equal(coded[1], plain[1])


def test_codes_propose_the_nearest_by_their_distance() -> None:
    """Of one cell and with none to spare, those are found that are nearest to the vectors of the codes."""
    images = [random_features(RNG, 300)]
    codebook = Codebook(np.full((1, 40), 0.01))
    quantizer = ProductQuantizer.train(images[0].descriptors, codebook, levels=4)
    config = DEFAULT.model_copy(update={**SMALL, "codec": "pq", "rescored": 1})
    index = IvfIndex(codebook, config, quantizer)
    index.add(["0"], images)
    searcher, query = searcher_of(index), random_features(RNG, 20).descriptors
    rows, _, _ = searcher.nearest(query, searcher.cells(query), 1)
    left = images[0].descriptors - codebook.centroids[0]
    coded = codebook.centroids[0] + quantizer.decode(quantizer.encode(left)).astype(np.float64)
    for x, found in zip(query.astype(np.float64), rows, strict=True):
        squared = ((x - coded) ** 2).sum(1)
        fifth = np.sort(squared)[4]
        assert (squared[found] <= fifth + 1e-5).all()
        assert set(np.flatnonzero(squared < fifth - 1e-5)) <= set(found)


def test_descriptors_in_bytes() -> None:
    values = np.concatenate([random_features(RNG, 1000).descriptors, np.eye(40), -np.eye(40)]).astype(np.float32)
    error = (as_bytes(values).astype(np.float64) - 128) / 127 - values
    assert np.abs(error).max() <= 1 / 254 + 1e-7
    assert np.linalg.norm(error, axis=1).max() <= np.sqrt(40) / 254
    assert as_bytes(np.array([[-1.02, -1, 0, 1, 1.02, 1e30]], np.float32)).tolist() == [[1, 1, 128, 255, 255, 255]]
    assert as_bytes(np.empty((0, 40), np.float32)).shape == (0, 40)


def test_an_image_finds_itself_first() -> None:
    images = [random_features(RNG, 100) for _ in range(20)]
    for codec in ("uint8", "pq"):
        index = index_of(images, codec=codec, probes=8, neighbours=60)
        for i, image in enumerate(images):
            ids, scores = index.search(image, 3)
            assert ids[0] == str(i)
            assert scores[0] > 3 * scores[1]


def test_one_vote_for_a_repeated_structure() -> None:
    a, b = np.eye(40)[:2]
    index = index_of([unit(np.array([a] * 6)), unit(np.array([a, b]))], Codebook(np.zeros((1, 40))), neighbours=7)
    ids, scores = index.search(unit(np.array([a, b])), 9)
    assert ids == ["1", "0"]
    np.testing.assert_allclose(scores, [1.01, 0.01], rtol=1e-5)
    np.testing.assert_allclose(index.search(unit(np.array([a] * 5)), 9)[1], [0.01, 0.01], rtol=1e-5)


def test_more_cells_are_visited_where_there_are_few_descriptors() -> None:
    image = random_features(RNG, 100)
    index = index_of([image, image], neighbours=20)
    assert searcher_of(index).probes == 12  # of 30, to hold 80 of 200 descriptors
    index.remove(["0"])
    assert searcher_of(index).probes == 24
    assert searcher_of(index_of([image] * 50, neighbours=20)).probes == 2
    assert searcher_of(index_of([image], neighbours=10_000)).probes == 30


def test_huge_centroids() -> None:
    centroids = np.zeros((3, 40), np.float32)
    centroids[:, 0] = [-1e15, 0, 1e15]
    codebook, image = Codebook(centroids), random_features(RNG, 40)
    quantizer = ProductQuantizer.train(image.descriptors, codebook)
    config = DEFAULT.model_copy(update={"codec": "pq"})
    index = IvfIndex(codebook, config, quantizer)
    index.add(["a"], [image])
    assert index.search(image, 5)[0] == ["a"]


@pytest.mark.parametrize("codec", ["uint8", "pq"])
def test_an_index_on_disk(tmp_path: Path, codec: str) -> None:
    images = {str(i): random_features(RNG, int(RNG.integers(0, 60))) for i in range(30)}
    query, quantizer = random_features(RNG, 40), QUANTIZER if codec == "pq" else None
    whole, parts = index_of([], codec=codec), index_of([], codec=codec)
    whole.add([i for i in images if int(i) % 7], [images[i] for i in images if int(i) % 7])
    for i, image in images.items():
        parts.add([i], [image])
        parts.save(tmp_path)
    parts.remove([i for i in images if int(i) % 7 == 0])
    parts.save(tmp_path)
    loaded = IvfIndex.load(tmp_path, CODEBOOK, quantizer=quantizer)
    assert loaded.config == whole.config
    for index in (parts, loaded):
        ids, scores = index.search(query, 99)
        assert ids == whole.search(query, 99)[0]
        np.testing.assert_array_equal(scores, whole.search(query, 99)[1])
    arrays = loaded._collection.segments[0].arrays
    count = len(arrays["rows"])
    assert arrays["descriptors"].shape == (count, 40)
    assert ("codes" in arrays) == (codec == "pq")
    assert quantizer is None or arrays["codes"].shape == (count, 7)  # 50 bits
    assert loaded.info().entries == sum(len(s.arrays["rows"]) for s in loaded._collection.segments)


@pytest.mark.parametrize("codec", ["uint8", "pq"])
@pytest.mark.parametrize("name", ["rows", "cell_offsets"])
def test_a_damaged_map(tmp_path: Path, codec: str, name: str) -> None:
    quantizer = QUANTIZER if codec == "pq" else None
    query = random_features(RNG, 40)
    index_of([query] * 3, codec=codec).save(tmp_path)
    array = np.lib.format.open_memmap(tmp_path / "segment-00000001" / f"{name}.npy", mode="r+")
    array[slice(None) if name == "rows" else slice(1, -1)] = 2**31
    array.flush()
    index = IvfIndex.load(tmp_path, CODEBOOK, quantizer=quantizer, check=False)
    with pytest.raises(FormatError, match="cells are damaged"):
        index.search(query, 5)
    index.remove(["0", "1"])
    with pytest.raises(FormatError, match="cells are damaged"):
        index.save(tmp_path)  # writes what is left of the segment


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    index = index_of([random_features(RNG, 9)], codec="pq")
    index.save(tmp_path)
    other = Codebook(random_features(RNG, 30).descriptors)
    others = ProductQuantizer.train(random_features(RNG, 50).descriptors, other)
    with pytest.raises(MismatchError, match="built with codebook"):
        IvfIndex.load(tmp_path, other, quantizer=others)
    with pytest.raises(MismatchError, match=r"built with product quantiser .*, none was given"):
        IvfIndex.load(tmp_path, CODEBOOK)
    again = ProductQuantizer.train(random_features(RNG, 50).descriptors, CODEBOOK)
    with pytest.raises(MismatchError, match=r"built with product quantiser .*, not with"):
        IvfIndex.load(tmp_path, CODEBOOK, quantizer=again)
    with pytest.raises(MismatchError, match="built with codec = pq, asked for uint8"):
        IvfIndex.load(tmp_path, CODEBOOK, DEFAULT.model_copy(update={"codec": "uint8"}), QUANTIZER)
    more = index.config.model_copy(update={"probes": 9})
    assert IvfIndex.load(tmp_path, CODEBOOK, more, QUANTIZER).config.probes == 9
    with pytest.raises(MismatchError, match="trained for codebook"):
        IvfIndex(CODEBOOK, index.config, others)
    with pytest.raises(ConfigError, match="needs a product quantiser"):
        IvfIndex(CODEBOOK, index.config)
    with pytest.raises(ConfigError, match="takes no product quantiser"):
        IvfIndex(CODEBOOK, DEFAULT.model_copy(update={"codec": "uint8"}), QUANTIZER)
    index_of([]).save(tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="takes no product quantiser"):
        IvfIndex.load(tmp_path, CODEBOOK, quantizer=QUANTIZER)
    header = disk.read_manifest(tmp_path, "ivf", 1)["header"]
    assert (header["codebook"], header["quantizer"], header["words"]) == (CODEBOOK.hash, None, 30)
    assert repr(index) == f"IvfIndex(1 images, {CODEBOOK!r}, pq)"


def test_profiles_from_before_there_was_one() -> None:
    values = load_profile().model_dump()
    del values["ivf"]
    assert Profile.model_validate(values).ivf == IvfConfig()


def test_more_descriptors_than_numbers() -> None:
    check_count(2**32 - 1)
    with pytest.raises(FormatError, match="make several indexes"):
        check_count(2**32)
