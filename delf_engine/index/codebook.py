"""`Codebook`: the visual words of an ASMK index, trained by k-means."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import disk

__all__ = ["Codebook"]

_FORMAT = "delf-engine codebook"
_VERSION = 1
_LARGEST = 1e15  # squared distances of larger values leave the range of float32
_MARGIN = 4  # candidates beyond the k asked for, see `_nearest`
_BLOCK = 8192


class Codebook:
    """Visual words: centroids that descriptors are assigned to.

    Parameters
    ----------
    centroids : (W, D) float32
        Copied, and read-only afterwards.

    Raises
    ------
    FeatureError
        If they are not a finite matrix with at least one row and one column.
    """

    def __init__(self, centroids: npt.ArrayLike) -> None:
        matrix = np.array(_matrix("centroids", centroids), order="C")
        if not matrix.size:
            raise FeatureError(f"a codebook needs at least one centroid of one dimension, got {matrix.shape}")
        matrix.flags.writeable = False
        self.centroids: npt.NDArray[np.float32] = matrix
        digest = hashlib.sha256(f"{_FORMAT} {matrix.shape}".encode())
        digest.update(matrix.astype("<f4", copy=False).tobytes())
        self.hash: str = digest.hexdigest()
        self._searcher: Any = None

    @classmethod
    def train(
        cls,
        descriptors: npt.ArrayLike,
        words: int,
        *,
        iterations: int = 10,
        seed: int = 0,
        half: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Codebook:
        """Train a codebook by k-means (faiss). The same descriptors, options and seed give the same words.

        Parameters
        ----------
        descriptors : (N, D) float32
            All are used: draw a sample beforehand where there are too many.
        words : int
            Centroids W, at most N. A cluster that runs empty is given a part of a large one.
        iterations : int
            Of k-means (10 in the published ASMK code).
        seed : int
            Of the first choice of centroids.
        half : bool
            Round the centroids to half precision, so that `save` needs half the space.
        progress : callable, optional
            Called with (iterations done, iterations) after each.

        Raises
        ------
        ConfigError
            If `words` or `iterations` is below 1.
        FeatureError
            If there are fewer descriptors than words, or NaN, infinite or huge values among them.
        """
        if words < 1 or iterations < 1:
            raise ConfigError(f"words and iterations must be at least 1, got {words} and {iterations}")
        data = _matrix("descriptors", descriptors)
        if len(data) < words:
            raise FeatureError(
                f"{words} words need at least as many descriptors, got {len(data)}; give more photographs, or ask "
                f"for at most {len(data)} words (a tenth of that is a good choice)"
            )
        if data.shape[1] == 0:
            raise FeatureError("descriptors must have at least one dimension")
        return cls(_rounded(_kmeans(data, words, iterations, seed, progress), half))

    def to_half(self) -> Codebook:
        """Return the codebook with its centroids rounded to half precision; the hash changes with them."""
        return Codebook(_rounded(self.centroids, True))

    @property
    def words(self) -> int:
        """Number of visual words W."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self.centroids.shape[1])

    def assign(self, descriptors: npt.ArrayLike, k: int = 1) -> npt.NDArray[np.int32]:
        """Return the `k` nearest words of each descriptor, nearest first, of equally near ones the lowest first.

        Exact in float64, so that a descriptor's words do not depend on what else is in the batch.

        Parameters
        ----------
        descriptors : (N, D) float32
        k : int
            At most W.

        Returns
        -------
        (N, k) int32

        Raises
        ------
        ConfigError
            If `k` is out of range.
        FeatureError
            If the descriptors are no matrix, or hold NaN, infinite or huge values.
        MismatchError
            If their dimension is another than the codebook's.
        """
        if not 1 <= k <= self.words:
            raise ConfigError(f"k must be from 1 to the number of words, {self.words}; got {k}")
        data = _matrix("descriptors", descriptors)
        if data.shape[1] != self.dim:
            raise MismatchError(f"descriptors have {data.shape[1]} dimensions, the codebook has {self.dim}")
        out = np.empty((len(data), k), np.int32)
        for start in range(0, len(data), _BLOCK):
            self._nearest(data[start : start + _BLOCK], out[start : start + _BLOCK])
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, in half precision where that loses nothing.

        Raises
        ------
        FormatError
            If the file cannot be written.
        """
        from safetensors.numpy import save

        with np.errstate(over="ignore"):
            half = self.centroids.astype(np.float16)
        lossless = np.array_equal(half.astype(np.float32), self.centroids)
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "words": str(self.words),
            "dim": str(self.dim),
            "hash": self.hash,
        }
        disk.replace_file(Path(path), save({"centroids": half if lossless else self.centroids}, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codebook:
        """Read a codebook.

        Raises
        ------
        FormatError
            If the file is missing, damaged, not a codebook, or of another version.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise FormatError(f"{path}: a safetensors file, but not a codebook")
                if metadata.get("version") != str(_VERSION):
                    raise FormatError(
                        f"{path}: the codebook has format version {metadata.get('version')}, this version reads "
                        f"{_VERSION}"
                    )
                codebook = cls(file.get_tensor("centroids"))
        except (SafetensorError, OSError, ValueError, FeatureError) as error:
            raise FormatError(f"{path}: cannot be read as a codebook: {error}") from error
        if codebook.hash != metadata.get("hash"):
            raise FormatError(f"{path}: the codebook is damaged: its hash does not match; restore the file")
        return codebook

    def _nearest(self, data: npt.NDArray[np.float32], out: npt.NDArray[np.int32]) -> None:
        import faiss

        from delf_engine.index import kernels

        if self._searcher is None:
            searcher = faiss.IndexFlatL2(self.dim)
            searcher.add(self.centroids)
            self._searcher = searcher  # complete: another thread may look at it
        # faiss rounds differently with the size of the batch. It proposes a few words more than are asked
        # for, and float64 decides; rows where a word left out could still be one of the nearest are rare.
        count = min(self.words, out.shape[1] + _MARGIN)
        _, proposed = self._searcher.search(data, count)
        if count == self.words:
            tolerance = np.full(len(data), -1.0)
        else:  # of |x|^2 + |c|^2 - 2 x.c in float32, for two words
            largest = _squared_norms(self.centroids).max()
            tolerance = 8 * (self.dim + 4) * 2.0**-24 * (_squared_norms(data) + largest)
        kernels.nearest_words(data, self.centroids, proposed.astype(np.int32), tolerance, out)

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Codebook) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    def __reduce__(self) -> tuple[type[Codebook], tuple[npt.NDArray[np.float32]]]:
        return Codebook, (self.centroids,)  # the faiss searcher does not travel to other processes

    def __repr__(self) -> str:
        return f"Codebook({self.words} words x {self.dim}-D, {self.hash[:8]})"


def _matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):  # becomes inf and is refused as such
            data = np.ascontiguousarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise FeatureError(f"{name} must be a matrix of numbers: {error}") from error
    if data.ndim != 2:
        raise FeatureError(f"{name} must have shape (N, D), got {data.shape}")
    if not np.isfinite(data).all():
        raise FeatureError(f"{name} contain NaN or infinite values")
    if data.size and max(data.max(), -data.min()) > _LARGEST:
        raise FeatureError(f"{name} contain values beyond {_LARGEST:g}, too large for distances in float32")
    return data


def _squared_norms(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.einsum("nd,nd->n", matrix, matrix, dtype=np.float64)


def _rounded(centroids: npt.NDArray[np.float32], half: bool) -> npt.NDArray[np.float32]:
    if not half:
        return centroids
    with np.errstate(over="ignore"):  # becomes inf and is refused as such
        return centroids.astype(np.float16).astype(np.float32)


def _kmeans(
    data: npt.NDArray[np.float32],
    words: int,
    iterations: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> npt.NDArray[np.float32]:
    import faiss

    centroids = None
    for done in range(iterations):  # one at a time, so that the caller hears of each
        kmeans = faiss.Kmeans(
            data.shape[1],
            words,
            niter=1,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=-(-len(data) // words),  # no sampling of its own
        )
        kmeans.train(data, init_centroids=centroids)
        centroids = np.array(kmeans.centroids, np.float32)
        if progress is not None:
            progress(done + 1, iterations)
    assert centroids is not None
    return centroids
