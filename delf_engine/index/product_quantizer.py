"""`ProductQuantizer`: what is left of a descriptor in its cell, in a few bits.

A descriptor minus the centroid of its cell is cut into parts of about equal dimension, and each part is replaced
by the nearest of a few levels of its own (Jégou et al. 2011; 10 parts of 32 levels, 50 bits, in DELF).

References
----------
Jégou, Douze, Schmid: Product quantization for nearest neighbor search. TPAMI 2011.
Noh, Araujo, Sim, Weyand, Han: Large-scale image retrieval with attentive deep local features. ICCV 2017.
"""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import disk
from delf_engine.index.codebook import Codebook, matrix

__all__ = ["ProductQuantizer"]

_FORMAT = "delf-engine product quantiser"
_VERSION = 1
_MOST_BITS = 64  # of a code
_SAMPLE = 4096  # descriptors for each level that training uses at most


class ProductQuantizer:
    """Levels of each part of the differences between descriptors and the centroids of their cells.

    Parameters
    ----------
    levels : (L, D) float32
        Copied, and read-only afterwards. L is a power of 2, of at least 2 and at most 256.
    parts : int
        M, at most D. Part m has dimensions floor(m D / M) to floor((m + 1) D / M).
    codebook : str
        Hash of the codebook of the cells.

    Raises
    ------
    ConfigError
        If `parts` is out of range, or a code would have more than 64 bits.
    FeatureError
        If levels are no finite matrix of L rows.
    """

    def __init__(self, levels: npt.ArrayLike, parts: int, codebook: str) -> None:
        rows = np.array(matrix("levels", levels), order="C")
        count, dim = rows.shape
        if not 2 <= count <= 256 or count & (count - 1):
            raise FeatureError(f"levels must be 2, 4, 8, ... or 256 rows, got {count}")
        if not 1 <= parts <= dim:
            raise ConfigError(f"parts must be from 1 to the number of dimensions, {dim}; got {parts}")
        self.bits = (count.bit_length() - 1) * parts
        if self.bits > _MOST_BITS:
            raise ConfigError(f"{parts} parts of {count} levels take {self.bits} bits, at most {_MOST_BITS} fit")
        rows.flags.writeable = False
        self.levels: npt.NDArray[np.float32] = rows
        self.parts = parts
        self.codebook = codebook
        digest = hashlib.sha256(f"{_FORMAT} {rows.shape} {parts} {codebook}".encode())
        digest.update(rows.astype("<f4", copy=False).tobytes())
        self.hash: str = digest.hexdigest()
        # As the kernels take them.
        self.bounds: npt.NDArray[np.int64] = np.arange(parts + 1) * dim // parts
        self.columns: npt.NDArray[np.float32] = np.ascontiguousarray(rows.T)
        self.columns.flags.writeable = False

    @classmethod
    def train(
        cls,
        descriptors: npt.ArrayLike,
        codebook: Codebook,
        *,
        parts: int = 10,
        levels: int = 32,
        iterations: int = 20,
        seed: int = 0,
    ) -> ProductQuantizer:
        """Train the levels of each part by k-means. The same descriptors, options and seed give the same levels.

        Parameters
        ----------
        descriptors : (N, D) float32
            Best those that the codebook was trained on. Of more than 4096 a level a random sample is used.
        codebook : Codebook
            Its words are the cells.
        parts : int
        levels : int
            Of each part: 2, 4, 8, ... or 256, at most N.
        iterations : int
            Of k-means.
        seed : int

        Raises
        ------
        ConfigError
            If `parts`, `levels` or `iterations` are out of range.
        FeatureError
            If there are fewer descriptors than levels, or NaN, infinite or huge values among them.
        MismatchError
            If descriptors have another dimension than the codebook.
        """
        if not 2 <= levels <= 256 or levels & (levels - 1):
            raise ConfigError(f"levels must be 2, 4, 8, ... or 256, got {levels}")
        if not 1 <= parts <= codebook.dim:
            raise ConfigError(f"parts must be from 1 to the number of dimensions, {codebook.dim}; got {parts}")
        data = matrix("descriptors", descriptors)
        if len(data) < levels:
            raise FeatureError(f"{levels} levels need at least as many descriptors, got {len(data)}")
        if len(data) > _SAMPLE * levels:
            chosen = np.random.default_rng(seed).permutation(len(data))[: _SAMPLE * levels]
            data = data[np.sort(chosen)]
        left = data - codebook.centroids[codebook.assign(data)[:, 0]]
        bounds = np.arange(parts + 1) * codebook.dim // parts
        found = [
            Codebook.train(np.ascontiguousarray(left[:, a:b]), levels, iterations=iterations, seed=seed).centroids
            for a, b in pairwise(bounds)
        ]
        return cls(np.concatenate(found, axis=1), parts, codebook.hash)

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self.levels.shape[1])

    @property
    def code_bytes(self) -> int:
        """Bytes B of a code."""
        return -(-self.bits // 8)

    def encode(self, vectors: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return the code of each vector: the nearest level of each part, of equally near ones the lowest.

        Parameters
        ----------
        vectors : (N, D) float32
            Descriptors minus the centroids of their cells.

        Returns
        -------
        (N, B) uint8
            M numbers of log2(L) bits, the first in the lowest bits of the first byte.

        Raises
        ------
        FeatureError
            If they are no matrix, or hold NaN, infinite or huge values.
        MismatchError
            If they have another dimension.
        """
        from delf_engine.index import ivf_kernels

        data = matrix("vectors", vectors)
        if data.shape[1] != self.dim:
            raise MismatchError(f"vectors have {data.shape[1]} dimensions, the product quantiser has {self.dim}")
        codes = np.empty((len(data), self.code_bytes), np.uint8)
        ivf_kernels.encode(data, self.columns, self.bounds, codes)
        return codes

    def decode(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the vector that each code stands for, (N, D) float32.

        Raises
        ------
        FeatureError
            If `codes` are not (N, B) uint8.
        """
        if codes.ndim != 2 or codes.shape[1] != self.code_bytes or codes.dtype != np.uint8:
            raise FeatureError(f"codes must be (N, {self.code_bytes}) uint8, got {codes.shape} {codes.dtype}")
        width = self.bits // self.parts
        bits = np.unpackbits(codes, axis=1, bitorder="little")[:, : self.bits]
        weights = 1 << np.arange(width)
        chosen = bits.reshape(len(codes), self.parts, width) @ weights
        part = np.repeat(np.arange(self.parts), np.diff(self.bounds))
        return self.levels[chosen[:, part], np.arange(self.dim)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file.

        Raises
        ------
        FormatError
            If the file cannot be written.
        """
        from safetensors.numpy import save

        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "parts": str(self.parts),
            "codebook": self.codebook,
            "hash": self.hash,
        }
        disk.replace_file(Path(path), save({"levels": self.levels}, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ProductQuantizer:
        """Read a product quantiser.

        Raises
        ------
        FormatError
            If the file is missing, damaged, no product quantiser, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise FormatError(f"{path}: a safetensors file, but not a product quantiser")
                if metadata.get("version") != str(_VERSION):
                    raise FormatError(
                        f"{path}: the product quantiser has format version {metadata.get('version')}, this one "
                        f"reads {_VERSION}"
                    )
                found = cls(file.get_tensor("levels"), int(metadata["parts"]), metadata["codebook"])
        except (SafetensorError, OSError, ValueError, KeyError, FeatureError, ConfigError) as error:
            raise FormatError(f"{path}: cannot be read as a product quantiser: {error}") from error
        if found.hash != metadata.get("hash"):
            raise FormatError(
                f"{path}: the product quantiser is damaged: its hash does not match; restore the file"
            )
        return found

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, ProductQuantizer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"ProductQuantizer({self.parts} parts x {len(self.levels)} levels, {self.dim}-D, {self.hash[:8]})"
