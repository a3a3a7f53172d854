"""Global descriptors beside what a kind of index keeps: in the same segments, so under the same rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FeatureError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment
from delf_engine.support.threads import in_threads

_ROWS = 256  # copied at a time
_PART = 1 << 14  # rows that one thread multiplies at a time
_GLOBAL = "global"


class RowLayout(Layout):
    """One row of `length` floats an image, in an array of this name."""

    def __init__(self, length: int, name: str = "vectors") -> None:
        self.length, self.name = length, name
        self.dtypes: Mapping[str, tuple[str, int]] = {name: ("<f4", 2)}  # (n, L)

    def build(self, payloads: Sequence[npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        return {self.name: np.stack(payloads).astype("<f4", copy=False)}

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        vectors = allocate(self.name, (sum(segment.live for segment in segments), self.length))
        first = 0
        for segment in segments:
            alive = np.flatnonzero(segment.alive)
            for start in range(0, len(alive), _ROWS):  # a segment may be larger than memory
                rows = alive[start : start + _ROWS]
                vectors[first : first + len(rows)] = segment.arrays[self.name][rows]
                first += len(rows)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        shape, wanted = arrays[self.name].shape, (images, self.length)
        return None if shape == wanted else f"{self.name} have shape {shape}, wanted {wanted}"


class WithVectors(Layout):
    """What a kind keeps, and the global descriptor, of `length` components; payloads are pairs of both."""

    def __init__(self, local: Layout, length: int) -> None:
        self.local, self._rows = local, RowLayout(length, _GLOBAL)
        self.dtypes = {**local.dtypes, **self._rows.dtypes}

    def build(self, payloads: Sequence[tuple[Any, npt.NDArray[np.float32]]]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        return {**self.local.build([own for own, _ in payloads]), **self._rows.build([v for _, v in payloads])}

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        self.local.merge(segments, allocate)
        self._rows.merge(segments, allocate)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        return self.local.problem(arrays, images) or self._rows.problem(arrays, images)


def kept_vector(features: LocalFeatures, length: int, name: str) -> npt.NDArray[np.float32]:
    """Return the global descriptor of an image to be indexed; without one, zeros: it is not found by it.

    A `MismatchError`, which calls it `name`, if it has another number of components.
    """
    vector = features.global_descriptor
    if vector is None:
        return np.zeros(length, np.float32)
    if len(vector) != length:
        raise MismatchError(
            f"{name}: the global descriptor has {len(vector)} components, the index holds {length}"
        )
    return vector


def query_vector(features: LocalFeatures, length: int) -> npt.NDArray[np.float32]:
    """Return the global descriptor of a query.

    A `MismatchError` if the index keeps none, or has others; a `FeatureError` if the query has none.
    """
    if not length:
        raise MismatchError(
            "no global descriptors are kept; make an engine with a model that has some, or search by its index"
        )
    if features.global_descriptor is None:
        raise FeatureError("query: these features have no global descriptor; extract them with the engine's model")
    return kept_vector(features, length, "query")


def global_scores(
    query: npt.NDArray[np.float32], segments: Sequence[Segment], threads: int
) -> npt.NDArray[np.float32]:
    """Return the cosine of a global descriptor with each row's, (n,) through all segments; 0 for what is dead."""
    out = [np.where(s.alive, products(query, s.arrays[_GLOBAL], threads), np.float32(0)) for s in segments]
    return np.concatenate(out)


def products(
    query: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], threads: int = 1
) -> npt.NDArray[np.float32]:
    """Return the product of a vector, (L,), with each row, (n,), by faiss: the same bits among any other rows.

    `rows`, (n, L) float32 and contiguous, may be mapped from a file.
    """
    import faiss

    multiply: Any = getattr(faiss, "fvec_inner_products_ny")  # noqa: B009 - not in its type stubs
    scores = np.zeros(len(rows), np.float32)
    query = np.ascontiguousarray(query, np.float32)

    def part(number: int) -> None:
        own = rows[number * _PART : (number + 1) * _PART]
        out = scores[number * _PART : (number + 1) * _PART]
        multiply(faiss.swig_ptr(out), faiss.swig_ptr(query), faiss.swig_ptr(own), len(query), len(own))

    in_threads(part, -(-len(rows) // _PART), threads)
    return scores
