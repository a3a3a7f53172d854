"""K-means behind `Codebook.train`: of an array in memory (faiss), or of blocks that need not fit in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, FormatError, MismatchError
from delf_engine.index.codebook.search import Mode, WordSearcher
from delf_engine.support.arrays import LARGEST, check_array
from delf_engine.support.threads import usable_cores

__all__ = ["Blocks", "centroids_of", "in_blocks"]

_ROWS = 65536  # of a block
_SAMPLE = 4  # descriptors for each word that k-means++ chooses from
_STEP = 64  # words chosen between two chances to interrupt

Matrix: TypeAlias = npt.NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]


def in_blocks(descriptors: Any) -> bool:
    """Return whether descriptors are read block by block: a memory map, or arrays one after another."""
    if isinstance(descriptors, (list, tuple)):
        return bool(descriptors) and getattr(descriptors[0], "ndim", 0) == 2
    return isinstance(descriptors, np.memmap) or not (
        np.isscalar(descriptors) or hasattr(descriptors, "__array__") or not isinstance(descriptors, Iterable)
    )


def centroids_of(
    descriptors: npt.ArrayLike | Iterable[npt.ArrayLike],
    words: int,
    iterations: int,
    seed: int,
    init: str | Matrix,
    mode: Mode,
    progress: Progress | None,
) -> Matrix:
    """Return the centroids that `Codebook.train` describes, (words, D) float32."""
    if mode not in ("exact", "fast"):
        raise ConfigError(f'mode must be "exact" or "fast", got {mode!r}')
    if words < 1 or iterations < 1:
        raise ConfigError(f"words and iterations must be at least 1, got {words} and {iterations}")
    if isinstance(init, str) and init not in ("sample", "kmeans++"):
        raise ConfigError(f'init must be "sample", "kmeans++" or a codebook, got {init!r}')
    streamed = in_blocks(descriptors)
    whole = None if streamed else _matrix(descriptors)
    blocks = Blocks([whole] if whole is not None else descriptors)
    if blocks.count < words:
        raise FeatureError(
            f"{words} words need at least as many descriptors, got {blocks.count}; give more photographs, or ask "
            f"for at most {blocks.count} words (a tenth of that is a good choice)"
        )
    if blocks.dim == 0:
        raise FeatureError("descriptors must have at least one dimension")
    start: Matrix | None = None
    if not isinstance(init, str):
        start = init
        if start.shape != (words, blocks.dim):
            raise MismatchError(
                f"init has {len(start)} words of {start.shape[1]} dimensions, asked for {words} of {blocks.dim}"
            )
    elif init == "kmeans++":
        start = _plus_plus(blocks, words, seed)
    if whole is not None and mode == "exact":
        return _whole(whole, words, iterations, seed, start, progress)
    if start is None:
        start = blocks.gather(_distinct(blocks.count, words, np.random.default_rng(seed)))
    return _streamed(blocks, start, iterations, mode, progress)


class Blocks:
    """Descriptors as float32 blocks of at most 65,536 rows, read as often as asked.

    Parameters
    ----------
    source : array, or iterable of arrays
        (N, D) each. An iterator can be read only once: its arrays are kept in an unnamed temporary file, as
        float32, for as long as this object lives.

    Attributes
    ----------
    count, dim : int
        Shape of all descriptors together; (0, 0) where there is no array.

    Raises
    ------
    FeatureError
        If an array is no matrix of finite numbers that are not huge, or they differ in dimension.
    FormatError
        If the temporary file cannot be written.
    """

    def __init__(self, source: Any) -> None:
        self._source = self._spooled(source) if isinstance(source, Iterator) else source
        self.count, self.dim = 0, -1
        count = 0
        for block in self._read():
            count += len(block)
        self.count, self.dim = count, max(self.dim, 0)

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
        for array in [self._source] if isinstance(self._source, np.ndarray) else self._source:
            data = array if isinstance(array, np.ndarray) else _matrix(array)
            for start in range(0, max(len(data), 1) if data.ndim else 1, _ROWS):
                block = _matrix(data[start : start + _ROWS] if data.ndim else data)
                if self.dim not in (-1, block.shape[1]):
                    raise FeatureError(f"descriptors have {self.dim} dimensions, then {block.shape[1]}")
                self.dim = block.shape[1]
                yield block

    def _spooled(self, arrays: Iterator[npt.ArrayLike]) -> Any:
        shape = (0, 0)
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the map of it
            for array in arrays:
                data = _matrix(array)
                if shape[0] and data.shape[1] != shape[1]:
                    raise FeatureError(f"descriptors have {shape[1]} dimensions, then {data.shape[1]}")
                data.tofile(file)
                shape = (shape[0] + len(data), data.shape[1])
            file.flush()
            if not shape[0] * shape[1]:  # nothing to map
                return np.empty(shape, np.float32)
            return np.memmap(file, np.float32, "r", shape=shape)
        except OSError as error:
            raise FormatError(f"descriptors cannot be written to a temporary file: {error}") from error


def _whole(
    data: Matrix, words: int, iterations: int, seed: int, start: Matrix | None, progress: Progress | None
) -> Matrix:
    import faiss

    centroids = start
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


def _streamed(
    blocks: Blocks,
    centroids: Matrix,
    iterations: int,
    mode: Mode,
    progress: Progress | None,
) -> Matrix:
    from delf_engine.index.codebook import training_kernels

    words, dim = centroids.shape
    for done in range(iterations):
        searcher = WordSearcher(centroids)
        sums, counts = np.zeros((words, dim)), np.zeros(words, np.int64)
        errors, farthest = np.zeros(words), np.zeros(words)
        rows = np.zeros((words, dim), np.float32)
        for block in blocks:
            assigned = searcher.nearest(block, 1, mode, usable_cores())[:, 0]
            training_kernels.accumulate(block, centroids, assigned, sums, counts, errors, farthest, rows)
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


def _plus_plus(blocks: Blocks, words: int, seed: int) -> Matrix:
    from delf_engine.index.codebook import training_kernels

    rng = np.random.default_rng(seed)
    sample = blocks.gather(_distinct(blocks.count, min(blocks.count, _SAMPLE * words), rng))
    draws, chosen = rng.random(words), np.empty(words, np.int64)
    nearest = np.zeros(len(sample), np.float32)
    for begin in range(0, words, _STEP):
        training_kernels.choose_apart(sample, draws[begin : begin + _STEP], begin, chosen, nearest)
    return sample[chosen]


def _distinct(count: int, wanted: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw `wanted` different numbers below `count`, ascending, in memory of their own size."""
    if wanted > count // 2:
        return np.sort(rng.permutation(count)[:wanted])
    rows = np.empty(0, np.int64)
    while len(rows) < wanted:
        rows = np.unique(np.concatenate([rows, rng.integers(count, size=wanted - len(rows))]))
    return rows


def _matrix(descriptors: Any) -> Matrix:
    return check_array("descriptors", descriptors, np.float32, (None, None), largest=LARGEST)
