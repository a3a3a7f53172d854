from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import Codebook
from delf_engine.index.codebook import training
from delf_engine.index.codebook.training import Blocks
from helpers import raises
from index.oracles import nearest

DATA = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)


def mapped(folder: Path, data: np.ndarray) -> np.memmap:
    data.tofile(folder / "descriptors")
    return np.memmap(folder / "descriptors", data.dtype, "r", shape=data.shape)


def error(book: Codebook, data: np.ndarray = DATA) -> float:
    return float(((data - book.centroids[book.assign(data)[:, 0]]) ** 2).sum())


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
@settings(max_examples=40)
def test_words_are_those_of_numpy(seed: int, words: int, n: int, dim: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    data = (rng.integers(-1, 2, (n, dim)) if ties else rng.normal(size=(n, dim))).astype(np.float32)
    start = rng.normal(size=(min(words, n), dim)).astype(np.float32)
    book = Codebook.train(data, len(start), iterations=2, init=Codebook(start))
    expected = one_iteration(data, one_iteration(data, start))
    np.testing.assert_allclose(book.centroids, expected, rtol=1e-5, atol=1e-6)


def test_empty_words_move_to_the_farthest_descriptors() -> None:
    data = np.concatenate([np.zeros((50, 2)), [[5.0, 0], [3, 0]], np.ones((20, 2)) * 100, [[100, 104]]])
    start = Codebook([[0, 0], [100, 100], [1e6, 1e6], [-1e6, 0], [-1e6, 5]])
    book = Codebook.train(data, 5, iterations=1, init=start)
    # Errors 34 and 16 + 0: two empty words find a donor each, the third stays.
    np.testing.assert_allclose(book.centroids[2:], [[5, 0], [100, 104], [-1e6, 5]])
    used = Codebook.train(data, 5, iterations=4, init=start).assign(data)
    assert len(np.unique(used)) == 5


def test_all_ways_to_give_descriptors_are_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = DATA.astype(np.float16)
    parts = [half[:1], half[1:1], half[1:333], half[333:]]
    book = Codebook.train(parts, 20, iterations=2)
    before = faiss.omp_get_max_threads()
    try:
        for threads, rows in ((1, 7), (2, 250), (3, 10_000)):
            faiss.omp_set_num_threads(threads)
            monkeypatch.setattr(training, "_ROWS", rows)
            assert Codebook.train(half, 20, iterations=2) == book
            assert Codebook.train(iter(parts), 20, iterations=2) == book
            assert Codebook.train((part.astype(np.float32) for part in parts), 20, iterations=2) == book
            assert Codebook.train(mapped(tmp_path, half), 20, iterations=2) == book
    finally:
        faiss.omp_set_num_threads(before)
    assert Codebook.train(half, 20, iterations=2, seed=1) != book


def test_iterations_can_be_run_one_at_a_time() -> None:
    steps: list[tuple[int, int]] = []
    whole = Codebook.train(DATA, 30, iterations=4, progress=lambda *step: steps.append(step))
    assert steps == [(i, 4) for i in range(1, 5)]
    book = Codebook.train(DATA, 30, iterations=1)
    for _ in range(3):
        book = Codebook.train(DATA, 30, iterations=1, init=book)
    assert book == whole

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    assert Codebook.train(DATA.astype(np.float64), 30, iterations=4) == whole
    assert error(whole) < error(Codebook.train(DATA, 30, iterations=1))
    assert repr(whole) == f"Codebook(30 words x 8-D, {whole.hash[:8]})"
    with pytest.raises(KeyboardInterrupt):
        Codebook.train(DATA, 5, progress=interrupt)


class Changing:
    """Gives fewer descriptors in every pass."""

    def __init__(self) -> None:
        self.n = 500

    def __iter__(self) -> Iterator[np.ndarray]:
        self.n -= 1
        yield DATA[: self.n]


BAD_ARRAYS = (np.full((9, 2), np.nan), np.full((9, 2), 1e30), np.zeros((2, 2, 2)), np.zeros(9), [["a"]])
REFUSED: list[tuple[type[Exception], tuple[str, ...], Callable[[], object]]] = [
    (FeatureError, ("601", "600"), lambda: Codebook.train(DATA, 601)),
    (FeatureError, ("0",), lambda: Codebook.train(iter([]), 1)),
    (FeatureError, ("dimension",), lambda: Codebook.train([np.zeros((9, 0))], 2)),
    (FeatureError, ("499", "498"), lambda: Codebook.train(Changing(), 2)),
    (FeatureError, ("8", "3"), lambda: Codebook.train([DATA, DATA[:, :3]], 2)),
    (FeatureError, ("8", "3"), lambda: Codebook.train(iter([DATA, DATA[:, :3]]), 2)),
    (ConfigError, ("words",), lambda: Codebook.train(DATA, 0)),
    (ConfigError, ("iterations",), lambda: Codebook.train(DATA, 3, iterations=0)),
    (FeatureError, ("centroids",), lambda: Codebook.train(DATA * 1e6, 5, half=True)),  # beyond half precision
    (MismatchError, ("8", "2"), lambda: Codebook.train(DATA, 2, init=Codebook(np.eye(8)))),
    (FeatureError, ("centroid",), lambda: Codebook(np.zeros((0, 3)))),
]


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, facts, call in REFUSED:
        with raises(error, *facts):
            call()
    for bad in BAD_ARRAYS:
        for source in (bad, [np.zeros((9, 2)), bad], iter([np.zeros((9, 2)), bad])):
            with raises(FeatureError, "descriptors"):
                Codebook.train(source, 2)
    monkeypatch.setattr(training.tempfile, "TemporaryFile", lambda: (tmp_path / "none" / "x").open("wb"))
    with raises(FormatError, "temporary"):
        Codebook.train(iter([DATA]), 2)


def test_gather() -> None:
    blocks = Blocks([DATA[:100], DATA[100:100], DATA[100:]])
    assert (blocks.count, blocks.dim) == (600, 8)
    rows = np.array([0, 99, 100, 101, 599])
    np.testing.assert_array_equal(blocks.gather(rows), DATA[rows])
    for wanted in (0, 1, 299, 600):
        drawn = training._distinct(600, wanted, np.random.default_rng(wanted))
        assert len(set(drawn.tolist())) == wanted
        assert (np.diff(drawn) > 0).all()


def test_many_words_lower_the_error_nearly_as_exact_assignment_does() -> None:
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(200, 16))
    data = (centres[rng.integers(200, size=12_000)] + 0.5 * rng.normal(size=(12_000, 16))).astype(np.float32)

    exact = faiss.Kmeans(16, 2048, niter=3, seed=0, min_points_per_centroid=1)
    exact.train(data)
    assert error(Codebook.train(data, 2048, iterations=3), data) < 1.02 * error(Codebook(exact.centroids), data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.ones((50, 3)), 10),  # empty clusters only
        (np.repeat(np.eye(3), 20, axis=0), 7),
        (np.ones((1, 1)), 1),
        (np.zeros((9, 2)), 9),
        (DATA, 600),
        (DATA[:, :1] * 1e14, 17),
    ],
)
def test_degenerate_training_data(data: np.ndarray, words: int) -> None:
    book = Codebook.train(data, words)
    assert book.centroids.shape == (words, data.shape[1])
    assert np.isfinite(book.centroids).all()


@pytest.mark.parametrize("half", [True, False])
def test_words_in_half_precision_take_half_the_space(tmp_path: Path, half: bool) -> None:
    book = Codebook.train(DATA, 64, half=half)
    book.save(tmp_path / "words.safetensors")
    assert Codebook.load(tmp_path / "words.safetensors") == book
    size = (tmp_path / "words.safetensors").stat().st_size
    assert size - 64 * 8 * (2 if half else 4) in range(512)
    assert (book.to_half() == book) == half
    assert book.to_half() == Codebook.train(DATA, 64, half=True)
