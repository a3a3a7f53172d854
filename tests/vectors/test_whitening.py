"""Whitening and binary codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, MismatchError
from delf_engine.vectors import (
    Whitening,
    hamming_then_exact,
    itq,
    learned_whitening,
    pca_whitening,
    sign_codes,
)
from helpers import raises
from vectors.oracles import clustered, collections, cosines, units


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_pca_whitening_decorrelates(rng: np.random.Generator, power: float) -> None:
    vectors = rng.normal(size=(500, 12)) @ rng.normal(size=(12, 12)) + 3
    fitted = pca_whitening(vectors, 6, power=power)
    projected = (vectors.astype(np.float32) - fitted.mean) @ fitted.matrix
    variances = np.sort(np.linalg.svd(vectors - vectors.mean(axis=0))[1] ** 2 / 500)[::-1][:6]
    assert np.allclose(np.cov(projected.T, bias=True), np.diag(variances ** (1 - power)), rtol=1e-4, atol=1e-4)
    strongest = np.abs(fitted.matrix).argmax(axis=0)
    assert (fitted.matrix[strongest, np.arange(6)] > 0).all()
    assert np.allclose(fitted(vectors), units(projected), atol=1e-5)


@given(collections())
def test_pca_gives_as_many_dimensions_as_vectors_span(both: tuple[Any, Any]) -> None:
    vectors = both[1]
    spanned = np.linalg.matrix_rank(vectors - vectors.mean(axis=0), 1e-5) if len(vectors) else 0
    assert spanned <= max(len(vectors) - 1, 0)
    if spanned:
        assert np.isfinite(pca_whitening(vectors, spanned)(vectors)).all()
    with raises(ConfigError):
        pca_whitening(vectors, spanned + 1)


def test_learned_whitening_is_the_published_one(rng: np.random.Generator) -> None:
    """As ``whitenlearn`` of Radenović's code has it, with columns for vectors."""
    vectors = clustered(rng, 300, 10)
    pairs = np.stack([np.arange(200), np.arange(200) + 30], axis=1)  # of one cluster
    X, q, p = vectors.T.astype(float), pairs[:, 0], pairs[:, 1]
    m = X[:, q].mean(axis=1, keepdims=True)
    df = X[:, q] - X[:, p]
    P = np.linalg.inv(np.linalg.cholesky(df @ df.T / len(pairs)))
    D = P @ (X - m)
    variances, vectors_of = np.linalg.eigh(D @ D.T)
    wanted = (vectors_of[:, np.argsort(-variances)].T @ P)[:4]
    fitted = learned_whitening(vectors, pairs, 4)
    assert np.allclose(fitted.mean, m[:, 0])
    assert np.allclose(np.abs((fitted.matrix.T * wanted).sum(1)), np.linalg.norm(wanted, axis=1) ** 2)
    same, other = (cosines(fitted(vectors), fitted(vectors))[q, r].mean() for r in (p, p + 1))
    assert same > other + 0.4


def test_whitening_with_too_little_is_refused(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 40, 10)
    with raises(ConfigError, "9 pairs", "10"):
        learned_whitening(vectors, [[i, i + 1] for i in range(9)], 4)
    with raises(ConfigError, "0 pairs"):
        learned_whitening(vectors, np.empty((0, 2), int), 4)
    with raises(ConfigError, "11"):
        learned_whitening(vectors, [[i, i + 1] for i in range(39)], 11)
    with raises(MismatchError, "40"):
        learned_whitening(vectors, [[0, 40]], 4)
    for mean, matrix in ((np.zeros(3), np.eye(4)), ([np.nan], [[1]]), (np.zeros(3), np.zeros((3, 0)))):
        with raises(ConfigError):
            Whitening(mean, matrix)


def test_a_whitening_treats_each_vector_by_itself(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 200, 33)
    vectors[[7, 100]] = 0
    fitted = pca_whitening(vectors, 17)
    again = Whitening(**{name: np.array(array) for name, array in vars(fitted).items()})
    out = again(vectors)
    assert out.dtype == np.float32
    assert np.array_equal(out, np.concatenate([fitted(row[None]) for row in vectors]))
    assert np.array_equal(out[::-1], fitted(vectors[::-1]))
    assert not out[[7, 100]].any()
    assert np.allclose(np.linalg.norm(np.delete(out, [7, 100], 0), axis=1), 1)
    assert fitted(np.empty((0, 33))).shape == (0, 17)


def test_sign_codes_pack_what_is_above_zero() -> None:
    vectors = [[1, -1, 0, 2, -3, 1, 1, 1, 5], [0] * 9]
    assert sign_codes(vectors).tolist() == [[0b10010111, 0b10000000], [0, 0]]


def test_itq_is_a_rotation_of_the_principal_axes_nearer_to_signs(rng: np.random.Generator) -> None:
    """Vectors near the corners of a cube that lies askew: codes become those of the corners."""
    corners = np.where(rng.random((600, 16)) > 0.5, 1, -1)
    vectors = corners @ np.linalg.qr(rng.normal(size=(24, 24)))[0][:16] + 0.1 * rng.normal(size=(600, 24))
    pca, fitted = pca_whitening(vectors, 16, power=0), itq(vectors, 16, seed=5)
    rotation = np.linalg.lstsq(pca.matrix, fitted.matrix, rcond=None)[0]
    assert np.allclose(rotation.T @ rotation, np.eye(16), atol=1e-5)
    assert np.array_equal(fitted.matrix, itq(vectors, 16, seed=5).matrix)
    assert not np.array_equal(fitted.matrix, itq(vectors, 16, seed=6).matrix)

    def loss(projected: Any) -> float:
        return float(np.square(np.where(projected > 0, 1, -1) / 4 - projected).sum())

    assert loss(fitted(vectors)) < 0.2 * loss(pca(vectors))
    with raises(ConfigError, "25"):
        itq(vectors, 25)


@given(collections(), st.integers(1, 50), st.integers(1, 50), st.integers(1, 3))
def test_codes_choose_whom_products_rank(both: tuple[Any, Any], keep: int, top: int, size: int) -> None:
    queries, vectors = both
    rng = np.random.default_rng(len(vectors))
    codes, asked = (rng.integers(0, 4, (len(x), size)).astype(np.uint8) for x in (vectors, queries))
    scores, indices = hamming_then_exact(queries, vectors, asked, codes, keep=keep, top=top)
    distances = np.unpackbits(asked[:, None] ^ codes[None], axis=2).sum(axis=2, dtype=int)
    every = cosines(queries, vectors)
    for q in range(len(queries)):
        kept = np.argsort(distances[q], kind="stable")[:keep]
        best = sorted(kept.tolist(), key=lambda i: (-every[q, i], i))[:top]
        assert indices[q].tolist() == best
        assert np.array_equal(scores[q], every[q, best])


def test_codes_of_other_vectors_are_refused() -> None:
    vectors, codes = np.eye(4), np.zeros((4, 2), np.uint8)
    for asked, theirs in (
        (codes, codes[:3]),
        (codes[:, :1], codes),
        (codes[:, :0], codes[:, :0]),
        (codes, codes + 0.5),
    ):
        with raises(MismatchError):
            hamming_then_exact(vectors, vectors, asked, theirs, keep=2, top=1)
