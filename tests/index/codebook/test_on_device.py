"""Words found through torch: those that a CPU finds by itself, bit for bit, in either mode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.index import AsmkIndex, Codebook, IvfIndex
from delf_engine.index.codebook import on_device, search
from helpers import random_features
from index.codebook.test_search import BOOK, like_descriptors


@pytest.fixture(autouse=True, scope="module")
def small_codebooks_too() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_LEAST_WORDS", 256)
        yield


def assert_same_words(book: Codebook, data: np.ndarray, device: str = "cpu") -> None:
    for mode in ("exact", "fast"):
        found = book.assign(data, mode=mode, device=device)
        assert (found.dtype, found.shape) == (np.int32, (len(data), 1))
        np.testing.assert_array_equal(found, book.assign(data, mode=mode))


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
)
@settings(max_examples=80, deadline=None)
def test_words_are_those_of_the_cpu(seed: int, words: int, dim: int, n: int, kind: str) -> None:
    assert_same_words(*awkward(seed, words, dim, n, kind))


@pytest.mark.parametrize("probes", [1, 5, 64])
def test_fast_misses_what_a_cpu_misses(probes: int, rng: np.random.Generator) -> None:
    book, data = Codebook(BOOK.centroids), like_descriptors(rng, 3000)
    book._searcher._cells._probes = probes
    assert_same_words(book, data)
    sure = {fast: book._searcher._on_devices["cpu", fast].nearest(data)[1].mean() for fast in (False, True)}
    assert sure[False] > 0.99
    assert sure[True] > {1: 0.1, 5: 0.7, 64: 0.98}[probes]
    missed = (book.assign(data, mode="fast") != book.assign(data)).mean()
    assert (missed > 0.01) == (probes < 6)


def test_blocks_and_no_memory_change_nothing(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    data = like_descriptors(rng, 100)
    monkeypatch.setattr(on_device, "_BYTES", 4 * 3000 * 7)
    assert_same_words(BOOK, data)
    np.testing.assert_array_equal(BOOK.assign(data, 3, device="cpu"), BOOK.assign(data, 3))

    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "addmm", full)
    assert_same_words(BOOK, data)


@pytest.mark.parametrize("kind", [AsmkIndex, IvfIndex])
def test_indexes_are_the_same(kind: type[AsmkIndex | IvfIndex], rng: np.random.Generator) -> None:
    images, segments = [random_features(rng, n) for n in (30, 0, 1, 200)], []
    for device in (None, "cpu"):
        index = kind(BOOK)
        index.add(["a", "b", "c", "d"], images, device=device)
        index.flush()
        segments += index._collection.segments
    for name, array in segments[0].arrays.items():
        np.testing.assert_array_equal(segments[1].arrays[name], array)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_card_finds_the_words_of_the_cpu(rng: np.random.Generator) -> None:
    assert_same_words(BOOK, like_descriptors(rng, 10_000), "cuda")
    for kind in ("ties", "near", "scaled", "one far"):
        assert_same_words(*awkward(1, 300, 40, 500, kind), "cuda")
