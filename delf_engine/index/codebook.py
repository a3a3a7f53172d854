"""`Codebook`: the visual words of an ASMK, BoW or VLAD index, trained by k-means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index import assignment, tensors
from delf_engine.support.threads import check_threads

__all__ = ["Codebook", "matrix"]

_WHAT = "codebook"
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
        rows = np.array(matrix("centroids", centroids), order="C")
        if not rows.size:
            raise FeatureError(f"a codebook needs at least one centroid of one dimension, got {rows.shape}")
        rows.flags.writeable = False
        self.centroids: npt.NDArray[np.float32] = rows
        self.hash: str = tensors.content_hash(_WHAT, rows)
        self._searcher: Any = None
        self._fast: assignment.CellSearcher | None = None

    @classmethod
    def train(
        cls,
        descriptors: npt.ArrayLike | Iterable[npt.ArrayLike],
        words: int,
        *,
        iterations: int = 10,
        seed: int = 0,
        half: bool = False,
        init: Literal["sample", "kmeans++"] | Codebook = "sample",
        mode: Literal["exact", "fast"] = "exact",
        progress: Callable[[int, int], None] | None = None,
    ) -> Codebook:
        """Train a codebook by k-means. The same descriptors, options and seed give the same words.

        An array is clustered in memory by faiss. A `numpy.memmap`, or arrays one after another, are read block by
        block in every iteration, so that memory holds the words and 65,536 descriptors; the words are then other
        ones than of the same descriptors in one array, and the same bits however they are cut into arrays. Either
        way they do not depend on the number of threads.

        Training can be interrupted at any time and leaves nothing behind. To keep what there is, train one
        iteration at a time with the codebook so far as `init`: this gives the same words as all at once.

        Parameters
        ----------
        descriptors : (N, D) float16 or float32, or iterable of such arrays
            All are used: draw a sample beforehand where there are too many. An iterator is read once and kept in
            a temporary file (4 N D bytes); any other iterable is read in every iteration.
        words : int
            Centroids W, at most N. A cluster that runs empty is given a part of a large one.
        iterations : int
            Of k-means (10 in the published ASMK code).
        seed : int
            Of the first choice of centroids.
        half : bool
            Round the centroids to half precision, so that `save` needs half the space.
        init : {"sample", "kmeans++"} or Codebook
            First centroids: random descriptors; or random ones far from each other (Arthur, Vassilvitskii 2007),
            chosen from a random sample of 4 W descriptors in time that grows with the square of W; or those given.
        mode : {"exact", "fast"}
            How descriptors find their words in each iteration, see `assign`. With ``fast``, arrays are read block
            by block as well; the time of an iteration then grows with about the root of W instead of W.
        progress : callable, optional
            Called with (iterations done, iterations) after each.

        Raises
        ------
        ConfigError
            If `words` or `iterations` is below 1, or `init` or `mode` is none of these.
        FeatureError
            If there are fewer descriptors than words, or NaN, infinite or huge values among them.
        FormatError
            If the temporary file cannot be written.
        MismatchError
            If the codebook to begin with has other words or dimensions.
        """
        from delf_engine.index import codebook_training

        found = codebook_training.centroids_of(descriptors, words, iterations, seed, init, mode, progress)
        return cls(_rounded(found, half))

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

    def assign(
        self,
        descriptors: npt.ArrayLike,
        k: int = 1,
        *,
        mode: Literal["exact", "fast"] = "exact",
        threads: int | None = None,
    ) -> npt.NDArray[np.int32]:
        """Return the `k` nearest words of each descriptor, nearest first, of equally near ones the lowest first.

        In either mode a descriptor's words do not depend on what else is in the batch, or on the number of
        threads. Times and recall of both are printed by ``benchmarks/index/codebook_assignment.py``.

        Parameters
        ----------
        descriptors : (N, D) float32
        k : int
            At most W.
        mode : {"exact", "fast"}
            ``exact``: the nearest in float64, found by a flat scan. ``fast``: those in the cells of words that are
            nearest, most of the time the same (see `delf_engine.index.assignment.CellSearcher`); always the same
            below 2,048 words, above 1,024 dimensions and where `k` is more than a 64th of W.
        threads : int or None
            None: one a usable core.

        Returns
        -------
        (N, k) int32

        Raises
        ------
        ConfigError
            If `k` is out of range, `mode` is neither of the two, or `threads` is below 1.
        FeatureError
            If the descriptors are no matrix, or hold NaN, infinite or huge values.
        MismatchError
            If their dimension is another than the codebook's.
        """
        if not 1 <= k <= self.words:
            raise ConfigError(f"k must be from 1 to the number of words, {self.words}; got {k}")
        if mode not in ("exact", "fast"):
            raise ConfigError(f'mode must be "exact" or "fast", got {mode!r}')
        data = matrix("descriptors", descriptors)
        if data.shape[1] != self.dim:
            raise MismatchError(f"descriptors have {data.shape[1]} dimensions, the codebook has {self.dim}")
        threads = check_threads(threads)
        nearest = (
            self._nearest_fast
            if mode == "fast" and assignment.CellSearcher.pays(self.words, self.dim, k)
            else self._nearest
        )
        out = np.empty((len(data), k), np.int32)
        for start in range(0, len(data), _BLOCK):
            nearest(data[start : start + _BLOCK], out[start : start + _BLOCK], threads)
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, in half precision where that loses nothing.

        Raises
        ------
        FormatError
            If the file cannot be written.
        """
        with np.errstate(over="ignore"):
            half = self.centroids.astype(np.float16)
        lossless = np.array_equal(half.astype(np.float32), self.centroids)
        metadata = {"words": str(self.words), "dim": str(self.dim), "hash": self.hash}
        tensors.write_tensors(path, _WHAT, {"centroids": half if lossless else self.centroids}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codebook:
        """Read a codebook.

        Raises
        ------
        FormatError
            If the file is missing, damaged, not a codebook, or of another version.
        """
        (centroids,), metadata = tensors.read_tensors(path, _WHAT, ("centroids",))
        try:
            codebook = cls(centroids)
        except FeatureError as error:
            raise FormatError(f"{path}: cannot be read as a codebook: {error}") from error
        if codebook.hash != metadata.get("hash"):
            raise FormatError(f"{path}: the codebook is damaged: its hash does not match; restore the file")
        return codebook

    def _nearest(self, data: npt.NDArray[np.float32], out: npt.NDArray[np.int32], threads: int) -> None:
        import faiss

        from delf_engine.index import kernels

        if self._searcher is None:
            searcher = faiss.IndexFlatL2(self.dim)
            searcher.add(self.centroids)
            self._searcher = searcher  # complete: another thread may look at it
        # faiss rounds differently with the size of the batch. It proposes a few words more than are asked
        # for, and float64 decides; rows where a word left out could still be one of the nearest are rare.
        count = min(self.words, out.shape[1] + _MARGIN)
        proposed = assignment.flat_search(self._searcher, data, count, threads)
        if count == self.words:
            tolerance = np.full(len(data), -1.0)
        else:  # of |x|^2 + |c|^2 - 2 x.c in float32, for two words
            largest = _squared_norms(self.centroids).max()
            tolerance = 8 * (self.dim + 4) * 2.0**-24 * (_squared_norms(data) + largest)
        kernels.nearest_words(data, self.centroids, proposed.astype(np.int32), tolerance, out)

    def _nearest_fast(self, data: npt.NDArray[np.float32], out: npt.NDArray[np.int32], threads: int) -> None:
        if self._fast is None:
            self._fast = assignment.CellSearcher(self.centroids)
        found = self._fast.search(data, out, threads)
        if not found.all():
            rest = np.empty((int((~found).sum()), out.shape[1]), np.int32)
            self._nearest(data[~found], rest, threads)
            out[~found] = rest

    def __eq__(self, other: object) -> bool:
        return self.hash == other.hash if isinstance(other, Codebook) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hash)

    def __reduce__(self) -> tuple[type[Codebook], tuple[npt.NDArray[np.float32]]]:
        return Codebook, (self.centroids,)  # the searchers do not travel to other processes

    def __repr__(self) -> str:
        return f"Codebook({self.words} words x {self.dim}-D, {self.hash[:8]})"


def matrix(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return `values` as a C-contiguous (N, D) float32 matrix, copied only where need be.

    Raises
    ------
    FeatureError
        If they are no matrix of numbers, or hold NaN, infinite or huge values; `name` is told.
    """
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
