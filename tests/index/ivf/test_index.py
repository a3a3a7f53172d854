from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import load_profile
from delf_engine.errors import ConfigError, FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index import Codebook, IvfIndex
from delf_engine.index.ivf import search
from delf_engine.index.ivf.layout import Lists
from delf_engine.index.ivf.search import Neighbours, nearest
from delf_engine.index.segments import disk
from helpers import random_features
from index.oracles import ivf_distances, voted

DEFAULT = load_profile().ivf
CODEBOOK = Codebook(random_features(np.random.default_rng(0), 300).descriptors)
SMALL = {"neighbours": 5, "probes": 2, "assignment": "exact"}
CODECS = pytest.mark.parametrize("codec", ["uint8", "pq"])


def index_of(images: list[LocalFeatures], codebook: Codebook = CODEBOOK, **options: Any) -> IvfIndex:
    index = IvfIndex(codebook, DEFAULT.model_copy(update={**SMALL, **options}))
    index.add([str(i) for i in range(len(images))], images)
    return index


def neighbours_of(index: IvfIndex, query: LocalFeatures, threads: int = 1) -> Neighbours:
    index.info()  # of what was added, too
    session = index._session()
    ((descriptors, cells),) = index._queries([query], threads, session)
    return nearest(session, index._codec.scaled(descriptors), cells, index.config.neighbours, threads)


def unit(descriptors: np.ndarray) -> LocalFeatures:
    """Features with these descriptors, at unit length."""
    rows = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    one = np.ones(len(rows))
    return LocalFeatures(np.zeros((len(rows), 2)), one, one, rows, (9, 9))


def drawn(rng: np.random.Generator, n: int, dim: int, values: str) -> LocalFeatures:
    if values == "ties":  # few different ones, so that many are equally far
        return unit(np.eye(dim)[rng.integers(0, min(dim, 3), n)])
    return random_features(rng, n, dim)


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([2, 8, 40, 65]),
    words=st.integers(1, 9),
    sizes=st.lists(st.sampled_from([0, 1, 5, 40]), min_size=1, max_size=5),
    asked=st.sampled_from([1, 12]),
    values=st.sampled_from(["normal", "ties"]),
    probes=st.integers(1, 9),
)
@settings(deadline=None)
def test_neighbours_equal_the_oracle(
    seed: int, dim: int, words: int, sizes: list[int], asked: int, values: str, probes: int
) -> None:
    rng = np.random.default_rng(seed)
    codebook = Codebook(rng.normal(size=(words, dim)))
    images = [drawn(rng, n, dim, values) for n in sizes]
    query = drawn(rng, asked, dim, values)
    index = index_of(images, codebook, probes=probes)
    if not sum(sizes):
        assert index.search(query, 9)[0] == []
        return
    index.info()
    visited = index._probes(index._session())
    assert visited == min(words, max(probes, -(-words * 4 * 5 // sum(sizes))))
    rows, squared, owners = neighbours_of(index, query)
    true = ivf_distances(query, images, codebook.centroids, visited)  # (asked, rows), inf where it is not visited
    image_of = np.repeat(np.arange(len(images)), sizes)
    for i in range(asked):
        there = rows[i] >= 0
        assert there.sum() == min(5, np.isfinite(true[i]).sum())
        found = rows[i][there]
        assert owners[i][there].tolist() == image_of[found].tolist()
        np.testing.assert_allclose(squared[i][there] / 127**2, true[i][found], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(true[i][found], np.sort(true[i])[: len(found)], rtol=1e-4, atol=1e-6)
        pairs = list(zip(squared[i][there].tolist(), found.tolist(), strict=True))
        equal = np.flatnonzero(squared[i] == squared[i][there].max(initial=-1))
        assert len(equal) == len(set(found[equal].tolist()))
        if values == "ties" and there.all():  # equal codes: of the equally far ones the first
            last = pairs[-1][0]
            every = np.flatnonzero(np.isclose(true[i], last / 127**2, rtol=1e-4, atol=1e-6))
            chosen = sorted(row for distance, row in pairs if distance == last)
            assert chosen == every[: len(chosen)].tolist()


@given(seed=st.integers(0, 2**32), sizes=st.lists(st.sampled_from([1, 5, 40]), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_scores_equal_the_oracle(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    codebook = Codebook(rng.normal(size=(4, 40)))
    images, query = [random_features(rng, n) for n in sizes], random_features(rng, 12)
    ids, scores = index_of(images, codebook, probes=4).search(query, 9)
    true, owners = ivf_distances(query, images, codebook.centroids, 4), np.repeat(np.arange(len(sizes)), sizes)
    found = [
        [(d, row, int(owners[row])) for d, row in sorted(zip(line, range(len(line)), strict=True))[:5]]
        for line in true
    ]
    wanted = np.maximum(voted(found, len(sizes)), 0)
    score = np.zeros(len(sizes))
    score[[int(i) for i in ids]] = scores
    np.testing.assert_allclose(score, wanted, rtol=1e-4, atol=1e-5)


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
        patch.setattr("delf_engine.index.asmk.aggregation._BLOCK", block)
        patch.setattr(search, "_LEAST_PART", 1)  # so that all threads have some
        parts = index_of([], codec=codec)
        for i, image in enumerate(images):
            parts.add([f"gone {i}", str(i)], [query, image])
            parts.search(query, 1)
            parts.remove([f"gone {i}"])
        ids, scores = parts.search(query, 9)
        several = [parts.search_many([query] * 3, 9, threads=t) for t in (1, 2, 7)]
        if sum(sizes):
            one = neighbours_of(parts, query)
            for threads in (2, 9):
                for array, other in zip(one, neighbours_of(parts, query, threads), strict=True):
                    np.testing.assert_array_equal(array, other)
    wanted_ids, wanted = whole.search(query, 9)
    for found_ids, found_scores in [(ids, scores), *(found for part in several for found in part)]:
        assert found_ids == wanted_ids
        np.testing.assert_array_equal(found_scores, wanted)


@CODECS
def test_removed_images_take_no_neighbours_from_the_rest(rng: np.random.Generator, codec: str) -> None:
    image = random_features(rng, 20)
    names = [str(i) for i in range(30)]
    index = index_of([image] * 30, codec=codec)
    assert len(index.search(image, 50)[0]) == 5  # as many as a descriptor has neighbours
    index.remove(names[:28])
    assert set(index.search(image, 50)[0]) == {"28", "29"}


def test_descriptors_in_bytes(rng: np.random.Generator) -> None:
    codec = index_of([])._codec
    values = np.concatenate([random_features(rng, 1000).descriptors, np.eye(40), -np.eye(40)]).astype(np.float32)
    error = (codec.encode(values).astype(np.float64) - 128) / 127 - values
    assert np.abs(error).max() <= 1 / 254 + 1e-7
    assert np.linalg.norm(error, axis=1).max() <= np.sqrt(40) / 254
    extremes = np.array([[-1.02, -1, 0, 1, 1.02, 1e30]], np.float32)
    assert codec.encode(extremes).tolist() == [[1, 1, 128, 255, 255, 255]]
    assert codec.encode(np.empty((0, 40), np.float32)).shape == (0, 40)


def test_codes_of_product_quantisation_are_the_nearest_levels(rng: np.random.Generator) -> None:
    index = index_of([random_features(rng, 9)], codec="pq")
    index.info()
    (levels,) = (segment.arrays["levels"] for segment in index._collection.segments)
    assert levels.shape == (10, 256, 4)
    descriptors = random_features(rng, 50).descriptors
    parts = descriptors.reshape(50, 10, 1, 4).astype(np.float64)
    wanted = ((parts - levels) ** 2).sum(-1).argmin(-1)
    np.testing.assert_array_equal(index._codec.encode(descriptors), wanted)
    assert np.array_equal(levels, index_of([], codec="pq")._codec.trained())  # of the words alone


@CODECS
def test_an_image_finds_itself_first(rng: np.random.Generator, codec: str) -> None:
    images = [random_features(rng, 100) for _ in range(20)]
    index = index_of(images, codec=codec, probes=40, neighbours=60)
    for i, image in enumerate(images):
        ids, scores = index.search(image, 3)
        assert ids[0] == str(i)
        assert scores[0] > 2 * scores[1]


def test_one_vote_for_a_repeated_structure() -> None:
    a, b = np.eye(40)[:2]
    index = index_of([unit(np.array([a] * 6)), unit(np.array([a, b]))], Codebook(np.zeros((1, 40))), neighbours=7)
    ids, scores = index.search(unit(np.array([a, b])), 9)
    assert ids == ["1", "0"]
    np.testing.assert_allclose(scores, [1.01, 0.01], rtol=1e-5)
    np.testing.assert_allclose(index.search(unit(np.array([a] * 5)), 9)[1], [0.01, 0.01], rtol=1e-5)


def test_more_cells_are_visited_where_there_are_few_descriptors(rng: np.random.Generator) -> None:
    image, codebook = random_features(rng, 100), Codebook(random_features(rng, 30).descriptors)

    def probes(index: IvfIndex) -> int:
        index.info()
        return index._probes(index._session())

    index = index_of([image, image], codebook, neighbours=20)
    assert probes(index) == 12  # of 30, to hold 80 of 200 descriptors
    index.remove(["0"])
    assert probes(index) == 24
    assert probes(index_of([image] * 50, codebook, neighbours=20)) == 2
    assert probes(index_of([image], codebook, neighbours=10_000)) == 30


def test_huge_centroids(rng: np.random.Generator) -> None:
    centroids = np.zeros((3, 40), np.float32)
    centroids[:, 0] = [-1e15, 0, 1e15]
    image = random_features(rng, 40)
    assert index_of([image], Codebook(centroids)).search(image, 5)[0] == ["0"]


@CODECS
def test_an_index_on_disk(rng: np.random.Generator, tmp_path: Path, codec: str) -> None:
    images = {str(i): random_features(rng, int(rng.integers(0, 60))) for i in range(30)}
    query = random_features(rng, 40)
    whole, parts = index_of([], codec=codec), index_of([], codec=codec)
    whole.add([i for i in images if int(i) % 7], [images[i] for i in images if int(i) % 7])
    for i, image in images.items():
        parts.add([i], [image])
        parts.save(tmp_path)
    parts.remove([i for i in images if int(i) % 7 == 0])
    parts.save(tmp_path)
    loaded = IvfIndex.load(tmp_path, CODEBOOK)
    assert loaded.config == whole.config
    for index in (parts, loaded):
        ids, scores = index.search(query, 99)
        assert ids == whole.search(query, 99)[0]
        np.testing.assert_array_equal(scores, whole.search(query, 99)[1])
    info = loaded.info()
    assert info.entries == sum(int(s.arrays["row_offsets"][-1]) for s in loaded._collection.segments)
    lists = loaded._layout.lists(loaded._collection.segments[0])
    code_bytes = 40 if codec == "uint8" else 10
    assert len(lists.data) == 32 + 8 * 300 + int(lists.sizes.sum()) * (code_bytes + 8)
    levels = [s.arrays.get("levels") for s in loaded._collection.segments]
    assert all((array is None) == (codec == "uint8") for array in levels)
    loaded.add(["more"], [query])  # by the levels that it was made with
    assert loaded.search(query, 1)[0] == ["more"]


@CODECS
def test_lists_are_what_faiss_writes(rng: np.random.Generator, codec: str) -> None:
    import faiss

    index = index_of([random_features(rng, n) for n in (50, 0, 3, 200)], codec=codec)
    index.info()
    (segment,) = index._collection.segments
    lists, writer = index._layout.lists(segment), faiss.VectorIOWriter()
    other = faiss.ArrayInvertedLists(300, index._codec.code_bytes)
    for cell in range(300):
        ids, codes = lists.ids(cell).copy(), lists.codes(cell).copy()
        other.add_entries(cell, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    faiss.write_InvertedLists(other, writer)
    written = faiss.vector_to_array(writer.data)
    if bytes(written[20:24]) == b"full":  # faiss writes the sizes of few lists in pairs
        np.testing.assert_array_equal(written, lists.data)
    read = faiss.read_InvertedLists(_reader(written))
    mine = faiss.read_InvertedLists(_reader(lists.data))
    for cell in range(300):
        assert mine.list_size(cell) == read.list_size(cell) == lists.sizes[cell]
        if lists.sizes[cell]:  # as they lie, without a copy
            codes = faiss.rev_swig_ptr(mine.get_codes(cell), 1)
            assert codes.ctypes.data == lists.codes(cell).ctypes.data


def _reader(data: np.ndarray) -> Any:
    import faiss

    return faiss.ZeroCopyIOReader(faiss.swig_ptr(data), len(data))


@CODECS
def test_a_damaged_map(rng: np.random.Generator, tmp_path: Path, codec: str) -> None:
    query = random_features(rng, 40)
    index_of([query] * 3, codec=codec).save(tmp_path)
    file = tmp_path / "segment-00000001" / "lists.npy"
    good = np.load(file)
    code_bytes = 40 if codec == "uint8" else 10
    array = np.lib.format.open_memmap(file, mode="r+")
    lists = Lists(array, 300, code_bytes)
    for cell in np.flatnonzero(lists.sizes).tolist():
        lists.ids(cell)[:] = 2**31
    array.flush()
    index = IvfIndex.load(tmp_path, CODEBOOK, check=False)
    with pytest.raises(FormatError, match="segment-00000001"):
        index.search(query, 5)
    index.remove(["0", "1"])
    with pytest.raises(FormatError, match="segment-00000001"):
        index.save(tmp_path)  # writes what is left of the segment
    array[:] = good
    sizes = Lists(array, 300, code_bytes).sizes
    sizes[0] += 1
    array.flush()
    with pytest.raises(FormatError, match="segment-00000001"):
        IvfIndex.load(tmp_path, CODEBOOK, check=False)


def test_levels_that_do_not_fit(rng: np.random.Generator, tmp_path: Path) -> None:
    index_of([random_features(rng, 9)], codec="pq").save(tmp_path)
    file = tmp_path / "segment-00000001" / "levels.npy"
    levels = np.load(file)
    np.save(file, levels.reshape(20, 256, 2))
    with pytest.raises(FormatError, match="segment-00000001"):
        IvfIndex.load(tmp_path, CODEBOOK, check=False)


def test_what_does_not_belong_together(rng: np.random.Generator, tmp_path: Path) -> None:
    index = index_of([random_features(rng, 9)], codec="pq")
    index.save(tmp_path)
    other = Codebook(random_features(rng, 300).descriptors)
    with pytest.raises(MismatchError, match=f"{CODEBOOK.hash[:8]}.*{other.hash[:8]}"):
        IvfIndex.load(tmp_path, other)
    with pytest.raises(MismatchError, match=r"codec = pq.*uint8"):
        IvfIndex.load(tmp_path, CODEBOOK, DEFAULT.model_copy(update={"codec": "uint8"}))
    more = index.config.model_copy(update={"probes": 9})
    assert IvfIndex.load(tmp_path, CODEBOOK, more).config.probes == 9
    with pytest.raises(ConfigError, match="256 words, got 30"):
        IvfIndex(Codebook(other.centroids[:30]), index.config)
    header = disk.read_manifest(tmp_path, "ivf")["header"]
    assert (header["encoder"], header["dim"]) == (CODEBOOK.hash, 40)
    assert repr(index) == f"IvfIndex(1 images, {CODEBOOK!r}, pq)"
