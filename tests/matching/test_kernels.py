"""The kernels of matching against whole matrices: maxima, seconds and places at every edge of tile and panel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.matching import PreparedDescriptors, micro_kernel
from delf_engine.matching.kernels import best_of
from delf_engine.matching.panels import panels

Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

#: Below, at and above four rows, sixteen lanes, a panel of 32 and a block of 128.
EDGES = [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 127, 128, 129, 160]
SIZES = st.one_of(st.sampled_from(EDGES), st.integers(1, 150))
DIMS = st.sampled_from([1, 3, 40, 64])
SEEDS = st.integers(0, 10**6)


def maxima(products: Array) -> tuple[Array, ...]:
    """What `best_of` returns, of a whole matrix: of equal products the first counts as the best."""
    order = np.argsort(-products, axis=1, kind="stable")
    second = np.full(len(products), -np.inf, np.float32)
    rows = np.arange(len(products))
    if products.shape[1] > 1:
        second = products[rows, order[:, 1]]
    of_columns = np.sort(products, axis=0)[::-1]
    second_b = of_columns[1] if len(products) > 1 else np.full(products.shape[1], -np.inf, np.float32)
    return products.max(axis=1), second, products.argmax(axis=1), of_columns[0], second_b, products.argmax(axis=0)


def assert_equals(found: tuple[Array, ...], products: Array) -> None:
    best, second, place, other, best_b, second_b, place_b = found
    assert "".join(x.dtype.kind for x in found) == "ffiiffi"
    for mine, plain in zip((best, second, place, best_b, second_b, place_b), maxima(products), strict=True):
        np.testing.assert_array_equal(mine, plain)
    if products.shape[1] > 1:  # the place of the second: one that has its product, and not that of the best
        rows = np.arange(len(products))
        np.testing.assert_array_equal(products[rows, other], second)
        assert (other != place).all()
        # Of equal ones the first.
        rest = products.copy()
        rest[rows, place] = -np.inf
        np.testing.assert_array_equal(other, rest.argmax(axis=1))


def whole_rows(seed: int, n: int, dim: int, *, ties: bool) -> Float32:
    """Rows of small whole numbers: all sums of products are exact in float32, so results must be equal."""
    return np.random.default_rng(seed).integers(*((-1, 2) if ties else (-100, 101)), (n, dim)).astype(np.float32)


def floats(a: Float32, b: Float32) -> tuple[Array, ...]:
    columns, bias = panels(b, np.float32(-np.inf))
    return tuple(best_of(a, None, columns, len(b), bias, None))


@given(seed=SEEDS, n=SIZES, m=SIZES, dim=DIMS, ties=st.booleans())
def test_best_of_equals_the_matrix(seed: int, n: int, m: int, dim: int, ties: bool) -> None:
    a, b = whole_rows(seed, n, dim, ties=ties), whole_rows(seed + 1, m, dim, ties=ties)
    assert_equals(floats(a, b), a @ b.T)


@pytest.mark.parametrize("n", EDGES)
@pytest.mark.parametrize("m", EDGES)
def test_best_of_at_every_edge(n: int, m: int) -> None:
    a, b = whole_rows(n, n, 3, ties=n % 2 == 0), whole_rows(m, m, 3, ties=m % 2 == 0)
    assert_equals(floats(a, b), a @ b.T)


@given(seed=SEEDS, n=SIZES, m=SIZES, dim=DIMS)
def test_best_of_of_unit_rows_is_within_rounding(seed: int, n: int, m: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (units(rng.normal(size=(k, dim))) for k in (n, m))
    best, second, place, _, best_b, second_b, place_b = floats(a, b)
    products = a.astype(np.float64) @ b.T.astype(np.float64)
    rounding = (dim + 2) * 2.0**-24
    plain = maxima(products)
    for mine, of_matrix in ((best, plain[0]), (second, plain[1]), (best_b, plain[3]), (second_b, plain[4])):
        np.testing.assert_allclose(mine, of_matrix, atol=rounding, rtol=0)
    np.testing.assert_allclose(products[np.arange(n), place], plain[0], atol=2 * rounding, rtol=0)
    np.testing.assert_allclose(products[place_b, np.arange(m)], plain[3], atol=2 * rounding, rtol=0)


@given(seed=SEEDS, n=SIZES, m=SIZES, dim=DIMS)
def test_bits_of_a_product_depend_on_its_two_rows_alone(seed: int, n: int, m: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (units(rng.normal(size=(k, dim))) for k in (n, m))
    best, _, place = floats(a, b)[:3]
    i = int(rng.integers(n))
    alone = floats(a[i : i + 1], b[place[i] : place[i] + 1])
    assert alone[0][0] == alone[4][0] == best[i]
    back = floats(b, a)
    assert np.array_equal(back[4], best)


def units(rows: Array) -> Float32:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def prepared(seed: int, n: int, dim: int, *, ties: bool) -> PreparedDescriptors:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (n, dim)).astype(np.float64) if ties else rng.normal(size=(n, dim))
    rows[~rows.any(axis=1), 0] = 1
    return PreparedDescriptors(units(rows), "A", "uint8")


def cosines(a: PreparedDescriptors, b: PreparedDescriptors) -> Float32:
    """Whole sums times one over both lengths, in the order and precision that the kernels state."""
    sums = a.codes[0].astype(np.int64) @ b.codes[0].astype(np.int64).T
    return np.asarray(sums.astype(np.float32) * b.codes[1] * a.codes[1][:, None])


def by_codes(a: PreparedDescriptors, b: PreparedDescriptors, *, of_bytes: bool) -> tuple[Array, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micro_kernel, "has_byte_products", of_bytes)
        for side in (a, b):  # whichever way they were made ready before
            side.__dict__.pop("as_rows", None)
            side.__dict__.pop("as_columns", None)
        return tuple(best_of(*a.as_rows, *b.as_columns))


@given(seed=SEEDS, n=SIZES, m=SIZES, dim=DIMS, ties=st.booleans())
def test_cosines_of_codes_equal_the_matrix(seed: int, n: int, m: int, dim: int, ties: bool) -> None:
    a, b = prepared(seed, n, dim, ties=ties), prepared(seed + 1, m, dim, ties=ties)
    found = by_codes(a, b, of_bytes=False)
    assert_equals(found, cosines(a, b))
    if micro_kernel.has_byte_products:  # elsewhere there is no such instruction
        for of_bytes, of_codes in zip(by_codes(a, b, of_bytes=True), found, strict=True):
            assert of_bytes.tobytes() == of_codes.tobytes()


@pytest.mark.parametrize("dim", [1024, 1037, 1040])
def test_sums_of_codes_are_exact_up_to_the_largest_dimension(dim: int) -> None:
    rows = np.full((5, dim), 1 / np.sqrt(dim))  # all codes are 127: the largest sum there is
    rows[1:3] *= -1
    rows[3, ::2] *= -1
    a = PreparedDescriptors(rows, "A", "uint8")
    assert np.abs(a.codes[0].astype(np.int64) @ a.codes[0].T).max() == 127 * 127 * dim
    for of_bytes in {False, micro_kernel.has_byte_products}:
        assert_equals(by_codes(a, a, of_bytes=of_bytes), cosines(a, a))
