"""Nearest-neighbour matching of two sets of descriptors, and descriptors prepared for it.

Neighbours are exact, ties go to the lowest index, and the bits depend on the descriptors alone. With
``precision="uint8"`` descriptors are rounded to 8 bits first, as the codec of that name does, so that those of
such a store are taken as they are. Sums are whole numbers then, exact on every machine.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.support.arrays import check_array

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
ComparedAt: TypeAlias = Literal["float32", "uint8"]

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
    mutual_similarities : (K,) float32
        The same of every pair of mutual nearest neighbours, near or far and whatever the options.
    """

    pairs: Int32
    similarities: Float32
    mutual_similarities: Float32


class PreparedDescriptors:
    """Descriptors, (N, D) float32 and L2-normalised, prepared for matching, once for many partners.

    `name` is that in errors; `precision` compares descriptors as they are, "float32", or at 8 bits, "uint8".

    Raises
    ------
    FeatureError
        If they are not two-dimensional, not finite or not L2-normalised.
    ConfigError
        If there is no such precision, or descriptors have more than 1,040 dimensions and are to be compared at
        8 bits.
    """

    def __init__(self, descriptors: npt.ArrayLike, name: str, precision: ComparedAt) -> None:
        from delf_engine.matching.panels import are_unit

        if precision not in ("float32", "uint8"):
            raise ConfigError(f"precision must be 'float32' or 'uint8', got {precision!r}")
        rows = check_array(f"descriptors of {name}", descriptors, np.float32, (None, None), finite=False)
        if rows.shape[1] == 0:
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
        from delf_engine.matching.panels import unit_rows

        return np.asarray(unit_rows(self._rows))

    @cached_property
    def codes(self) -> tuple[npt.NDArray[np.int8], Float32]:
        """Descriptors of 8 bits, (N, E) with E the next multiple of 4, and one over the length of each."""
        from delf_engine.matching.panels import byte_codes

        codes, norms = byte_codes(self._rows)
        return codes, norms

    @cached_property
    def as_rows(self) -> tuple[npt.NDArray[Any], Float32 | None]:
        """What `kernels.best_of` takes of A."""
        if self.precision == "float32":
            return self.unit, None
        from delf_engine.matching.micro_kernel import has_byte_products

        codes, norms = self.codes
        if has_byte_products:
            return (codes.view(np.uint8) ^ np.uint8(128)).view(np.int32), norms
        return codes.astype(np.float32), norms

    @cached_property
    def as_columns(self) -> tuple[npt.NDArray[Any], int, npt.NDArray[Any], Float32 | None]:
        """What `kernels.best_of` takes of B."""
        from delf_engine.matching.micro_kernel import has_byte_products
        from delf_engine.matching.panels import byte_panels, panels

        if self.precision == "float32":
            columns, bias = panels(self.unit, np.float32(-np.inf))
            return columns, len(self), bias, None
        of_bytes, bias, norms = byte_panels(*self.codes)
        if has_byte_products:
            return of_bytes.view(np.int32), len(self), bias, norms
        columns, bias = panels(self.codes[0].astype(np.float32), np.float32(1))
        return columns, len(self), bias, norms


def match_descriptors(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
    precision: ComparedAt = "float32",
) -> Matches:
    """Match each descriptor of A to its nearest neighbour in B, if the match passes the rules.

    That of the published DELF code, nearest neighbour within a distance, is ``mutual=False, max_distance=0.8``.

    Parameters
    ----------
    a, b : (N, D), (M, D) float32
        L2-normalised descriptors (rounding of a storage codec is taken out by normalising again).
    mutual : bool
        Keep a match only if each is the other's nearest neighbour.
    ratio : float or None
        Keep a match only if its distance is at most this times the distance to the second nearest neighbour
        (Lowe 2004). Where B has no second descriptor, or it is as near as zero, nothing is kept.
    max_distance : float or None
        Keep a match only if the Euclidean distance of its unit vectors is at most this (0 to 2).
    precision : "float32" or "uint8"
        Compare descriptors as they are, or rounded to 8 bits.

    Returns
    -------
    Matches
        Ties go to the lowest index. Without descriptors on either side: shapes (0, 2), (0,) and (0,).

    Raises
    ------
    MismatchError, ConfigError, FeatureError
        As `match_prepared` and `PreparedDescriptors`.
    """
    sides = PreparedDescriptors(a, "A", precision), PreparedDescriptors(b, "B", precision)
    return match_prepared(*sides, mutual=mutual, ratio=ratio, max_distance=max_distance)


def match_prepared(
    a: PreparedDescriptors,
    b: PreparedDescriptors,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> Matches:
    """Do what `match_descriptors` does, with descriptors that are prepared.

    Parameters
    ----------
    a, b : PreparedDescriptors
    mutual, ratio, max_distance
        As for `match_descriptors`.

    Raises
    ------
    MismatchError
        If A and B have descriptors of different dimension, or are prepared at different precisions.
    ConfigError
        If `ratio` or `max_distance` is not positive, or `ratio` is above 1.
    """
    if ratio is not None and not 0 < ratio <= 1:
        raise ConfigError(f"ratio must be above 0 and at most 1, got {ratio}")
    if max_distance is not None and not max_distance > 0:
        raise ConfigError(f"max_distance must be positive, got {max_distance}")
    if a.dim != b.dim:
        raise MismatchError(
            f"descriptors of {a.dim} and {b.dim} dimensions cannot be matched; "
            "extract both images with the same model"
        )
    if a.precision != b.precision:
        raise MismatchError(f"descriptors prepared at {a.precision} and {b.precision} cannot be matched")
    if not len(a) or not len(b):
        return Matches(np.empty((0, 2), np.int32), np.empty(0, np.float32), np.empty(0, np.float32))
    from delf_engine.matching.kernels import best_of, break_ties, chords, distances_between, select

    found = best_of(*a.as_rows, *b.as_columns)
    best, second, to_b, other, _, _, to_a = found
    second_distances = np.empty(0)  # to the nearest but one; 0 where there is none
    if a.precision == "float32":
        # Twice the worst rounding of a float32 sum of products of unit vectors, for the two that are compared.
        similarities, distances = break_ties(a.unit, b.unit, found, np.float32(2 * (a.dim + 2) * 2.0**-24))
        if ratio is not None:
            second_distances = distances_between(a.unit, b.unit, other)
    else:
        similarities, distances = np.minimum(best, np.float32(1)), chords(best)
        if ratio is not None:
            second_distances = chords(second) if len(b) > 1 else np.zeros(len(a))
    limit = np.inf if max_distance is None else float(max_distance)
    return Matches(
        *select(to_b, to_a, similarities, distances, mutual, limit, float(ratio or 0), second_distances)
    )
