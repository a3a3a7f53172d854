"""Descriptor matching: exact against naive loops, whatever the ties, sizes and threads."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.matching import PreparedDescriptors, match_descriptors, match_prepared, micro_kernel
from helpers import raises

Array = npt.NDArray[np.float32]


def unit_rows(rng: np.random.Generator, n: int, dim: int = 8) -> Array:
    rows = rng.normal(size=(n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def lattice_rows(rng: np.random.Generator, n: int, dim: int = 3) -> Array:
    """Rows of few different directions, so that ties abound."""
    rows = rng.integers(-1, 2, (n, dim)).astype(np.float64)
    rows[~rows.any(axis=1), 0] = 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(
    a: Array, b: Array, *, mutual: bool, ratio: float | None, max_distance: float | None
) -> list[tuple[int, int]]:
    """The definition, one pair at a time in float64."""
    units = [[r.astype(np.float64) / np.linalg.norm(r.astype(np.float64)) for r in rows] for rows in (a, b)]
    distance = np.array([[np.sqrt(((p - q) ** 2).sum()) for q in units[1]] for p in units[0]])
    distance = distance.round(7)  # equal descriptors, equal distances
    out = []
    for i, row in enumerate(distance):
        j = min(range(len(row)), key=lambda j: (row[j], j))
        if max_distance is not None and row[j] > max_distance:
            continue
        if mutual and min(range(len(a)), key=lambda k: (distance[k, j], k)) != i:
            continue
        if ratio is not None:
            rest = sorted(row[k] for k in range(len(row)) if k != j)
            if not rest or rest[0] == 0 or row[j] > ratio * rest[0]:
                continue
        out.append((i, j))
    return out


@given(
    seed=st.integers(0, 10**6),
    n=st.one_of(st.integers(1, 6), st.integers(1, 70)),
    m=st.one_of(st.integers(1, 6), st.integers(1, 70)),
    ties=st.booleans(),
    mutual=st.booleans(),
    ratio=st.sampled_from([None, 0.61, 0.93]),
    max_distance=st.sampled_from([None, 0.31, 0.93]),
)
def test_equals_the_definition(
    seed: int,
    n: int,
    m: int,
    ties: bool,
    mutual: bool,
    ratio: float | None,
    max_distance: float | None,
) -> None:
    rng = np.random.default_rng(seed)
    make = lattice_rows if ties else unit_rows
    a, b = make(rng, n), make(rng, m)
    b = np.concatenate([b, a[: n // 2]]) if a.shape[1] == b.shape[1] else b
    found = match_descriptors(a, b, mutual=mutual, ratio=ratio, max_distance=max_distance)
    assert [tuple(p) for p in found.pairs.tolist()] == naive(
        a, b, mutual=mutual, ratio=ratio, max_distance=max_distance
    )
    expected = (a[found.pairs[:, 0]] * b[found.pairs[:, 1]]).sum(axis=1)
    np.testing.assert_allclose(found.similarities, expected, atol=1e-6)
    both_ways = naive(a, b, mutual=True, ratio=None, max_distance=None)
    np.testing.assert_allclose(
        found.mutual_similarities, [float(a[i].astype(np.float64) @ b[j]) for i, j in both_ways], atol=1e-6
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
@pytest.mark.parametrize("mutual", [True, False])
def test_empty_sets_give_a_typed_empty_result(n: int, m: int, mutual: bool) -> None:
    found = match_descriptors(np.full((n, 4), 0.5), np.full((m, 4), 0.5), mutual=mutual, ratio=0.8)
    assert (found.pairs.shape, found.pairs.dtype) == ((0, 2), np.int32)
    assert (found.similarities.shape, found.similarities.dtype) == ((0,), np.float32)


def test_equal_descriptors_go_to_the_lowest_index() -> None:
    a = np.tile(np.float32([[0.6, 0.8]]), (300, 1))
    assert match_descriptors(a, a[:250]).pairs.tolist() == [[0, 0]]
    assert match_descriptors(a, a[:250], mutual=False).pairs[:, 1].tolist() == [0] * 300
    assert len(match_descriptors(a, a, ratio=1.0).pairs) == 0  # the second is as near as the first: at zero


def test_differences_below_float32_are_decided_exactly() -> None:
    # The two neighbours differ by less than the rounding of a float32 product.
    query = np.zeros((1, 64), np.float32)
    query[0, :2] = 0.6, 0.8
    near, nearer = query[0].copy(), query[0].copy()
    near[2] = 2e-4
    nearer[2] = 1e-4
    for order in ([near, nearer], [nearer, near]):
        best = match_descriptors(query, np.array(order), mutual=False).pairs[0, 1]
        assert order[best] is nearer


def test_rounding_of_a_codec_does_not_favour_longer_vectors(rng: np.random.Generator) -> None:
    a = unit_rows(rng, 1, 40)
    close = a[0] + 0.01 * unit_rows(rng, 1, 40)[0]
    close *= 0.99 / np.linalg.norm(close)
    far = a[0] + 0.05 * unit_rows(rng, 1, 40)[0]
    far *= 1.01 / np.linalg.norm(far)
    assert match_descriptors(a, np.stack([far, close])).pairs.tolist() == [[0, 1]]


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.1}, {"max_distance": 0.0}, {"ratio": np.nan}])
def test_options_out_of_range(options: dict[str, float], rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError):
        match_descriptors(unit_rows(rng, 2), unit_rows(rng, 2), **options)  # type: ignore[arg-type]


def test_descriptors_of_another_dimension_are_refused(rng: np.random.Generator) -> None:
    with raises(MismatchError):
        match_descriptors(unit_rows(rng, 2, 8), unit_rows(rng, 2, 9))
    with pytest.raises(MismatchError):
        match_descriptors(np.empty((0, 8)), unit_rows(rng, 2, 9))


@pytest.mark.parametrize("length", [0.0, 0.97, 1.03, 1e30, 3e38, np.nan, np.inf, -np.inf])
def test_what_is_not_a_set_of_unit_vectors_is_refused(length: float, rng: np.random.Generator) -> None:
    good = unit_rows(rng, 5, 8)
    for bad in (np.full(8, length), np.vstack([good, [[0, length, 0, 0, 0, 0, 0, 0]], good])):
        with raises(FeatureError, "descriptors of B"):
            match_descriptors(good, bad)


def codes_of(rows: Array) -> npt.NDArray[np.int64]:
    """The codes of 8 bits that a store keeps, less 128."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return np.rint(rows * (np.float32(127) / largest)).astype(np.int64)


@given(
    seed=st.integers(0, 10**6),
    n=st.one_of(st.integers(1, 6), st.integers(1, 140)),
    m=st.one_of(st.integers(1, 6), st.integers(1, 140)),
    dim=st.sampled_from([1, 3, 4, 40, 63]),
    ties=st.booleans(),
    mutual=st.booleans(),
    ratio=st.sampled_from([None, 0.61, 0.93, 1.0]),
    bytes_at_once=st.booleans(),
)
def test_bytes_equal_their_definition(
    seed: int, n: int, m: int, dim: int, ties: bool, mutual: bool, ratio: float | None, bytes_at_once: bool
) -> None:
    rng = np.random.default_rng(seed)
    make = lattice_rows if ties else unit_rows
    a, b = make(rng, n, dim), make(rng, m, dim)
    b[: m // 3] = a[rng.integers(0, n, m // 3)]
    with pytest.MonkeyPatch.context() as patch:
        if not bytes_at_once:
            patch.setattr(micro_kernel, "has_byte_products", False)
        found = match_descriptors(a, b, mutual=mutual, ratio=ratio, max_distance=1.2, precision="uint8")
    codes_a, codes_b = codes_of(a), codes_of(b)
    norms_a, norms_b = (
        (1 / np.sqrt((c * c).sum(axis=1).astype(np.float64))).astype(np.float32) for c in (codes_a, codes_b)
    )
    cosines = (codes_a @ codes_b.T).astype(np.float32) * norms_b * norms_a[:, None]
    to_b, to_a = cosines.argmax(axis=1), cosines.argmax(axis=0)
    chords = np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 0))
    expected = []
    for i, j in enumerate(to_b.tolist()):
        runner_up = np.sort(chords[i])[1] if m > 1 else 0.0
        good = chords[i, j] <= 1.2 and (to_a[j] == i or not mutual)
        if good and (ratio is None or (runner_up > 0 and chords[i, j] <= ratio * runner_up)):
            expected.append([i, j])
    assert found.pairs.tolist() == expected
    rows, columns = found.pairs.T
    assert np.array_equal(found.similarities, np.minimum(cosines[rows, columns], 1))
    both_ways = [i for i, j in enumerate(to_b) if to_a[j] == i]
    assert np.array_equal(found.mutual_similarities, np.minimum(cosines[both_ways, to_b[both_ways]], 1))


def test_descriptors_of_a_store_of_bytes_are_taken_as_they_are(rng: np.random.Generator) -> None:
    rows = unit_rows(rng, 500, 40)
    stored = codes_of(rows)
    decoded = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    codes, norms = PreparedDescriptors(decoded.astype(np.float32), "A", "uint8").codes
    assert np.array_equal(codes, stored)
    np.testing.assert_allclose(norms * np.linalg.norm(stored, axis=1), 1, rtol=1e-6)


def test_what_is_made_ready_serves_many(rng: np.random.Generator) -> None:
    a, b, c = (unit_rows(rng, n, 40) for n in (90, 120, 1))
    for precision in ("float32", "uint8"):
        ready = PreparedDescriptors(a, "A", precision)
        for other in (b, c, b, a):
            again = match_prepared(ready, PreparedDescriptors(other, "B", precision), ratio=0.95)
            alone = match_descriptors(a, other, ratio=0.95, precision=precision)
            assert all(np.array_equal(x, y) for x, y in zip(again, alone, strict=True))


def test_precisions_are_not_mixed(rng: np.random.Generator) -> None:
    a = unit_rows(rng, 5)
    with raises(MismatchError, "float32", "uint8"):
        match_prepared(PreparedDescriptors(a, "A", "float32"), PreparedDescriptors(a, "B", "uint8"))
    with raises(ConfigError):
        match_descriptors(a, a, precision="int4")  # type: ignore[arg-type]
    with raises(ConfigError, "1041"):
        match_descriptors(*[unit_rows(rng, 2, 1041)] * 2, precision="uint8")
