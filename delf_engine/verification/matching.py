"""Exact nearest-neighbour matching of two sets of descriptors.

All similarities come from float32 matrix products. Their last bits depend on the BLAS kernel, so wherever two
candidates are closer than rounding can explain, the pair is decided again in float64: neighbours are exact, ties
go to the lowest index, and the result has the same bits with any number of BLAS threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError

__all__ = ["MatchedPair", "Matches", "match_descriptors", "match_pair"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

# One tile of similarities: 32 MiB.
_TILE_ROWS, _TILE_COLUMNS = 1024, 8192
# Pairs decided again in float64 at a time, so that even all-equal descriptors need little memory.
_EXACT_PAIRS = 1 << 16
_NORM_TOLERANCE = 2e-2  # that of `LocalFeatures`


class Matches(NamedTuple):
    """Tentative matches of two images.

    Attributes
    ----------
    pairs : (M, 2) int32
        Row of the descriptor in A and of its match in B, in ascending order of the row in A.
    similarities : (M,) float32
        Cosine similarity of each pair.
    """

    pairs: npt.NDArray[np.int32]
    similarities: Float32


class MatchedPair(NamedTuple):
    """How the descriptors of two images compare.

    Attributes
    ----------
    putative : Matches
        The tentative matches, under all the options.
    mutual_similarities : (K,) float32
        Cosine similarity of every pair of mutual nearest neighbours, whatever the options, in ascending order of
        the row in A.
    """

    putative: Matches
    mutual_similarities: Float32


def match_descriptors(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> Matches:
    """Match each descriptor of A with its nearest neighbour in B.

    Memory stays bounded by a tile of similarities however many descriptors there are. The rule of the published
    DELF code, nearest neighbour within a distance, is ``mutual=False, max_distance=0.8``.

    Parameters
    ----------
    a : (N, D) float32
        L2-normalised descriptors of image A (rounding of a storage codec is taken out by normalising again).
    b : (M, D) float32
        Those of image B.
    mutual : bool
        Keep a pair only if each is the nearest neighbour of the other.
    ratio : float or None
        Keep a pair only if its distance is at most `ratio` times that to the second nearest neighbour in B
        (Lowe 2004). Where B has no second descriptor, or the second is as near as zero, nothing is kept.
    max_distance : float or None
        Keep a pair only if the Euclidean distance of its unit vectors is at most this (0 to 2).

    Returns
    -------
    Matches
        Ties go to the lowest index. Without descriptors on either side: shapes (0, 2) and (0,).

    Raises
    ------
    MismatchError
        If A and B have descriptors of different dimension.
    FeatureError
        If a set is not two-dimensional, not finite or not L2-normalised.
    ConfigError
        If `ratio` or `max_distance` is not positive, or `ratio` is above 1.
    """
    return _matched(a, b, mutual, ratio, max_distance, compare=False).putative


def match_pair(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> MatchedPair:
    """Match as `match_descriptors` does, and compare all mutual nearest neighbours, near or far.

    Parameters and errors are those of `match_descriptors`, and so are the bits of the putative matches.
    """
    return _matched(a, b, mutual, ratio, max_distance, compare=True)


def _matched(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    mutual: bool,
    ratio: float | None,
    max_distance: float | None,
    *,
    compare: bool,
) -> MatchedPair:
    """Match; without `compare` only those rows are asked for mutuality that may become a putative match."""
    if ratio is not None and not 0 < ratio <= 1:
        raise ConfigError(f"ratio must be above 0 and at most 1, got {ratio}")
    if max_distance is not None and not max_distance > 0:
        raise ConfigError(f"max_distance must be positive, got {max_distance}")
    unit_a, unit_b = _unit_rows(a, "A"), _unit_rows(b, "B")
    if unit_a.shape[1] != unit_b.shape[1]:
        raise MismatchError(
            f"descriptors of {unit_a.shape[1]} and {unit_b.shape[1]} dimensions cannot be matched; "
            "extract both images with the same model"
        )
    if not len(unit_a) or not len(unit_b):
        return MatchedPair(Matches(np.empty((0, 2), np.int32), np.empty(0, np.float32)), np.empty(0, np.float32))

    to_b, second = _nearest(unit_a, unit_b)
    distances = _distances(unit_a, unit_b[to_b])
    near = np.ones(len(unit_a), bool) if max_distance is None else distances <= max_distance
    both_ways = np.zeros(len(unit_a), bool)
    if mutual or compare:
        asked = np.arange(len(unit_a)) if compare else np.flatnonzero(near)
        both_ways[asked] = _is_mutual(unit_a, unit_b, asked, to_b)
    rows = np.flatnonzero(near & both_ways if mutual else near)
    if ratio is not None:
        runner_up = _second_distances(unit_a, unit_b, rows, to_b, second)
        rows = rows[(distances[rows] <= ratio * runner_up) & (runner_up > 0)]
    pairs = np.stack([rows, to_b[rows]], axis=1).astype(np.int32)
    similarities = _dot(unit_a, unit_b[to_b]).astype(np.float32)
    return MatchedPair(Matches(pairs, similarities[rows]), similarities[both_ways])


def _unit_rows(descriptors: npt.ArrayLike, name: str) -> Float32:
    rows = np.ascontiguousarray(descriptors, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise FeatureError(f"descriptors of {name} must have shape (N, D), got {rows.shape}")
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if not (np.abs(norms - 1) <= _NORM_TOLERANCE).all():  # false for NaN as well
        raise FeatureError(f"descriptors of {name} must be finite and L2-normalised")
    return (rows / norms[:, None]).astype(np.float32)


def _dot(a: Float32, b: Float32) -> Float64:
    """Row by row, without BLAS: products of float32 are exact in float64."""
    return (a.astype(np.float64) * b).sum(axis=1)


def _distances(a: Float32, b: Float32) -> Float64:
    return np.sqrt(((a.astype(np.float64) - b) ** 2).sum(axis=1))


def _margin(dim: int) -> np.float32:
    # Twice the worst rounding of a float32 dot product of unit vectors, for the two that are compared.
    return np.float32(2 * (dim + 2) * 2.0**-24)


def _nearest(a: Float32, b: Float32) -> tuple[Index, Float32]:
    """Return each row's exact nearest neighbour in `b`, and the second similarity up to rounding."""
    index = np.zeros(len(a), np.intp)
    best = np.full(len(a), -np.inf, np.float32)
    second = best.copy()
    for rows in _blocks(len(a), _TILE_ROWS):
        r = np.arange(rows.stop - rows.start)
        for columns in _blocks(len(b), _TILE_COLUMNS):
            tile = a[rows] @ b[columns].T
            column = tile.argmax(axis=1)
            top = tile[r, column]
            tile[r, column] = -np.inf
            second[rows] = np.maximum(np.minimum(best[rows], top), np.maximum(second[rows], tile.max(axis=1)))
            better = top > best[rows]
            index[rows] = np.where(better, column + columns.start, index[rows])
            best[rows] = np.where(better, top, best[rows])
    margin = _margin(a.shape[1])
    close = np.flatnonzero(second >= best - margin)
    for row, column, similarity in _exact_above(a, b, close, best[close] - 2 * margin):
        order = np.lexsort((column, -similarity, row))
        first = np.unique(row[order], return_index=True)[1]
        index[row[order][first]] = column[order][first]
    return index, second


def _is_mutual(a: Float32, b: Float32, rows: Index, to_b: Index) -> npt.NDArray[np.bool_]:
    # Only descriptors of B that some row has chosen are asked for their own nearest neighbour.
    chosen, place = np.unique(to_b[rows], return_inverse=True)
    if not len(chosen):
        return np.zeros(0, bool)
    back, _ = _nearest(b[chosen], a)
    return np.asarray(back[place] == rows)


def _second_distances(a: Float32, b: Float32, rows: Index, to_b: Index, second: Float32) -> Float64:
    """Return the exact distance of each of `rows` to its second nearest neighbour; 0 where there is none."""
    if len(b) < 2:
        return np.zeros(len(rows))
    distance = np.full(len(a), np.inf)
    for row, column, _ in _exact_above(a, b, rows, second[rows] - 2 * _margin(a.shape[1])):
        other = column != to_b[row]
        np.minimum.at(distance, row[other], _distances(a[row[other]], b[column[other]]))
    return distance[rows]


def _exact_above(a: Float32, b: Float32, rows: Index, floor: Float32) -> Iterator[tuple[Index, Index, Float64]]:
    """Yield row, column and float64 similarity of pairs not below their row's `floor`, whole rows at once."""
    for part in _blocks(len(rows), max(1, _EXACT_PAIRS // len(b))):
        near, column = np.nonzero(a[rows[part]] @ b.T >= floor[part, None])
        row = rows[part][near]
        yield row, column, _dot(a[row], b[column])


def _blocks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
