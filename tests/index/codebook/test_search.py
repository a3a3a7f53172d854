from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.config import load_profile
from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.index import AsmkIndex, Codebook, IvfIndex
from delf_engine.index.codebook import kernels, search
from delf_engine.index.codebook.search import CellSearcher, WordSearcher, flat_search
from helpers import raises, random_features
from index.oracles import nearest


def like_descriptors(rng: np.random.Generator, n: int, dim: int = 40) -> np.ndarray:
    """Unit vectors that lie in clusters, with less spread from one dimension to the next, as after a PCA."""
    centres = np.random.default_rng(7).normal(size=(50, dim))
    data = (centres[rng.integers(50, size=n)] + rng.normal(size=(n, dim))) * 0.97 ** np.arange(dim)
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)


BOOK = Codebook(like_descriptors(np.random.default_rng(1), 3000))


@pytest.fixture(autouse=True, scope="module")
def small_codebooks_too() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_LEAST_WORDS", 1024)
        yield


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    yield
    faiss.omp_set_num_threads(before)


def test_fast_finds_what_exact_finds(rng: np.random.Generator) -> None:
    data = like_descriptors(rng, 3000)
    exact, fast = BOOK.assign(data, 5), BOOK.assign(data, 5, mode="fast")
    assert fast.dtype == np.int32
    assert (exact[:, 0] == fast[:, 0]).mean() > 0.99
    assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, fast, strict=True)]) > 0.98
    assert BOOK.assign(data[:0], 5, mode="fast").shape == (0, 5)


@pytest.mark.parametrize(("mode", "k"), [("exact", 5), ("fast", 1), ("fast", 5)])
def test_words_do_not_depend_on_batch_or_threads(
    mode: Literal["exact", "fast"], k: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    data = like_descriptors(rng, 600)
    whole = BOOK.assign(data, k, mode=mode)
    monkeypatch.setattr(search, "_LEAST_PART", 8)
    for batch, threads in ((1, 1), (2, 1), (3, 1), (7, 2), (19, 1), (20, 2), (64, 3), (129, 7), (600, 3)):
        parts = [
            BOOK.assign(data[i : i + batch], k, mode=mode, threads=threads) for i in range(0, len(data), batch)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    monkeypatch.setattr(search, "_BLOCK", 101)
    np.testing.assert_array_equal(BOOK.assign(data, k, mode=mode), whole)


def test_an_index_assigns_as_its_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(WordSearcher, "nearest", lambda self, data, k, mode, *_: modes.append(mode) or 1 / 0)
    for kind in ("asmk", "ivf"):
        for mode in ("exact", "fast"):
            options = getattr(load_profile(), kind).model_copy(update={"assignment": mode})
            index = (AsmkIndex if kind == "asmk" else IvfIndex)(BOOK, options)
            with pytest.raises(ZeroDivisionError):
                index.add(["a"], [random_features(np.random.default_rng(0), 5)])
    assert modes == ["exact", "fast"] * 2


def test_of_equal_words_the_lowest(rng: np.random.Generator) -> None:
    rows = np.repeat(like_descriptors(rng, 40), 50, axis=0)[rng.permutation(2000)]
    rows[rows == rows[0, 0]] = 0
    rows[::2][rows[::2] == 0] = -0.0
    book, data = Codebook(rows), like_descriptors(rng, 8)
    for k in (1, 5, 25):
        np.testing.assert_array_equal(book.assign(data, k, mode="fast"), nearest(data, rows, k))
    same = Codebook(np.ones((1500, 40)))
    np.testing.assert_array_equal(same.assign(data, 3, mode="fast"), np.tile([0, 1, 2], (8, 1)))


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 3, 40, 65, 256]), st.integers(0, 6), st.integers(1, 6))
@settings(max_examples=15)
def test_words_are_distinct_sorted_and_no_nearer_than_exact(seed: int, dim: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(1024, dim)).astype(np.float32) * np.float32(10.0 ** rng.integers(-10, 14))
    centroids[rng.integers(1024, size=200)] = centroids[0]
    data = centroids[rng.integers(1024, size=n)] * np.float32(1.1)
    fast = Codebook(centroids).assign(data, k, mode="fast")
    squared = ((data[:, None].astype(np.float64) - centroids[fast].astype(np.float64)) ** 2).sum(2)
    assert (np.diff(squared, axis=1) >= 0).all()
    best = ((data[:, None].astype(np.float64) - centroids[nearest(data, centroids, k)]) ** 2).sum(2)
    assert (squared >= best).all()
    assert all(len(set(row)) == k for row in fast.tolist())
    tied = np.diff(squared, axis=1) == 0
    assert (np.diff(fast, axis=1)[tied] > 0).all()


def test_descriptors_far_from_all_words_are_assigned_exactly(rng: np.random.Generator) -> None:
    data = like_descriptors(rng, 20)
    data[::3] *= np.float32(1e6)
    data[1::3] *= np.float32(1e15 / np.abs(data).max())
    np.testing.assert_array_equal(BOOK.assign(data, 4, mode="fast"), BOOK.assign(data, 4))
    nothing = Codebook(np.zeros((2000, 3)))
    np.testing.assert_array_equal(nothing.assign([[0, 0, 0], [1, 2, 3]], 2, mode="fast"), [[0, 1], [0, 1]])


def test_small_codebooks_are_scanned(rng: np.random.Generator) -> None:
    assert not CellSearcher.pays(1023, 40, 1)
    assert not CellSearcher.pays(4096, 1025, 1)
    assert not CellSearcher.pays(4096, 40, 65)
    assert CellSearcher.pays(4096, 40, 5)
    book = Codebook(rng.normal(size=(30, 40)))
    data = rng.normal(size=(50, 40))
    np.testing.assert_array_equal(book.assign(data, 30, mode="fast"), book.assign(data, 30))


@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 70), st.sampled_from([0, 0.5, 1]))
@settings(max_examples=60)
def test_probe_chooses_the_nearest_cells(seed: int, count: int, wanted: int, tied: float) -> None:
    rng = np.random.default_rng(seed)
    wanted, width = min(wanted, count), -(-count // 16) * 16
    columns = np.zeros((4, width), np.float32)
    columns[:, :count] = np.where(rng.random(count) < tied, 1, rng.normal(size=(4, count)))
    bias = np.full(width, -np.inf, np.float32)
    bias[:count] = -0.5 * (columns[:, :count] ** 2).sum(0)
    data = rng.normal(size=(5, 4)).astype(np.float32)
    cells, found = np.full((5, wanted), -1, np.int32), np.empty(5, np.int32)
    kernels.probe(data, columns.ravel(), bias, count, cells, found)
    scores = (data.astype(np.float64) @ columns + bias)[:, :count]
    for i in range(5):
        chosen = cells[i, : found[i]]
        assert 1 <= found[i] <= wanted
        assert len(set(chosen.tolist())) == found[i]
        assert scores[i, chosen[0]] >= scores[i].max() - 1e-5
        span = scores[i].max() - scores[i].min()
        # The limit is found to one part in 4,096 of the span: whatever is clearly above it is chosen.
        limit = np.sort(scores[i])[::-1][wanted - 1]
        assert set(np.flatnonzero(scores[i] > limit + span / 2000 + 1e-5)) <= set(chosen.tolist())
        assert (scores[i, chosen] >= limit - span / 2000 - 1e-5).all()


@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(1, 8))
@settings(max_examples=30)
def test_group_lists_the_descriptors_of_each_cell(seed: int, n: int, probes: int) -> None:
    rng = np.random.default_rng(seed)
    cells = np.array([rng.permutation(10)[:probes] for _ in range(n)], np.int32).reshape(n, probes)
    found = rng.integers(0, probes + 1, n).astype(np.int32)
    first = np.minimum(rng.integers(0, probes + 1, n), found).astype(np.int32)
    starts, rows = np.empty(11, np.int64), np.empty(cells.size, np.int32)
    kernels.group(cells, first, found, starts, rows)
    for cell in range(10):
        wanted = [i for i in range(n) if cell in cells[i, first[i] : found[i]]]
        assert rows[starts[cell] : starts[cell + 1]].tolist() == wanted


def test_the_words_found_are_the_nearest_of_the_cells_looked_into(rng: np.random.Generator) -> None:
    searcher, data = CellSearcher(BOOK.centroids), like_descriptors(rng, 50)
    every = np.zeros(len(BOOK.centroids), int)
    for begin, end in zip(searcher._bounds[:-1], searcher._bounds[1:], strict=True):
        there = searcher._words[begin:end][np.isfinite(searcher._bias[begin:end])]
        assert (np.diff(there) > 0).all()
        every[there] += 1
    assert (every == 1).all()
    cells, found = np.empty((50, searcher._probes), np.int32), np.empty(50, np.int32)
    kernels.probe(data, *searcher._cells, searcher._count, cells, found)
    out = np.empty((50, 5), np.int32)
    assert searcher.search(data, out, 1).all()
    for i, x in enumerate(data):
        parts = [slice(searcher._bounds[c], searcher._bounds[c + 1]) for c in cells[i, : found[i]]]
        words = np.concatenate([searcher._words[p][np.isfinite(searcher._bias[p])] for p in parts])
        np.testing.assert_array_equal(out[i], words[nearest(x[None], BOOK.centroids[words], 5)[0]])


def test_a_descriptor_whose_cells_hold_too_few_words_is_assigned_exactly(rng: np.random.Generator) -> None:
    rows = np.full((2048, 40), 1.0, np.float32)  # nearly all words are one, in one cell
    rows[:6] = 50 * like_descriptors(rng, 6)
    data, book = like_descriptors(rng, 5), Codebook(rows)
    np.testing.assert_array_equal(book.assign(data, 9, mode="fast"), book.assign(data, 9))
    searcher, out = CellSearcher(rows), np.empty((5, 1), np.int32)
    searcher._probes = 1
    assert not searcher.search(rows[:5] * np.float32(0.999), out, 2).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_flat_search_leaves_faiss_as_it_was(threads: int, rng: np.random.Generator) -> None:
    faiss.omp_set_num_threads(threads)
    before = faiss.cvar.distance_compute_blas_threshold
    data = like_descriptors(rng, 1000)
    index = faiss.IndexFlatL2(40)
    index.add(BOOK.centroids)
    for n in (0, 1, 19, 20, 255, 256, 257, 1000):
        found = flat_search(index, data[:n], 3, threads)
        assert found.shape == (n, 3)
        assert (found == index.search(data[:n], 3)[1]).mean() > 0.999 if n else True
    with pytest.raises(AssertionError):  # of faiss
        flat_search(index, data[:, :7].copy(), 3, threads)
    assert faiss.cvar.distance_compute_blas_threshold == before
    assert faiss.omp_get_max_threads() == threads


@given(st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40)
def test_products_are_those_of_numpy_and_of_single_rows(seed: int, dim: int, groups: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    data, width = rng.normal(size=(n, dim)).astype(np.float32), 16 * groups
    before = int(rng.integers(0, 5))
    matrix, bias = rng.normal(size=(dim, width)).astype(np.float32), rng.normal(size=width).astype(np.float32)
    columns = np.concatenate([np.full(before, np.nan, np.float32), matrix.ravel()])
    scores = np.full((4, width + 3), np.nan, np.float32)
    four = tuple(int(i) for i in rng.integers(0, n, 4))
    limits = rng.normal(size=4).astype(np.float32) * 10
    above = kernels._products(data, four, columns, before, bias, limits, scores)
    wanted = data[list(four)].astype(np.float64) @ matrix + bias
    np.testing.assert_allclose(scores[:, :width], wanted, atol=1e-4)
    assert np.isnan(scores[:, width:]).all()
    assert above == sum(1 << i for i in range(4) if (scores[i, :width] > limits[i]).any())
    for i, row in enumerate(four):
        alone = np.empty((4, width), np.float32)
        kernels._products(data[row : row + 1], (0, 0, 0, 0), columns, before, bias, limits, alone)
        np.testing.assert_array_equal(alone[2], scores[i, :width])


@given(
    seed=st.integers(0, 2**32),
    dim=st.sampled_from([1, 40, 64, 65, 128]),
    words=st.integers(1, 40),
    n=st.integers(0, 12),
    k=st.integers(1, 6),
    ties=st.booleans(),
)
def test_assign_equals_the_oracle(seed: int, dim: int, words: int, n: int, k: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    draw = (lambda size: rng.integers(-1, 2, size)) if ties else (lambda size: rng.normal(size=size))
    book = Codebook(draw((words, dim)))
    data = draw((n, dim)).astype(np.float32)
    k = min(k, words)
    assigned = book.assign(data, k)
    assert assigned.shape == (n, k)
    assert assigned.dtype == np.int32
    np.testing.assert_array_equal(assigned, nearest(data, book.centroids, k))


def test_ties_beyond_the_proposed_words_go_to_the_lowest(rng: np.random.Generator) -> None:
    book = Codebook(np.concatenate([rng.normal(size=(50, 40)) + 9, np.ones((300, 40))]))
    assigned = book.assign(np.ones((40, 40)) * 1.1, 3)
    np.testing.assert_array_equal(assigned, np.tile([50, 51, 52], (40, 1)))


def test_assign_refuses() -> None:
    book = Codebook(np.eye(4))
    for k in (0, 5):
        with raises(ConfigError, "4"):
            book.assign(np.eye(4), k)
    with raises(ConfigError, "threads"):
        book.assign(np.eye(4), threads=0)
    with raises(ConfigError, "quick"):
        book.assign(np.eye(4), mode="quick")
    with raises(MismatchError, "3", "4"):
        book.assign(np.eye(3))
    with raises(FeatureError, "NaN"):
        book.assign(np.full((2, 4), np.nan))
