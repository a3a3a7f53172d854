"""`Codebook`: the visual words of an ASMK, BoW or VLAD index, trained by k-means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.index.codebook import training
from delf_engine.index.codebook.encoder import Encoder
from delf_engine.index.codebook.search import WordSearcher
from delf_engine.support.arrays import LARGEST, check_array
from delf_engine.support.threads import check_threads


class Codebook(Encoder):
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

    _what = "codebook"
    _names = ("centroids",)

    def __init__(self, centroids: npt.ArrayLike) -> None:
        rows = check_array("centroids", centroids, np.float32, (None, None), largest=LARGEST).copy()
        if not rows.size:
            raise FeatureError(f"a codebook needs at least one centroid of one dimension, got {rows.shape}")
        self.centroids: npt.NDArray[np.float32] = rows
        self._seal(rows)
        self._searcher = WordSearcher(rows)

    @classmethod
    def train(
        cls,
        descriptors: npt.ArrayLike | Iterable[npt.ArrayLike],
        words: int,
        *,
        iterations: int = 10,
        seed: int = 0,
        half: bool = False,
        init: Codebook | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Codebook:
        """Train a codebook by k-means. The same descriptors, options and seed give the same words.

        Descriptors are read block by block in every iteration, so that memory holds the words and 65,536 of them,
        and find their words by the fast assignment, see `assign`: an iteration takes time in proportion to about
        the root of W. Words are the same bits however descriptors are cut into arrays, with any number of threads.

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
            Iterations of k-means (10 in the published ASMK code).
        seed : int
            Seed of the choice of descriptors that are the first centroids.
        half : bool
            Round the centroids to half precision, so that `save` needs half the space.
        init : Codebook or None
            The first centroids; None: random descriptors.
        progress : callable, optional
            Called with (iterations done, iterations) after each.

        Raises
        ------
        ConfigError
            If `words` or `iterations` is below 1.
        FeatureError
            If there are fewer descriptors than words, or NaN, infinite or huge values among them.
        FormatError
            If the temporary file cannot be written.
        MismatchError
            If the codebook to begin with has other words or dimensions.
        """
        start = None if init is None else init.centroids
        return cls(_rounded(training.centroids_of(descriptors, words, iterations, seed, start, progress), half))

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

    def use(self, device: str | None) -> None:
        """Let a torch device ("cuda") find words, the same ones, in this process from here on; None: the CPU.

        It leaves to the CPU descriptors of which float32 cannot tell, and more than 8 words of each. A
        `ConfigError` if there is no such device.
        """
        from delf_engine.model.device import choose_device

        self._searcher.device = ("", 0) if device is None else (str(choose_device(device)), os.getpid())

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
            nearest, most of the time the same (see `delf_engine.index.codebook.search.CellSearcher`); always the
            same below 2,048 words, above 1,024 dimensions and where `k` is more than a 64th of W.
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
        data = check_array("descriptors", descriptors, np.float32, (None, None), largest=LARGEST)
        if data.shape[1] != self.dim:
            raise MismatchError(f"descriptors have {data.shape[1]} dimensions, the codebook has {self.dim}")
        return self._searcher.nearest(data, k, mode, check_threads(threads))

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the centroids, in half precision where that loses nothing."""
        with np.errstate(over="ignore"):
            half = self.centroids.astype(np.float16)
        lossless = np.array_equal(half.astype(np.float32), self.centroids)
        return {"centroids": half if lossless else self.centroids}

    def __reduce__(self) -> tuple[type[Codebook], tuple[npt.NDArray[np.float32]]]:
        return Codebook, (self.centroids,)  # the searcher does not travel to other processes

    def __repr__(self) -> str:
        return f"Codebook({self.words} words x {self.dim}-D, {self.hash[:8]})"


def _rounded(centroids: npt.NDArray[np.float32], half: bool) -> npt.NDArray[np.float32]:
    if not half:
        return centroids
    with np.errstate(over="ignore"):  # becomes inf and is refused as such
        return centroids.astype(np.float16).astype(np.float32)
