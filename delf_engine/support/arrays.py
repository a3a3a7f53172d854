"""The one check of arrays: a contiguous array of the wanted type and shape comes out, or a clear error."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.errors import DataError, DelfEngineError, FeatureError

#: Squares of larger values, and sums of them, leave the range of float32.
LARGEST = 1e15

D = TypeVar("D", bound=np.generic)


def check_array(
    name: str,
    values: Any,
    dtype: type[D],
    shape: tuple[int | None, ...],
    *,
    error: type[DelfEngineError] = FeatureError,
    finite: bool = True,
    largest: float | None = None,
) -> npt.NDArray[D]:
    """Return `values` as a C-contiguous array, copied only where need be; an `error` if they are none.

    `name` is what the error calls it, plural, such as ``"descriptors"``. A value that an integer type cannot hold
    exactly is refused; a float beyond the type is infinite. None in `shape` is any length. `finite` refuses NaN
    and infinite values, `largest` larger absolute values, such as `LARGEST`.
    """
    try:
        given = np.asarray(values)
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.ascontiguousarray(given, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as failure:
        raise error(f"{name} must be an array of numbers: {failure}") from failure
    if given.dtype.kind not in "biuf":
        raise error(f"{name} must be an array of numbers, got {given.dtype}")
    if given.ndim == 0:  # which NumPy makes one-dimensional
        array = array.reshape(())
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("N" if n is None else str(n) for n in shape)
        raise error(f"{name} must have shape ({wanted}{',' * (len(shape) == 1)}), got {given.shape}")
    if (
        array.dtype.kind in "iub"
        and given.size
        and given.dtype != array.dtype
        and not np.array_equal(given, array)
    ):
        raise error(f"{name} must be {np.dtype(dtype)} values, got {given.dtype} ones that it cannot hold")
    if array.dtype.kind == "f" and array.size:
        if finite and not np.isfinite(array).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise error(f"{name} contain NaN or infinite values, the first at {place}")
        if largest is not None and max(array.max(), -array.min()) > largest:
            raise error(f"{name} contain values beyond {largest:g}, too large for sums of squares in float32")
    return array


def checked_names(values: Iterable[Any], what: str, *, distinct: bool = False) -> list[str]:
    """Return ids as a list of plain strings; with `distinct`, one that stands twice is refused.

    A `DataError` if they are not strings, or a string instead of several.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DataError(f"{what} must be a list of ids, got {type(values).__name__}")
    out: list[str] = []
    seen: set[str] = set()
    for k, value in enumerate(values):
        if not isinstance(value, str):
            raise DataError(f"{what}: number {k} is {value!r}, an id (a string) was expected")
        if distinct and value in seen:
            raise DataError(f"{what}: {value!r} stands twice")
        seen.add(value)
        out.append(str(value))
    return out
