from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import Codebook
from helpers import raises
from index.oracles import nearest

DATA = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
DIMS = st.sampled_from([1, 40, 64, 65, 128])


def test_training_is_repeatable_and_lowers_the_error() -> None:
    steps: list[tuple[int, int]] = []
    first = Codebook.train(DATA, 20, iterations=1, seed=3)
    book = Codebook.train(DATA, 20, iterations=6, seed=3, progress=lambda done, of: steps.append((done, of)))
    assert steps == [(i, 6) for i in range(1, 7)]
    assert book == Codebook.train(DATA.astype(np.float64), 20, iterations=6, seed=3)
    assert hash(book) == hash(Codebook.train(DATA, 20, iterations=6, seed=3))
    assert book != Codebook.train(DATA, 20, iterations=6, seed=4)
    assert book != "book"

    def error(codebook: Codebook) -> float:
        return float(((DATA - codebook.centroids[codebook.assign(DATA)[:, 0]]) ** 2).sum())

    assert error(book) < error(first)
    assert (book.words, book.dim) == (20, 8)
    assert repr(book) == f"Codebook(20 words x 8-D, {book.hash[:8]})"


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


def test_a_codebook_has_a_word() -> None:
    with raises(FeatureError, "centroid"):
        Codebook(np.zeros((0, 3)))


@given(st.integers(0, 2**32), DIMS, st.integers(1, 40), st.integers(0, 12), st.integers(1, 6), st.booleans())
@settings(deadline=None)
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


def test_assignment_does_not_depend_on_the_batch(rng: np.random.Generator) -> None:
    data = rng.normal(size=(9000, 40)).astype(np.float32)
    book = Codebook(rng.normal(size=(500, 40)))
    together = book.assign(data, 5)
    np.testing.assert_array_equal(together[8190:8195], book.assign(data[8190:8195], 5))
    np.testing.assert_array_equal(together[7:8], book.assign(data[7:8], 5))


def test_assign_refuses() -> None:
    book = Codebook(np.eye(4))
    for k in (0, 5):
        with raises(ConfigError, "4"):
            book.assign(np.eye(4), k)
    with raises(MismatchError, "3", "4"):
        book.assign(np.eye(3))
    with raises(FeatureError, "NaN"):
        book.assign(np.full((2, 4), np.nan))


def test_equal_codebooks_are_equal_files(tmp_path: Path, rng: np.random.Generator) -> None:
    centroids = rng.normal(size=(7, 5)).astype(np.float32)
    files = []
    for number in range(8):
        Codebook(centroids).save(tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1


@pytest.mark.parametrize("half", [True, False])
def test_save_and_load(tmp_path: Path, half: bool) -> None:
    book = Codebook.train(DATA, 64, half=half)
    book.save(tmp_path / "words.safetensors")
    again = Codebook.load(tmp_path / "words.safetensors")
    assert again == book
    np.testing.assert_array_equal(again.centroids, book.centroids)
    assert not again.centroids.flags.writeable
    size = (tmp_path / "words.safetensors").stat().st_size
    assert size - 64 * 8 * (2 if half else 4) in range(512)
    assert (book.to_half() == book) == half
    assert book.to_half() == Codebook.train(DATA, 64, half=True)


def test_a_codebook_travels_to_other_processes() -> None:
    book = Codebook(np.eye(4))
    book.assign(np.eye(4))
    assert pickle.loads(pickle.dumps(book)) == book  # noqa: S301


def test_load_refuses(tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    with raises(FormatError, "words.safetensors"):
        Codebook.load(path)
    with raises(FormatError, "nowhere"):
        Codebook(np.eye(2)).save(tmp_path / "nowhere" / "words.safetensors")
    Codebook(DATA).save(path)
    good = path.read_bytes()
    for contents in (b"", b"nonsense" * 10, good[:100], good[:-1]):
        path.write_bytes(contents)
        with pytest.raises(FormatError, match=str(path)):
            Codebook.load(path)
    damaged = bytearray(good)
    damaged[-9] ^= 1
    path.write_bytes(damaged)
    with raises(FormatError, "damaged"):
        Codebook.load(path)
    save_file({"centroids": DATA}, path)
    with pytest.raises(FormatError, match=str(path)):
        Codebook.load(path)
    save_file({"centroids": DATA}, path, {"format": "delf-engine codebook", "version": "9"})
    with raises(FormatError, "9", "1"):
        Codebook.load(path)
    save_file({"words": DATA}, path, {"format": "delf-engine codebook", "version": "1"})
    with pytest.raises(FormatError, match=str(path)):
        Codebook.load(path)
