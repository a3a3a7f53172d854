"""`IvfIndex`: candidates by nearest neighbours of single descriptors, for collections that do not fit in memory.

Two levels (Noh et al. 2017). The words of a codebook divide descriptors into cells, and each query descriptor is
compared with the descriptors in the few cells nearest to it. There it finds its nearest neighbours, which vote for
their images as in `KdTreeIndex`: one vote at most of each query descriptor for each image, and of each descriptor
of an image for the query, which is how repeated structures are kept from outvoting the rest.

A descriptor takes D + 4 bytes: its components in units of 1 / 127, each off by at most 1 / 254, and its number.
With ``codec = "pq"`` cells are scanned by codes of product quantisation, which take 7 bytes more (10 parts of 32
levels) and a sixth of the reading, and only the best of these are compared by their D bytes. Arrays are
memory-mapped, and cells lie in one piece: a search reads what it visits. The paper also divides large cells by
KD-trees with quantisers of their own, which is not done here.

References
----------
Noh, Araujo, Sim, Weyand, Han: Large-scale image retrieval with attentive deep local features. ICCV 2017.
Sivic, Zisserman: Video Google: A text retrieval approach to object matching in videos. ICCV 2003 (the cells).
Jégou, Douze, Schmid: Product quantization for nearest neighbor search. TPAMI 2011 (IVFADC, the codes).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import IvfConfig, load_profile
from delf_engine.errors import ConfigError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import Collection, IfDamaged
from delf_engine.index.contract import Found, IndexInfo, Progress, check_batch, check_queries, check_query
from delf_engine.index.ivf_layout import KIND, VERSION, IvfLayout, Rows, as_bytes, saved_config, saved_layout
from delf_engine.index.ivf_search import Searcher
from delf_engine.index.limits import Limits
from delf_engine.index.maintenance import Maintained
from delf_engine.index.product_quantizer import ProductQuantizer
from delf_engine.index.threads import check_threads, in_threads
from delf_engine.index.votes import gathered

__all__ = ["IvfIndex"]

_BLOCK = 65536  # descriptors indexed at a time
_QUERIES = 64  # assigned to cells at a time,
_VISITS = 1 << 24  # or as many as have so many cells to visit


class IvfIndex(Maintained):
    """An inverted file of single descriptors.

    Searching costs time in proportion to the descriptors in the visited cells. Where a collection is so small that
    these would hold fewer than four times the neighbours asked for, more cells are visited.

    Parameters
    ----------
    codebook : Codebook
        Its words are the cells. Best trained on other images than those indexed.
    config : IvfConfig, optional
        By default that of the ``default`` profile.
    quantizer : ProductQuantizer, optional
        Needed for ``codec = "pq"``, trained for this codebook.

    Raises
    ------
    ConfigError
        If there is a product quantiser without need, or none where one is needed.
    MismatchError
        If it was trained for another codebook.
    """

    def __init__(
        self, codebook: Codebook, config: IvfConfig | None = None, quantizer: ProductQuantizer | None = None
    ) -> None:
        self.codebook = codebook
        self.config = load_profile().ivf if config is None else config
        self.quantizer = quantizer
        if (self.config.codec == "pq") != (quantizer is not None):
            needed = "needs a product quantiser: train one" if quantizer is None else "takes no product quantiser"
            raise ConfigError(f"codec = {self.config.codec!r} {needed}")
        if quantizer is not None and quantizer.codebook != codebook.hash:
            raise MismatchError(
                f"the product quantiser was trained for codebook {quantizer.codebook[:8]}, not for "
                f"{codebook.hash[:8]}; train one for this"
            )
        self._layout = IvfLayout(codebook.words, codebook.dim, 0 if quantizer is None else quantizer.code_bytes)
        self._collection = Collection(self._layout)

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self.codebook.dim

    def add(self, ids: Sequence[str], features: Sequence[LocalFeatures]) -> list[str]:
        """Add images. They are found at once, and on disk after the next `save`.

        Until then they are held in memory: save now and then while adding many.

        Parameters
        ----------
        ids : sequence of str
        features : sequence of LocalFeatures
            One for each id.

        Returns
        -------
        list of str
            The ids that were new. One that is there already, or occurs twice, is left alone.

        Raises
        ------
        ConfigError
            If lengths differ or an id is empty or not a string.
        MismatchError
            If descriptors have another dimension than the codebook.
        """
        batch = check_batch(ids, features, self.dim)
        new = {image_id: item for image_id, item in batch.items() if image_id not in self}
        rows = self._rows([item.descriptors for item in new.values()])
        self._collection.add(dict(zip(new, rows, strict=True)))
        return list(new)

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images. They are found no more at once, and gone from disk after segments are merged.

        Raises
        ------
        UnknownIdError
            If one is not in the index; none is removed then.
        """
        self._collection.remove(ids)

    def search(
        self,
        features: LocalFeatures,
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
    ) -> Found:
        """Return the images most similar to a query, by all usable cores.

        Options leave out images and change no score: these are those of the whole collection.

        Parameters
        ----------
        features : LocalFeatures
            Of the query.
        top_k : int
            Images returned at most. Only images with a score above 0 are.
        among : iterable of str or None
            Return these images only; None: any.
        exclude : iterable of str
            Leave these images out, such as the query itself. Ids that are not in the index are ignored.
        min_score : float or None
            Leave out images with a lower score.

        Returns
        -------
        ids : list of str
            Best first, ties in the order of insertion.
        scores : (K,) float32

        Raises
        ------
        ConfigError
            If `top_k` is below 1, or `min_score` not a finite number.
        UnknownIdError
            If an id of `among` is not in the index.
        MismatchError
            If descriptors have another dimension than the codebook.
        FormatError
            If a memory-mapped segment turns out to be damaged.
        """
        top_k = check_query(features, top_k, self.dim)
        limits = Limits.of(self._collection, among, exclude, min_score)
        searcher = self._searcher()
        cells = searcher.cells(features.descriptors) if len(features) and searcher.descriptors else None
        return self._found(searcher, features, cells, top_k, limits, check_threads(None))

    def search_many(
        self,
        queries: Iterable[LocalFeatures],
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> list[Found]:
        """Search with many queries at once.

        Parameters
        ----------
        queries : iterable of LocalFeatures
        top_k, among, exclude, min_score
            As in `search`, for every query. Ids are looked up once.
        threads : int or None
            None: one a usable core.
        progress : callable or None
            Called with (queries done, queries), in the calling thread.

        Returns
        -------
        list of (ids, scores)
            What `search` returns for each query: the same bits with any number of threads.

        Raises
        ------
        ConfigError
            If `threads` is below 1. Otherwise as `search`; nothing is searched if one query does not fit.
        """
        several, top_k = check_queries(queries, top_k, self.dim)
        threads = check_threads(threads)
        limits = Limits.of(self._collection, among, exclude, min_score)
        searcher = self._searcher()
        out: list[Found] = []
        for start, part in _batches(several, searcher.probes):
            cells: list[npt.NDArray[np.int32] | None] = [None] * len(part)
            if searcher.descriptors:
                every = searcher.cells(np.concatenate([item.descriptors for item in part]))
                cells = list(np.split(every, np.cumsum([len(item) for item in part])[:-1]))

            def one(i: int, part: Any = part, cells: Any = cells) -> Found:
                return self._found(searcher, part[i], cells[i], top_k, limits, 1)

            def report(done: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + done, len(several))

            out += in_threads(one, len(part), threads, report)
        return out

    def __len__(self) -> int:
        return len(self._collection)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._collection

    def ids(self) -> list[str]:
        """Return the ids of all images, in the order of insertion."""
        return list(self._collection)

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        self._collection.flush()
        segments = self._collection.segments
        return IndexInfo(
            kind=KIND,
            images=len(self),
            removed=sum(segment.dead for segment in segments),
            entries=sum(len(segment.arrays["rows"]) for segment in segments),
            bytes=sum(array.nbytes for segment in segments for array in segment.arrays.values()),
            segments=len(segments),
            dim=self.dim,
        )

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write what is new since the last save into `directory`; codebook and quantiser are not written.

        Parameters
        ----------
        directory : path
            Made if need be.
        overwrite : bool
            Replace another index that is there.

        Raises
        ------
        MismatchError
            If `directory` holds another index and `overwrite` is not set.
        LockedError
            If another process is saving to it, or has since this index was loaded.
        FormatError
            If it cannot be written. What was saved before is still there.
        """
        header = {
            "dim": self.dim,
            "words": self.codebook.words,
            "codebook": self.codebook.hash,
            "quantizer": None if self.quantizer is None else self.quantizer.hash,
            "config": self.config.model_dump(mode="json"),
        }
        self._collection.save(directory, header, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        codebook: Codebook,
        config: IvfConfig | None = None,
        quantizer: ProductQuantizer | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> IvfIndex:
        """Open an index that was saved. Its arrays are memory-mapped: this takes milliseconds at any size.

        Parameters
        ----------
        directory : path
        codebook : Codebook
            The one it was built with.
        config : IvfConfig, optional
            Options for searching, by default those it was saved with.
        quantizer : ProductQuantizer, optional
            The one it was built with, if any.
        check : bool, optional
            Whether to compare the checksums of all files, not their sizes only. By default where they are
            small (64 MiB).
        damaged : "error" or "skip"
            With "skip" a damaged segment is left out with a `DelfEngineWarning`; the next save deletes it.

        Raises
        ------
        ConfigError
            If a product quantiser is given to an index without one.
        MismatchError
            If it was built with another codebook, product quantiser or codec.
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """

        def layout(header: Mapping[str, Any]) -> IvfLayout:
            return saved_layout(header, codebook, quantizer, str(directory))

        collection = Collection.load(directory, layout, KIND, VERSION, check=check, damaged=damaged)
        index = cls(codebook, saved_config(collection.header, config, str(directory)), quantizer)
        index._collection = collection
        return index

    def __repr__(self) -> str:
        return f"IvfIndex({len(self)} images, {self.codebook!r}, {self.config.codec})"

    def _rows(self, images: Sequence[npt.NDArray[np.float32]]) -> list[Rows]:
        out: list[Rows] = []
        first = size = 0
        for i, image in enumerate(images):
            size += len(image)
            if size >= _BLOCK or i + 1 == len(images):
                out += self._block(images[first : i + 1])
                first, size = i + 1, 0
        return out

    def _block(self, images: Sequence[npt.NDArray[np.float32]]) -> list[Rows]:
        descriptors = np.concatenate(images)
        cells = self.codebook.assign(descriptors, mode=self.config.assignment)[:, 0]
        codes = np.empty((len(cells), 0), np.uint8)
        if self.quantizer is not None:
            codes = self.quantizer.encode(descriptors - self.codebook.centroids[cells])
        bounds = np.cumsum([len(image) for image in images])[:-1]
        split = [np.split(array, bounds) for array in (cells, as_bytes(descriptors), codes)]
        return [Rows(*arrays) for arrays in zip(*split, strict=True)]

    def _searcher(self) -> Searcher:
        return Searcher(self._collection.segments, self.codebook, self.quantizer, self.config)

    def _found(
        self,
        searcher: Searcher,
        features: LocalFeatures,
        cells: npt.NDArray[np.int32] | None,
        top_k: int,
        limits: Limits,
        threads: int,
    ) -> Found:
        if cells is None or not len(features):
            return [], np.empty(0, np.float32)
        rows, squared, images = searcher.nearest(features.descriptors, cells, threads)
        scores = gathered(rows, squared, images, searcher.images)
        found = limits.best(scores, top_k)
        return [self._collection.name_of(int(row)) for row in found], scores[found]


def _batches(queries: Sequence[LocalFeatures], probes: int) -> Iterator[tuple[int, Sequence[LocalFeatures]]]:
    """Yield runs of queries with the number of the first."""
    first = size = 0
    for i, query in enumerate(queries):
        size += len(query) * probes
        if i + 1 == len(queries) or i + 1 - first == _QUERIES or size >= _VISITS:
            yield first, queries[first : i + 1]
            first, size = i + 1, 0
