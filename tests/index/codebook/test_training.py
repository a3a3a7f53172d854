from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import Codebook
from delf_engine.index.codebook.codebook import training as codebook_training
from delf_engine.index.codebook.training import Blocks, in_blocks
from index.oracles import nearest

DATA = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)


def mapped(folder: Path, data: np.ndarray) -> np.memmap:
    data.tofile(folder / "descriptors")
    return np.memmap(folder / "descriptors", data.dtype, "r", shape=data.shape)


def one_iteration(data: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """K-means in plain NumPy, with the rule for empty words."""
    words = nearest(data, centroids, 1)[:, 0]
    out = centroids.copy()
    errors, farthest = np.zeros(len(centroids)), {}
    for word in range(len(centroids)):
        mine = data[words == word].astype(np.float64)
        if len(mine):
            squared = ((mine - centroids[word].astype(np.float64)) ** 2).sum(1)
            errors[word], farthest[word] = squared.sum(), mine[squared.argmax()]
            out[word] = mine.sum(0) / len(mine)
    donors = [word for word in np.argsort(-errors, kind="stable") if errors[word] > 0]
    empty = [word for word in range(len(centroids)) if not (words == word).any()]
    for word, donor in zip(empty, donors, strict=False):
        out[word] = farthest[donor]
    return out


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 60), st.sampled_from([1, 3, 40]), st.booleans())
@settings(deadline=None, max_examples=40)
def test_blocks_give_what_numpy_gives(seed: int, words: int, n: int, dim: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    data = (rng.integers(-1, 2, (n, dim)) if ties else rng.normal(size=(n, dim))).astype(np.float32)
    start = rng.normal(size=(min(words, n), dim)).astype(np.float32)
    book = Codebook.train([data], len(start), iterations=2, init=Codebook(start))
    expected = one_iteration(data, one_iteration(data, start))
    np.testing.assert_allclose(book.centroids, expected, rtol=1e-5, atol=1e-6)


def test_empty_words_move_to_the_farthest_descriptors() -> None:
    data = np.concatenate([np.zeros((50, 2)), [[5.0, 0], [3, 0]], np.ones((20, 2)) * 100, [[100, 104]]])
    start = Codebook([[0, 0], [100, 100], [1e6, 1e6], [-1e6, 0], [-1e6, 5]])
    book = Codebook.train([data], 5, iterations=1, init=start)
    # Errors 34 and 16 + 0: two empty words find a donor each, the third stays.
    np.testing.assert_allclose(book.centroids[2:], [[5, 0], [100, 104], [-1e6, 5]])
    used = Codebook.train([data], 5, iterations=4, init=start).assign(data)
    assert len(np.unique(used)) == 5


def test_all_ways_to_give_blocks_are_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = DATA.astype(np.float16)
    parts = [half[:1], half[1:1], half[1:333], half[333:]]
    book = Codebook.train(parts, 20, iterations=2)
    assert book != Codebook.train(half, 20, iterations=2)  # in memory: another order of sums
    before = faiss.omp_get_max_threads()
    try:
        for threads, rows in ((1, 7), (2, 250), (3, 10_000)):
            faiss.omp_set_num_threads(threads)
            monkeypatch.setattr(codebook_training, "_ROWS", rows)
            assert Codebook.train([half], 20, iterations=2) == book
            assert Codebook.train(iter(parts), 20, iterations=2) == book
            assert Codebook.train((part.astype(np.float32) for part in parts), 20, iterations=2) == book
            assert Codebook.train(mapped(tmp_path, half), 20, iterations=2) == book
    finally:
        faiss.omp_set_num_threads(before)
    assert Codebook.train([half], 20, iterations=2, seed=1) != book


@pytest.mark.parametrize("init", ["sample", "kmeans++"])
@pytest.mark.parametrize("streamed", [False, True])
def test_iterations_can_be_run_one_at_a_time(init: str, streamed: bool) -> None:
    data = [DATA] if streamed else DATA
    steps: list[tuple[int, int]] = []
    whole = Codebook.train(data, 30, iterations=4, init=init, progress=lambda *step: steps.append(step))
    assert steps == [(i, 4) for i in range(1, 5)]
    book = Codebook.train(data, 30, iterations=1, init=init)
    for _ in range(3):
        book = Codebook.train(data, 30, iterations=1, init=book)
    assert book == whole


@pytest.mark.parametrize("streamed", [False, True])
def test_an_interruption_is_passed_on(streamed: bool) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Codebook.train([DATA] if streamed else DATA, 5, progress=interrupt)


def test_plus_plus_finds_all_clusters(rng: np.random.Generator) -> None:
    centres = rng.normal(size=(40, 8)) * 100
    data = (np.repeat(centres, 4, axis=0) + rng.normal(size=(160, 8)) * 0.01).astype(np.float32)
    found = {}
    for init in ("sample", "kmeans++"):
        book = Codebook.train([data], 40, iterations=1, init=init, seed=1)
        error = ((data - book.centroids[book.assign(data)[:, 0]]) ** 2).sum(1)
        found[init] = error.mean()
    assert found["kmeans++"] < 0.01
    assert found["sample"] > 100  # some clusters have no word of their own
    again = Codebook.train([data], 40, iterations=1, init="kmeans++", seed=1)
    assert again == Codebook.train([data], 40, iterations=1, init="kmeans++", seed=1)
    assert again != Codebook.train([data], 40, iterations=1, init="kmeans++", seed=2)


@pytest.mark.parametrize("data", [np.ones((50, 3)), np.repeat(np.eye(3), 20, axis=0), DATA[:20] * 1e13])
@pytest.mark.parametrize("streamed", [False, True])
def test_plus_plus_of_few_distinct_descriptors(data: np.ndarray, streamed: bool) -> None:
    book = Codebook.train([data] if streamed else data, 10, init="kmeans++")
    assert book.words == 10
    distinct = np.unique(data, axis=0)
    assert len(np.unique(book.assign(distinct))) == min(10, len(distinct))
    one = Codebook.train([data], len(data), init="kmeans++", iterations=1)
    assert np.isfinite(one.centroids).all()


def test_what_is_read_in_blocks(tmp_path: Path) -> None:
    assert in_blocks(mapped(tmp_path, DATA))
    assert in_blocks([DATA])
    assert in_blocks(iter([DATA]))
    for whole in (DATA, DATA.tolist(), [], (), [["a"]], 3.0, "a", [DATA[0], DATA[1]]):
        assert not in_blocks(whole)


class Changing:
    """Gives fewer descriptors in every pass."""

    def __init__(self) -> None:
        self.n = 500

    def __iter__(self) -> Iterator[np.ndarray]:
        self.n -= 1
        yield DATA[: self.n]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FeatureError, match=r"601 words need .* got 600"):
        Codebook.train([DATA], 601)
    with pytest.raises(FeatureError, match="got 0"):
        Codebook.train(iter([]), 1)
    with pytest.raises(FeatureError, match="at least one dimension"):
        Codebook.train([np.zeros((9, 0))], 2)
    with pytest.raises(FeatureError, match=r"499.*498"):
        Codebook.train(Changing(), 2)
    for source in ([DATA, DATA[:, :3]], iter([DATA, DATA[:, :3]])):
        with pytest.raises(FeatureError, match=r"8 .* 3"):
            Codebook.train(source, 2)
    for bad in (np.full((9, 2), np.nan), np.full((9, 2), 1e30), np.zeros((2, 2, 2))):
        for source in ([np.zeros((9, 2)), bad], iter([np.zeros((9, 2)), bad])):
            with pytest.raises(FeatureError, match=r"NaN|too large|shape"):
                Codebook.train(source, 2)
    with pytest.raises(ConfigError, match="random"):
        Codebook.train(DATA, 2, init="random")
    with pytest.raises(MismatchError, match=r"8 words.* 2 of 8"):
        Codebook.train(DATA, 2, init=Codebook(np.eye(8)))
    monkeypatch.setattr(codebook_training.tempfile, "TemporaryFile", lambda: (tmp_path / "none" / "x").open("wb"))
    with pytest.raises(FormatError, match="temporary"):
        Codebook.train(iter([DATA]), 2)


def test_gather() -> None:
    blocks = Blocks([DATA[:100], DATA[100:100], DATA[100:]])
    assert (blocks.count, blocks.dim) == (600, 8)
    rows = np.array([0, 99, 100, 101, 599])
    np.testing.assert_array_equal(blocks.gather(rows), DATA[rows])
    for wanted in (0, 1, 299, 600):
        drawn = codebook_training._distinct(600, wanted, np.random.default_rng(wanted))
        assert len(set(drawn.tolist())) == wanted
        assert (np.diff(drawn) > 0).all()


def test_fast_training_is_nearly_as_good(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(200, 16))
    data = (centres[rng.integers(200, size=12_000)] + 0.5 * rng.normal(size=(12_000, 16))).astype(np.float32)

    def error(book: Codebook) -> float:
        return float(((data - book.centroids[book.assign(data)[:, 0]]) ** 2).sum())

    books = [Codebook.train([data], 2048, iterations=3, mode=mode) for mode in ("exact", "fast")]
    assert error(books[1]) < 1.01 * error(books[0])
    assert Codebook.train(data, 2048, iterations=3, mode="fast") == books[1]
    assert Codebook.train(mapped(tmp_path, data), 2048, iterations=3, mode="fast") == books[1]
    assert Codebook.train([data], 20, mode="fast") == Codebook.train([data], 20)  # few words: the same
    with pytest.raises(ConfigError, match="slow"):
        Codebook.train(data, 20, mode="slow")  # type: ignore[arg-type]
