"""The kernels that score postings, against sums written out in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_engine.index.asmk.kernels import RANGE, normalise, score_signs

WORDS = 12


def inverted(
    rng: np.random.Generator, images: int, dim: int, share: float
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Postings of images that have each word with a chance of `share`: offsets, rows, codes."""
    rows = [np.flatnonzero(rng.random(images) < share).astype(np.int32) for _ in range(WORDS)]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    return offsets, np.concatenate(rows), codes(rng, int(offsets[-1]), dim)


def codes(rng: np.random.Generator, count: int, dim: int) -> npt.NDArray[np.uint64]:
    bits = rng.random((count, 64 * -(-dim // 64))) < 0.5
    bits[:, dim:] = False
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").reshape(count, -(-dim // 64))


def scored(query: Any, weights: Any, selectivity: Any, postings: Any, images: int) -> npt.NDArray[np.float64]:
    """Image by image and word by word."""
    (words, signs), (offsets, rows, stored) = query, postings
    scores = np.zeros(images)
    for word, sign, weight in zip(words, signs, weights, strict=True):
        for p in range(offsets[word], offsets[word + 1]):
            distance = sum(int(a ^ b).bit_count() for a, b in zip(sign, stored[p], strict=True))
            scores[rows[p]] += weight * selectivity[distance]
    return scores


@given(
    st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([1, 40, 64, 65, 128]), st.sampled_from([0, 0.3, 1])
)
@settings(deadline=None, max_examples=40)
def test_signs_as_written_out(seed: int, images: int, dim: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    postings = inverted(rng, images, dim, share)
    words = np.sort(rng.permutation(WORDS)[: rng.integers(0, WORDS + 1)]).astype(np.int32)
    query, weights = (words, codes(rng, len(words), dim)), rng.random(len(words))
    selectivity = rng.normal(size=dim + 1) * 10.0 ** rng.integers(-5, 5)
    wanted = scored(query, weights, selectivity, postings, images)
    cut = int(rng.integers(0, images + 1))
    for bounds in ([0, images], [0, cut, images], range(images + 1)):
        scores = np.zeros(images)
        for first, last in itertools.pairwise(bounds):
            assert score_signs(first, last, *query, weights, selectivity, *postings, scores)
        np.testing.assert_array_equal(scores, wanted)


def test_many_rows_are_scored_range_by_range() -> None:
    rng = np.random.default_rng(0)
    images, dim = 2 * RANGE + 1234, 40
    offsets, rows, stored = inverted(rng, images, dim, 0.05)
    words, weights = np.array([0, 3, 11], np.int32), rng.random(3)
    selectivity = rng.normal(size=dim + 1)
    signs = codes(rng, 3, dim)
    wanted = np.zeros(images)
    for word, weight, code in zip(words, weights, signs, strict=True):
        part = slice(offsets[word], offsets[word + 1])
        values = weight * selectivity[np.unpackbits((code ^ stored[part]).view(np.uint8), axis=1).sum(1)]
        np.add.at(wanted, rows[part], values)
    for bounds in ([0, images], [0, 77, RANGE, images], [0, RANGE + 1, images]):
        scores = np.zeros(images)
        for first, last in itertools.pairwise(bounds):
            assert score_signs(first, last, words, signs, weights, selectivity, offsets, rows, stored, scores)
        np.testing.assert_allclose(scores, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("wrong", ["row too large", "row negative", "rows descend", "offsets", "bits", "none"])
def test_damaged_postings_are_found_and_not_followed(wrong: str) -> None:
    rng = np.random.default_rng(1)
    images = 3 * RANGE
    offsets, rows, stored = inverted(rng, images, 40, 0.01)
    middle = len(rows) // 2
    if wrong == "row too large":
        rows[middle] = 10**9
    elif wrong == "row negative":
        rows[middle] = -5
    elif wrong == "rows descend":
        at = int(offsets[5])
        rows[at : at + 300] = rows[at : at + 300][::-1] + RANGE
    elif wrong == "offsets":
        offsets[4] = 10**12
    elif wrong == "bits":
        stored[middle] |= np.uint64(1) << np.uint64(63)
    words = np.arange(WORDS, dtype=np.int32)
    asked = (words, np.zeros((WORDS, 1), np.uint64), np.ones(WORDS), np.ones(41), offsets, rows, stored)
    if wrong == "bits":
        asked = (words, ~np.zeros((WORDS, 1), np.uint64) >> np.uint64(24), *asked[2:])
        stored[middle] = np.uint64(1) << np.uint64(63)
    assert score_signs(0, images, *asked, np.zeros(images)) is (wrong == "none")
    ranges = [score_signs(i * RANGE, (i + 1) * RANGE, *asked, np.zeros(images)) for i in range(3)]
    assert all(ranges) is (wrong == "none")


def test_normalised_by_the_lengths_of_both() -> None:
    rng = np.random.default_rng(2)
    scores, counts = rng.random(100), rng.integers(0, 2000, 100).astype(np.int32)
    alive, out = rng.random(100) < 0.8, np.empty(100, np.float32)
    normalise(scores, 7, counts, alive, out)
    wanted = scores / (np.sqrt(7) * np.sqrt(np.maximum(counts, 1)))
    np.testing.assert_array_equal(out, np.where(alive, wanted, 0).astype(np.float32))


def test_an_image_scores_1_against_itself() -> None:
    for words in (1, 2, 3, 700, 12345):
        out = np.empty(1, np.float32)
        normalise(np.array([float(words)]), words, np.array([words], np.int32), np.ones(1, bool), out)
        assert out[0] == 1
