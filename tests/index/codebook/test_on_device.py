"""Words found through torch: those that a CPU finds by itself, bit for bit, in either mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError
from delf_engine.index import AsmkIndex, Codebook, IvfIndex
from delf_engine.index.codebook import on_device, search
from helpers import raises, random_features
from index.codebook import test_search
from index.codebook.test_search import like_descriptors

BOOK = Codebook(test_search.BOOK.centroids)


@pytest.fixture(autouse=True, scope="module")
def small_codebooks_too() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_LEAST_WORDS", 256)
        yield


def assert_same_words(book: Codebook, data: np.ndarray, device: str = "cpu", k: int = 1) -> None:
    for mode in ("exact", "fast"):
        book.use(None)
        expected = book.assign(data, k, mode=mode)
        book.use(device)
        found = book.assign(data, k, mode=mode)
        assert (found.dtype, found.shape) == (np.int32, (len(data), k))
        np.testing.assert_array_equal(found, expected)


def awkward(seed: int, words: int, dim: int, n: int, kind: str) -> tuple[Codebook, np.ndarray]:
    """Words and descriptors; "ties" lie on a lattice, "near" ones a rounding apart."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (words, dim)) if kind == "ties" else rng.normal(size=(words, dim))
    data = rng.normal(size=(n, dim))
    if kind in ("near", "ties"):
        rows[rng.integers(words, size=words // 2)] = rows[0] * (1 + 2.0**-23 * (kind == "near"))
        data = rows[rng.integers(words, size=n)] * rng.choice([1, 1.1, 0], (n, 1))
    if kind == "scaled":
        rows, data = rows * 10.0 ** rng.integers(-25, 14), data * 10.0 ** rng.integers(-25, 14, (n, 1))
    if kind == "one far":
        rows[-1] = 1e14
    return Codebook(rows.astype(np.float32)), data.astype(np.float32)


@given(
    seed=st.integers(0, 2**32),
    words=st.sampled_from([1, 2, 30, 300]),
    dim=st.sampled_from([1, 2, 40, 65]),
    n=st.integers(0, 40),
    kind=st.sampled_from(["normal", "ties", "near", "scaled", "one far"]),
    k=st.integers(1, 9),
)
@settings(max_examples=80, deadline=None)
def test_words_are_those_of_the_cpu(seed: int, words: int, dim: int, n: int, kind: str, k: int) -> None:
    assert_same_words(*awkward(seed, words, dim, n, kind), k=min(k, words))


@pytest.mark.parametrize("probes", [1, 5, 64])
def test_fast_misses_what_a_cpu_misses(probes: int, rng: np.random.Generator) -> None:
    book, data = Codebook(BOOK.centroids), like_descriptors(rng, 3000)
    book._searcher._cells._probes = probes
    assert_same_words(book, data)
    assert_same_words(book, data, k=4)
    sure = {fast: book._searcher._on_devices["cpu", fast].nearest(data, 1)[1].mean() for fast in (False, True)}
    assert sure[False] > 0.99
    assert sure[True] > {1: 0.1, 5: 0.7, 64: 0.98}[probes]
    missed = (book.assign(data, mode="fast") != book.assign(data)).mean()
    assert (missed > 0.01) == (probes < 6)


def test_blocks_and_no_memory_change_nothing(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    data = like_descriptors(rng, 100)
    monkeypatch.setattr(on_device, "_BYTES", 4 * 3000 * 7)
    assert_same_words(BOOK, data, k=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_words(BOOK, data, k=2)

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "addmm", full)
    assert_same_words(BOOK, data)


@pytest.mark.parametrize("kind", [AsmkIndex, IvfIndex])
def test_indexes_and_what_they_find_are_the_same(
    kind: type[AsmkIndex | IvfIndex], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, segments, found, seen = [random_features(rng, n) for n in (30, 0, 1, 200)], [], [], []
    nearest = on_device.DeviceWords.nearest
    monkeypatch.setattr(on_device.DeviceWords, "nearest", lambda *own: (seen.append(own[2]), nearest(*own))[1])
    for device in (None, "cpu"):
        index = kind(Codebook(BOOK.centroids))
        index.codebook.use(device)
        index.add(["a", "b", "c", "d"], images)
        found.append([(ids, scores.tolist()) for ids, scores in index.search_many(images, 3)])
        segments += index._collection.segments
    for name, array in segments[0].arrays.items():
        np.testing.assert_array_equal(segments[1].arrays[name], array)
    assert found[0] == found[1]
    assert set(seen) == ({1, 5} if kind is AsmkIndex else {1})


def test_a_device_that_is_not_there_is_refused_and_a_forked_child_does_without(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises(ConfigError, "cuda:99"):
        BOOK.use("cuda:99")
    book, data = Codebook(BOOK.centroids), like_descriptors(rng, 10)
    book.use("cpu")
    monkeypatch.setattr(on_device.DeviceWords, "nearest", None)
    monkeypatch.setattr("os.getpid", lambda: -1)
    np.testing.assert_array_equal(book.assign(data), BOOK.assign(data))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_finds_the_words_of_the_cpu(rng: np.random.Generator) -> None:
    assert_same_words(BOOK, like_descriptors(rng, 10_000), "cuda")
    for kind in ("ties", "near", "scaled", "one far"):
        assert_same_words(*awkward(1, 300, 40, 500, kind), "cuda", k=5)
