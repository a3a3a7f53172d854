"""Exact nearest-neighbour matching of two sets of descriptors.

Similarities are sums of float32 products, taken in registers (see `match_kernels`); wherever two candidates are
closer than rounding can explain, the pair is decided again in float64. Neighbours are exact, ties go to the lowest
index, and the bits depend on the descriptors alone.

With ``precision="uint8"`` descriptors are rounded to 8 bits first, as the codec of that name does, so that those
of such a store are taken as they are. Sums are whole numbers then, exact on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError

__all__ = [
    "MatchedPair",
    "Matches",
    "Precision",
    "Prepared",
    "check_rules",
    "chosen_matches",
    "match_descriptors",
    "match_pair",
    "match_prepared",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Precision: TypeAlias = Literal["float32", "uint8"]

_NORM_TOLERANCE = 2e-2  # that of `LocalFeatures`
_MAX_BYTES = 1040  # up to this dimension sums of products of codes are exact in float32


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
    precision: Precision = "float32",
) -> Matches:
    """Match each descriptor of A with its nearest neighbour in B.

    The matrix of similarities is never held. The rule of the published
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
    precision : "float32" or "uint8"
        Compare descriptors as they are, or rounded to 8 bits.

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
        If `ratio` or `max_distance` is not positive, or `ratio` is above 1; if there is no such precision, or
        descriptors have more than 1,040 dimensions and are to be compared at 8 bits.
    """
    return match_pair(a, b, mutual=mutual, ratio=ratio, max_distance=max_distance, precision=precision).putative


def match_pair(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
    precision: Precision = "float32",
) -> MatchedPair:
    """Match as `match_descriptors` does, and compare all mutual nearest neighbours, near or far.

    Parameters and errors are those of `match_descriptors`, and so are the bits of the putative matches.
    """
    sides = Prepared(a, "A", precision), Prepared(b, "B", precision)
    return match_prepared(*sides, mutual=mutual, ratio=ratio, max_distance=max_distance)


class Prepared:
    """Descriptors made ready to be matched; one that is matched with many is made ready once.

    Parameters
    ----------
    descriptors : (N, D) float32
        L2-normalised.
    name : str
        Named in errors.
    precision : "float32" or "uint8"

    Raises
    ------
    FeatureError, ConfigError
        As `match_descriptors`.
    """

    def __init__(self, descriptors: npt.ArrayLike, name: str, precision: Precision) -> None:
        from delf_engine.verification.panel_kernels import are_unit

        if precision not in ("float32", "uint8"):
            raise ConfigError(f"precision must be 'float32' or 'uint8', got {precision!r}")
        rows = np.ascontiguousarray(descriptors, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] == 0:
            raise FeatureError(f"descriptors of {name} must have shape (N, D), got {rows.shape}")
        if precision == "uint8" and rows.shape[1] > _MAX_BYTES:
            raise ConfigError(
                f"descriptors of {rows.shape[1]} dimensions cannot be compared at 8 bits, only up to {_MAX_BYTES}"
            )
        if not are_unit(rows, _NORM_TOLERANCE):
            raise FeatureError(f"descriptors of {name} must be finite and L2-normalised")
        self.precision = precision
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self._rows.shape[1])

    @cached_property
    def unit(self) -> Float32:
        """The descriptors at unit length, (N, D)."""
        from delf_engine.verification.panel_kernels import unit_rows

        return np.asarray(unit_rows(self._rows))

    @cached_property
    def columns(self) -> tuple[Float32, Float32]:
        """Panels of the descriptors, and where these end (see `match_kernels.best_of_floats`)."""
        from delf_engine.verification.panel_kernels import panels

        columns, bias = panels(self.unit, np.float32(-np.inf))
        return columns, bias

    @cached_property
    def codes(self) -> tuple[npt.NDArray[np.int8], Float32]:
        """Descriptors of 8 bits, (N, E) with E the next multiple of 4, and one over the length of each."""
        from delf_engine.verification.panel_kernels import byte_codes

        codes, norms = byte_codes(self._rows)
        return codes, norms

    @cached_property
    def byte_rows(self) -> tuple[npt.NDArray[np.int32], Float32]:
        """What `match_kernels.best_of_codes` takes of A."""
        codes, norms = self.codes
        return (codes.view(np.uint8) ^ np.uint8(128)).view(np.int32), norms

    @cached_property
    def byte_columns(self) -> tuple[npt.NDArray[np.int32], int, npt.NDArray[np.int32], Float32]:
        """What `match_kernels.best_of_codes` takes of B."""
        from delf_engine.verification.panel_kernels import byte_panels

        columns, bias, norms = byte_panels(*self.codes)
        return columns.view(np.int32), len(self), bias, norms

    @cached_property
    def code_columns(self) -> tuple[Float32, int, Float32, Float32]:
        """What `match_kernels.best_of_codes` takes of B."""
        from delf_engine.verification.panel_kernels import byte_panels, panels

        columns, bias = panels(self.codes[0].astype(np.float32), np.float32(1))
        return columns, len(self), bias, byte_panels(*self.codes)[2]


def match_prepared(
    a: Prepared,
    b: Prepared,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> MatchedPair:
    """Do what `match_pair` does with descriptors that are ready.

    Raises
    ------
    MismatchError
        If A and B have descriptors of different dimension, or are made ready for different precisions.
    ConfigError
        As `match_descriptors`.
    """
    check_rules(ratio, max_distance)
    if a.dim != b.dim:
        raise MismatchError(
            f"descriptors of {a.dim} and {b.dim} dimensions cannot be matched; "
            "extract both images with the same model"
        )
    if a.precision != b.precision:
        raise MismatchError(f"descriptors made ready at {a.precision} and {b.precision} cannot be matched")
    if not len(a) or not len(b):
        return MatchedPair(Matches(np.empty((0, 2), np.int32), np.empty(0, np.float32)), np.empty(0, np.float32))
    found = (_compared_bytes if a.precision == "uint8" else _compared_floats)(a, b)
    return chosen_matches(
        found.to_b,
        found.to_a,
        found.similarities,
        found.distances,
        mutual,
        ratio,
        max_distance,
        found.second_distances,
    )


def check_rules(ratio: float | None, max_distance: float | None) -> None:
    """Raise `ConfigError` unless `ratio` is above 0 and at most 1, and `max_distance` positive, or None."""
    if ratio is not None and not 0 < ratio <= 1:
        raise ConfigError(f"ratio must be above 0 and at most 1, got {ratio}")
    if max_distance is not None and not max_distance > 0:
        raise ConfigError(f"max_distance must be positive, got {max_distance}")


def chosen_matches(
    to_b: Int32,
    to_a: Int32,
    similarities: Float32,
    distances: Float64,
    mutual: bool,
    ratio: float | None,
    max_distance: float | None,
    second_distances: Callable[[], Float64],
) -> MatchedPair:
    """Return those nearest neighbours that are matches under the rules; see `_Compared` for the arrays."""
    from delf_engine.verification.match_kernels import select

    others = np.empty(0) if ratio is None else second_distances()
    limit = np.inf if max_distance is None else float(max_distance)
    pairs, of_pairs, of_mutual = select(
        to_b, to_a, similarities, distances, mutual, limit, float(ratio or 0), others
    )
    return MatchedPair(Matches(pairs, of_pairs), of_mutual)


class _Compared(NamedTuple):
    """Nearest neighbours of A and B.

    Attributes
    ----------
    to_b, to_a : (N,), (M,) int32
        Of each row of A the nearest of B, and the other way.
    similarities, distances : (N,) float32, float64
        Of each row of A and its nearest of B.
    second_distances : callable
        Returns the distance of each row of A to the nearest of B but one, (N,) float64; 0 where there is none.
    """

    to_b: Int32
    to_a: Int32
    similarities: Float32
    distances: Float64
    second_distances: Callable[[], Float64]


def _compared_floats(a: Prepared, b: Prepared) -> _Compared:
    from delf_engine.verification.match_kernels import best_of_floats, distances_between, settle

    columns, bias = b.columns
    found = best_of_floats(a.unit, columns, len(b), bias)
    # Twice the worst rounding of a float32 sum of products of unit vectors, for the two that are compared.
    similarities, distances = settle(a.unit, b.unit, found, np.float32(2 * (a.dim + 2) * 2.0**-24))
    _, _, to_b, other, _, _, to_a = found
    return _Compared(
        to_b, to_a, similarities, distances, lambda: np.asarray(distances_between(a.unit, b.unit, other))
    )


def _compared_bytes(a: Prepared, b: Prepared) -> _Compared:
    from delf_engine.tiles import has_byte_products
    from delf_engine.verification.match_kernels import best_of_codes, chords

    if has_byte_products():
        found = best_of_codes(*a.byte_rows, *b.byte_columns)
    else:  # on any processor: whole numbers below 2^24 are exact in float32, too
        codes, norms = a.codes
        found = best_of_codes(codes.astype(np.float32), norms, *b.code_columns)
    best, second, to_b, _, _, _, to_a = found
    return _Compared(
        to_b,
        to_a,
        np.minimum(best, np.float32(1)),
        chords(best),
        lambda: chords(second) if len(b) > 1 else np.zeros(len(a)),
    )
