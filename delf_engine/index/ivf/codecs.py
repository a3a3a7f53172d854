"""How an `IvfIndex` keeps a descriptor: in 8 bits a component, or by a code of product quantisation."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError
from delf_engine.support.threads import faiss_in_one_thread

__all__ = ["Codec"]

Matrix = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

_LEVELS = 256  # of a part: its code is a byte
_PART = 4  # dimensions of a part, or fewer where these do not divide the dimension


class Codec:
    """Codes of descriptors, made and compared by faiss.

    With "uint8", components are kept in units of 1 / 127, rounded, each off by at most 1 / 254; what lies beyond
    [-1, 1] is cut off. With "pq", a byte for each part of a few dimensions says which of 256 levels is nearest:
    levels are found by k-means among the words of the codebook at unit length, which are spread as the descriptors
    that they were trained on, when they are first needed.

    Parameters
    ----------
    name : "uint8" or "pq"
    centroids : (W, D) float32
        Words of the codebook.

    Attributes
    ----------
    code_bytes : int
        Of a descriptor.
    unit : float
        Length that distances of the faiss index are in.
    shape : (M, 256, D / M)
        Of levels.
    levels : (M, 256, D / M) float32 or None
        Of "pq", once they are known: those that a saved index was made with are set before it is used.

    Raises
    ------
    ConfigError
        If there are fewer than 256 words for "pq".

    References
    ----------
    Jégou, Douze, Schmid: Product quantization for nearest neighbor search. TPAMI 2011.
    """

    def __init__(self, name: Literal["uint8", "pq"], centroids: Matrix) -> None:
        words, dim = centroids.shape
        self.is_pq = name == "pq"
        if self.is_pq and words < _LEVELS:
            raise ConfigError(f'codec = "pq" needs a codebook of at least {_LEVELS} words, got {words}')
        self.code_bytes = dim // math.gcd(dim, _PART) if self.is_pq else dim
        self.shape = (self.code_bytes, _LEVELS, dim // self.code_bytes)
        self.unit = 1.0 if self.is_pq else 1 / 127
        self.levels: Matrix | None = None
        self._centroids = centroids

    def scaled(self, descriptors: Matrix) -> Matrix:
        """Return query descriptors as the faiss index takes them, (N, D)."""
        return np.ascontiguousarray(descriptors / np.float32(self.unit))

    def encode(self, descriptors: Matrix) -> Codes:
        """Return the codes of (N, D) descriptors, (N, code_bytes)."""
        if not self.is_pq:  # 128 means 0
            return (np.clip(np.rint(self.scaled(descriptors)), -127, 127) + 128).astype(np.uint8)
        index = self.index()  # which its quantiser is a part of
        with faiss_in_one_thread():
            codes: Codes = index.pq.compute_codes(self.scaled(descriptors))
        return codes

    def index(self) -> Any:
        """Return an empty `faiss.IndexIVF` of these codes, with a list a word; words are assigned by others."""
        import faiss

        words, dim = self._centroids.shape
        coarse = faiss.IndexFlatL2(dim)
        index: Any
        if self.is_pq:
            index = faiss.IndexIVFPQ(coarse, dim, words, self.code_bytes, 8)
            index.by_residual = False
            faiss.copy_array_to_vector(self.trained().ravel(), index.pq.centroids)
        else:
            kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
            index = faiss.IndexIVFScalarQuantizer(coarse, dim, words, kind, faiss.METRIC_L2, False)
        index.is_trained = True
        return index

    def trained(self) -> Matrix:
        """Return the levels of product quantisation."""
        import faiss

        if self.levels is None:
            norms = np.linalg.norm(self._centroids, axis=1, keepdims=True)
            unit = (self._centroids / np.where(norms > 0, norms, 1)).astype(np.float32)
            quantizer = faiss.ProductQuantizer(unit.shape[1], self.code_bytes, 8)
            with faiss_in_one_thread():
                quantizer.train(unit)
            levels = faiss.vector_to_array(quantizer.centroids)
            self.levels = levels.reshape(self.shape)
        return self.levels
