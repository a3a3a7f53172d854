"""What every function of global vectors checks first."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.support.arrays import LARGEST, check_array

Vectors = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

_BLOCK = 4096  # rows copied as float64 at a time


def check_vectors(name: str, values: npt.ArrayLike, dim: int | None = None) -> Vectors:
    """Return `values` as (N, D) float32, D at least 1; `MismatchError` if D is not `dim`."""
    array = check_array(name, values, np.float32, (None, None), largest=LARGEST)
    if not array.shape[1]:
        raise FeatureError(f"{name} must have at least one dimension, got shape {array.shape}")
    if dim is not None and array.shape[1] != dim:
        raise MismatchError(
            f"{name} have {array.shape[1]} dimensions, wanted {dim}; make all vectors with the same model"
        )
    return array


def unit_vectors(name: str, values: npt.ArrayLike, dim: int | None = None) -> Vectors:
    """Return `values` L2-normalised, (N, D) float32; zeros stay zeros."""
    return normalized(check_vectors(name, values, dim))


def normalized(rows: npt.NDArray[np.float32] | npt.NDArray[np.float64]) -> Vectors:
    """Return rows divided by their lengths, (N, D) float32; the bits of each depend on it alone."""
    out = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float64)
        largest = np.abs(block).max(axis=1, keepdims=True)  # squares of small numbers would vanish
        block /= np.where(largest > 0, largest, 1)
        lengths = np.sqrt(np.square(block).sum(axis=1, keepdims=True))
        out[start : start + _BLOCK] = block / np.where(lengths > 0, lengths, 1)
    return out


def check_count(name: str, value: int, least: int = 1) -> int:
    """Return a whole number of at least `least`, or raise `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def check_number(name: str, value: float, low: float, high: float = math.inf) -> float:
    """Return a finite number from `low` to `high`, or raise `ConfigError`."""
    numeric = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not numeric or not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def check_ranking(indices: npt.ArrayLike, queries: int, count: int) -> Indices:
    """Return the candidates of each query, (M, K) int64: -1 stands for none, as in faiss."""
    array = check_array("indices", indices, np.int64, (queries, None), error=MismatchError)
    if array.size and not -1 <= array.min() <= array.max() < count:
        raise MismatchError(
            f"indices must be from -1 (none) to {count - 1}, got {array.min()} to {array.max()}; "
            "give the vectors that the shortlist was made from"
        )
    return array
