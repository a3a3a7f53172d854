"""K-means behind `Codebook.train`: of descriptors that need not fit in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.index.codebook.search import WordSearcher
from delf_engine.support.arrays import LARGEST, check_array
from delf_engine.support.files import system_errors
from delf_engine.support.threads import usable_cores

_ROWS = 65536  # of a block

Matrix: TypeAlias = npt.NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]


def centroids_of(
    descriptors: npt.ArrayLike | Iterable[npt.ArrayLike],
    words: int,
    iterations: int,
    seed: int,
    init: Matrix | None,
    progress: Progress | None,
) -> Matrix:
    """Return the centroids that `Codebook.train` describes, (words, D) float32."""
    from delf_engine.index.codebook.kernels import accumulate

    if words < 1 or iterations < 1:
        raise ConfigError(f"words and iterations must be at least 1, got {words} and {iterations}")
    blocks = Blocks(descriptors)
    if blocks.count < words:
        raise FeatureError(
            f"{words} words need at least as many descriptors, got {blocks.count}; give more photographs, or ask "
            f"for at most {blocks.count} words (a tenth of that is a good choice)"
        )
    if blocks.dim == 0:
        raise FeatureError("descriptors must have at least one dimension")
    if init is None:
        init = blocks.gather(_distinct(blocks.count, words, np.random.default_rng(seed)))
    if init.shape != (words, blocks.dim):
        raise MismatchError(
            f"init has {len(init)} words of {init.shape[1]} dimensions, asked for {words} of {blocks.dim}"
        )
    centroids = init
    for done in range(iterations):
        searcher = WordSearcher(centroids)
        sums, counts = np.zeros(centroids.shape), np.zeros(words, np.int64)
        errors, farthest = np.zeros(words), np.zeros(words)
        rows = np.zeros(centroids.shape, np.float32)
        for block in blocks:
            assigned = searcher.nearest(block, 1, "fast", usable_cores())[:, 0]
            accumulate(block, centroids, assigned, sums, counts, errors, farthest, rows)
        centroids = centroids.copy()
        used = counts > 0
        centroids[used] = sums[used] / counts[used, None]
        # An empty word moves to the descriptor farthest from its own in the word of the largest error, the next
        # one to that of the second largest. Where there is no error left, it stays.
        empty = np.flatnonzero(~used)
        donors = np.argsort(-errors, kind="stable")[: len(empty)]
        donors = donors[errors[donors] > 0]
        centroids[empty[: len(donors)]] = rows[donors]
        if progress is not None:
            progress(done + 1, iterations)
    return centroids


class Blocks:
    """Descriptors as float32 blocks of at most 65,536 rows, read as often as asked.

    A `FeatureError` if an array is no matrix of finite numbers that are not huge, or they differ in dimension; a
    `FormatError` if the temporary file cannot be written.

    Parameters
    ----------
    source : array, or iterable of arrays
        (N, D) each. An iterator can be read only once: its arrays are kept in an unnamed temporary file, as
        float32, for as long as this object lives. A list or tuple is several arrays.

    Attributes
    ----------
    count, dim : int
        Shape of all descriptors together; (0, 0) where there is no array.
    """

    def __init__(self, source: npt.ArrayLike | Iterable[npt.ArrayLike]) -> None:
        self._arrays: Iterable[Any] = [source] if isinstance(source, np.ndarray) else source  # type: ignore[assignment]
        self.count, self.dim = 0, -1
        if isinstance(source, Iterator):
            with system_errors("descriptors cannot be written to a temporary file"):
                self._arrays = [self._spooled()]
        self.count = sum(len(block) for block in self._read())
        self.dim = max(self.dim, 0)

    def __iter__(self) -> Iterator[Matrix]:
        count = 0
        for block in self._read():
            count += len(block)
            yield block
        if count != self.count:
            raise FeatureError(f"descriptors changed between two passes: {self.count}, then {count}")

    def gather(self, rows: npt.NDArray[np.int64]) -> Matrix:
        """Return the descriptors at `rows`, ascending, as (n, D) float32."""
        out = np.empty((len(rows), self.dim), np.float32)
        first = 0
        for block in self:
            begin, end = np.searchsorted(rows, [first, first + len(block)])
            out[begin:end] = block[rows[begin:end] - first]
            first += len(block)
        return out

    def _read(self) -> Iterator[Matrix]:
        for array in self._arrays:
            data = np.atleast_1d(np.asanyarray(array))
            for start in range(0, max(len(data), 1), _ROWS):
                block = check_array(
                    "descriptors", data[start : start + _ROWS], np.float32, (None, None), largest=LARGEST
                )
                if self.dim not in (-1, block.shape[1]):
                    raise FeatureError(f"descriptors have {self.dim} dimensions, then {block.shape[1]}")
                self.dim = block.shape[1]
                yield block

    def _spooled(self) -> Matrix:
        file, count = tempfile.TemporaryFile(), 0  # noqa: SIM115  lives as long as the map of it
        for block in self._read():
            block.tofile(file)
            count += len(block)
        file.flush()
        shape = (count, max(self.dim, 0))
        return np.memmap(file, np.float32, "r", shape=shape) if np.prod(shape) else np.empty(shape, np.float32)


def _distinct(count: int, wanted: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw `wanted` different numbers below `count`, ascending, in memory of their own size."""
    if wanted > count // 2:
        return np.sort(rng.permutation(count)[:wanted])
    rows = np.empty(0, np.int64)
    while len(rows) < wanted:
        rows = np.unique(np.concatenate([rows, rng.integers(count, size=wanted - len(rows))]))
    return rows
