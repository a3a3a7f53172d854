"""How an `IvfIndex` keeps a descriptor: in 8 bits a component, or by a code of product quantisation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError

__all__ = ["ByteCodec", "Codec", "PqCodec", "one_thread"]

Matrix = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

_LEVELS = 256  # of a part: its code is a byte
_PART = 4  # dimensions of a part, or fewer where these do not divide the dimension


class Codec(ABC):
    """Codes of descriptors.

    Attributes
    ----------
    code_bytes : int
        Of a descriptor.
    unit : float
        Length that distances of the faiss index are in.
    dtypes : mapping
        Of arrays that a segment keeps of the codec itself, as `Layout.dtypes` has them.
    """

    code_bytes: int
    unit: float
    dtypes: Mapping[str, tuple[str, int]]

    @abstractmethod
    def encode(self, descriptors: Matrix) -> Codes:
        """Return the codes of (N, D) descriptors, (N, code_bytes)."""

    @abstractmethod
    def scaled(self, descriptors: Matrix) -> Matrix:
        """Return query descriptors as the faiss index takes them."""

    @abstractmethod
    def index(self, cells: int) -> Any:
        """Return an empty `faiss.IndexIVF` of these codes, whose cells are assigned by others."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what a segment keeps of the codec itself."""
        return {}

    def problem(self, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
        """Say what is wrong with what a segment keeps of the codec."""
        return None

    def adopt(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what a segment keeps of the codec that it was made with."""
        return


class ByteCodec(Codec):
    """Components in units of 1 / 127, rounded, each off by at most 1 / 254; what lies beyond [-1, 1] is cut off.

    Parameters
    ----------
    dim : int
        Descriptor dimension D.
    """

    unit = 1 / 127
    dtypes: Mapping[str, tuple[str, int]] = {}

    def __init__(self, dim: int) -> None:
        self.code_bytes = dim

    def encode(self, descriptors: Matrix) -> Codes:
        """Return the codes of (N, D) descriptors, (N, D), 128 meaning 0."""
        return (np.clip(np.rint(self.scaled(descriptors)), -127, 127) + 128).astype(np.uint8)

    def scaled(self, descriptors: Matrix) -> Matrix:
        """Return descriptors in units, (N, D)."""
        return descriptors / np.float32(self.unit)

    def index(self, cells: int) -> Any:
        """Return an empty `faiss.IndexIVFScalarQuantizer`."""
        import faiss

        kind, coarse = faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.IndexFlatL2(self.code_bytes)
        index = faiss.IndexIVFScalarQuantizer(coarse, self.code_bytes, cells, kind, faiss.METRIC_L2, False)
        index.is_trained = True
        return index


class PqCodec(Codec):
    """Product quantisation: a byte for each part of a few dimensions says which of 256 levels is nearest.

    Levels are found by k-means among the words of the codebook at unit length, when they are first needed: words
    are spread as the descriptors that they were trained on.

    Parameters
    ----------
    centroids : (W, D) float32
        Of the codebook.

    Raises
    ------
    ConfigError
        If there are fewer than 256 words.

    References
    ----------
    Jégou, Douze, Schmid: Product quantization for nearest neighbor search. TPAMI 2011.
    """

    unit = 1.0
    dtypes: Mapping[str, tuple[str, int]] = {"levels": ("<f4", 3)}  # (M, 256, D / M)

    def __init__(self, centroids: Matrix) -> None:
        words, self._dim = centroids.shape
        if words < _LEVELS:
            raise ConfigError(f'codec = "pq" needs a codebook of at least {_LEVELS} words, got {words}')
        self._centroids = centroids
        self._levels: Matrix | None = None
        self.code_bytes = self._dim // math.gcd(self._dim, _PART)

    def encode(self, descriptors: Matrix) -> Codes:
        """Return the codes of (N, D) descriptors, (N, M)."""
        with one_thread():
            codes: Codes = self._quantizer().compute_codes(np.ascontiguousarray(descriptors))
        return codes

    def scaled(self, descriptors: Matrix) -> Matrix:
        """Return descriptors as they are."""
        return np.ascontiguousarray(descriptors)

    def index(self, cells: int) -> Any:
        """Return an empty `faiss.IndexIVFPQ`."""
        import faiss

        coarse = faiss.IndexFlatL2(self._dim)
        index = faiss.IndexIVFPQ(coarse, self._dim, cells, self.code_bytes, 8)
        index.by_residual = False
        faiss.copy_array_to_vector(self._trained().ravel(), index.pq.centroids)
        index.is_trained = True
        return index

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the levels."""
        return {"levels": self._trained()}

    def problem(self, arrays: Mapping[str, npt.NDArray[Any]]) -> str | None:
        """Say what is wrong with the levels of a segment."""
        shape, wanted = arrays["levels"].shape, (self.code_bytes, _LEVELS, self._dim // self.code_bytes)
        return None if shape == wanted else f"levels have shape {shape}, wanted {wanted}"

    def adopt(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over the levels of a segment."""
        self._levels = arrays["levels"]

    def _trained(self) -> Matrix:
        import faiss

        if self._levels is None:
            norms = np.linalg.norm(self._centroids, axis=1, keepdims=True)
            unit = (self._centroids / np.where(norms > 0, norms, 1)).astype(np.float32)
            quantizer = faiss.ProductQuantizer(self._dim, self.code_bytes, 8)
            with one_thread():
                quantizer.train(unit)
            levels = faiss.vector_to_array(quantizer.centroids)
            self._levels = levels.reshape(self.code_bytes, _LEVELS, -1)
        return self._levels

    def _quantizer(self) -> Any:
        import faiss

        quantizer = faiss.ProductQuantizer(self._dim, self.code_bytes, 8)
        faiss.copy_array_to_vector(self._trained().ravel(), quantizer.centroids)
        return quantizer


@contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss work in the calling thread only: work is shared out by `in_threads`, the same way everywhere."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
