"""Names of images and indices into them, checked: what every protocol needs of its lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError

__all__ = ["Indices", "check_listed", "distinct_names", "index_array", "places_of", "unknown_hint"]

Indices: TypeAlias = npt.NDArray[np.int64]

_LARGEST = np.iinfo(np.int64).max


def index_array(values: Any, what: str) -> Indices:
    """Return integers as a read-only (N,) int64 array.

    Raises
    ------
    DataError
        If they are no integers of one dimension, or beyond int64.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        array = np.empty(0, object)
    if array.size == 0 and array.dtype != object:
        array = array.astype(np.int64).reshape(-1)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} must be one-dimensional integer indices, got {array.shape} {array.dtype}")
    if array.dtype.kind == "u" and array.size and array.max() > _LARGEST:
        raise DataError(f"{what}: {array.max()} is no index of an image")
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array


def check_listed(order: Indices, size: int, what: str) -> None:
    """Refuse indices that are not of `size` images, or stand twice.

    Raises
    ------
    DataError
        It says how many are unknown, and whether the list looks like one of another set.
    """
    outside = order[(order < 0) | (order >= size)]
    if len(outside):
        hint = unknown_hint(len(outside), len(order), size)
        raise DataError(f"{what}: index {outside[0]} is no image of a gallery of {size}{hint}")
    counts = np.bincount(order, minlength=1)
    if counts.max() > 1:
        raise DataError(f"{what}: image {int(counts.argmax())} occurs {int(counts.max())} times")


def unknown_hint(unknown: int, listed: int, size: int) -> str:
    """Return what to add to a complaint about an unknown image: how many there are, and what that may mean."""
    if unknown == 1 and listed > 2:
        return ""
    if 2 * unknown > listed or listed > size:
        return f" ({unknown} of {listed} are unknown): the ground truth seems to be of another set"
    return f" ({unknown} of {listed} are unknown)"


def distinct_names(names: Any, what: str) -> tuple[str, ...]:
    """Return names as a tuple.

    Raises
    ------
    DataError
        If they are no strings, or one occurs twice.
    """
    given = tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) for name in given):
        raise DataError(f"{what} must be a list of names")
    if len(set(given)) < len(given):
        seen: set[str] = set()
        doubled = next(name for name in given if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{what}: {doubled!r} occurs twice")
    return given


def places_of(all_names: tuple[str, ...], wanted: Sequence[str], what: str) -> list[int]:
    """Return where the wanted names stand.

    Raises
    ------
    DataError
        If one is not among them.
    """
    place = {name: i for i, name in enumerate(all_names)}
    unknown = [name for name in wanted if name not in place]
    if unknown:
        raise DataError(f"{unknown[0]!r} is not among the {what} of this ground truth")
    return [place[name] for name in wanted]
