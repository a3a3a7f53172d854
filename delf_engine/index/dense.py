"""What indexes of dense vectors have in common: one vector of unit length an image, compared by their cosine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from delf_engine.config import FisherConfig, VladConfig
from delf_engine.config.encodings import Precision
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index.segments import Allocate, Arrays, Layout, Segment
from delf_engine.index.halves import bits, half_values
from delf_engine.index.vocabulary import V, VocabularyIndex

__all__ = ["LARGEST", "DenseIndex", "DenseLayout", "normalised"]

Vector = npt.NDArray[np.float32]
D = TypeVar("D", VladConfig, FisherConfig)

#: Components of a vector at most: a mebibyte an image in float32. An inverted file serves larger codebooks better.
LARGEST = 1 << 18

_BLOCK = 1024  # rows copied at a time
_DTYPES: Mapping[str, str] = {"float32": "<f4", "float16": "<f2"}


class DenseLayout(Layout):
    """The arrays of a segment: one row an image.

    Parameters
    ----------
    length : int
        Components L.
    precision : "float32" or "float16"
        Of the components.
    """

    def __init__(self, length: int, precision: Precision) -> None:
        self.length, self._dtype = length, _DTYPES[precision]
        self.dtypes: Mapping[str, tuple[str, int]] = {"vectors": (self._dtype, 2)}  # (n, L)

    def build(self, payloads: Sequence[Vector]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        vectors = np.empty((len(payloads), self.length), self._dtype)
        for row, payload in enumerate(payloads):
            vectors[row] = payload
        return {"vectors": vectors}

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        vectors = allocate("vectors", (sum(segment.live for segment in segments), self.length))
        first = 0
        for segment in segments:
            alive = np.flatnonzero(segment.alive)
            for start in range(0, len(alive), _BLOCK):  # a segment may be larger than memory
                rows = alive[start : start + _BLOCK]
                vectors[first : first + len(rows)] = segment.arrays["vectors"][rows]
                first += len(rows)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with them."""
        shape, wanted = arrays["vectors"].shape, (images, self.length)
        return None if shape == wanted else f"vectors have shape {shape}, wanted {wanted}"


class DenseIndex(VocabularyIndex[Vector, V, D], Generic[V, D]):
    """One row an image, memory-mapped; searching reads every row.

    Raises
    ------
    ConfigError
        If an encoding has more than 262,144 components.
    """

    _entries = "vectors"
    _together = 8

    @classmethod
    @abstractmethod
    def _length(cls, vocabulary: V) -> tuple[int, str]:
        """Return the components of an encoding, and what they are of, for the error."""

    @classmethod
    def _layout(cls, vocabulary: V, config: D) -> DenseLayout:
        length, what = cls._length(vocabulary)
        if length > LARGEST:
            raise ConfigError(
                f"{what} are {length:,} components an image, at most {LARGEST:,} are possible; train a smaller "
                "one, or use an ASMK or BoW index"
            )
        return DenseLayout(length, config.precision)

    def _insert(self, ids: Sequence[str], payloads: Sequence[Vector]) -> None:
        stored = _DTYPES[self.config.precision]  # what waits takes no more space than what is kept
        super()._insert(ids, [vector.astype(stored) for vector in payloads])

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: None = None) -> Sequence[Vector]:
        return self._images(items, threads)

    def _scores(
        self, queries: Sequence[Vector], threads: int, session: None = None
    ) -> list[npt.NDArray[np.float32]]:
        from delf_engine.index import dense_kernels

        together = np.stack(queries).astype(np.float64)
        out = []
        for segment in self._collection.segments:
            rows, scores = bits(segment.arrays["vectors"]), np.empty((len(queries), len(segment.ids)))
            if rows.dtype == np.uint16:
                dense_kernels.products_of_halves(together, rows, half_values(), scores)
            else:
                dense_kernels.products(together, rows, scores)
            scores[:, ~segment.alive] = 0
            out.append(scores.astype(np.float32))
        return list(np.concatenate(out, axis=1))


def normalised(vector: npt.NDArray[np.float64], power: float) -> Vector:
    """Return ``sign(x) |x|^power`` of each component at unit length, (L,) float32; zeros stay zeros."""
    if power != 1:
        vector = np.sign(vector) * np.abs(vector) ** power
    largest = np.abs(vector).max(initial=0.0)
    if not largest > 0:
        return np.zeros(len(vector), np.float32)
    vector = vector / largest  # squares of huge or tiny components stay in range
    return (vector / np.sqrt(np.square(vector).sum())).astype(np.float32)
