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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import IvfConfig, load_profile
from delf_engine.errors import ConfigError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import blocks, by_image
from delf_engine.index.base import BaseIndex, saved_options
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import IfDamaged
from delf_engine.index.ivf_layout import KIND, VERSION, IvfLayout, Rows, as_bytes, check_quantizer
from delf_engine.index.ivf_search import Searcher
from delf_engine.index.product_quantizer import ProductQuantizer
from delf_engine.index.votes import gathered

__all__ = ["IvfIndex"]

#: The descriptors of a query, (N, D), and the cells that each visits, (N, P); P = 0 where there is nothing.
Query = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]

_VISITS = 1 << 24  # of cells: queries are assigned to no more at a time


class IvfIndex(BaseIndex[Query]):
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

    kind = KIND
    version = VERSION
    _entries = "rows"

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
        code_bytes = 0 if quantizer is None else quantizer.code_bytes
        super().__init__(codebook.dim, IvfLayout(codebook.words, codebook.dim, code_bytes))

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

        def make(header: Mapping[str, Any]) -> IvfIndex:
            where = str(directory)
            options = saved_options(header, "codebook", codebook, config, IvfConfig, ("codec",), where)
            check_quantizer(header, quantizer, where)
            return cls(codebook, options, quantizer)

        return cls._opened(directory, make, check, damaged)

    def __repr__(self) -> str:
        return f"IvfIndex({len(self)} images, {self.codebook!r}, {self.config.codec})"

    def _header(self) -> dict[str, Any]:
        return {
            "words": self.codebook.words,
            "codebook": self.codebook.hash,
            "quantizer": None if self.quantizer is None else self.quantizer.hash,
            "config": self.config.model_dump(mode="json"),
        }

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Rows]:
        out: list[Rows] = []
        for block in blocks(items):
            some = items[block]
            descriptors = np.concatenate([item.descriptors for item in some])
            cells = self.codebook.assign(descriptors, mode=self.config.assignment, threads=threads)[:, 0]
            codes = np.empty((len(cells), 0), np.uint8)
            if self.quantizer is not None:
                codes = self.quantizer.encode(descriptors - self.codebook.centroids[cells])
            split = [by_image(array, some) for array in (cells, as_bytes(descriptors), codes)]
            out += [Rows(*arrays) for arrays in zip(*split, strict=True)]
        return out

    def _session(self) -> Searcher:
        return Searcher(self._collection.segments, self.codebook, self.quantizer, self.config)

    def _batches(self, queries: Sequence[LocalFeatures], session: Searcher) -> Iterator[slice]:
        first = size = 0
        probes = session.probes
        for i, query in enumerate(queries):
            size += len(query) * probes
            if i + 1 == len(queries) or i + 1 - first == self._ready or size >= _VISITS:
                yield slice(first, i + 1)
                first, size = i + 1, 0

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: Searcher) -> list[Query]:
        descriptors = np.concatenate([item.descriptors for item in items])
        cells = np.empty((len(descriptors), 0), np.int32)
        if session.descriptors:
            cells = session.cells(descriptors, threads)
        return [(item.descriptors, part) for item, part in zip(items, by_image(cells, items), strict=True)]

    def _scores(self, queries: Sequence[Query], threads: int, session: Searcher) -> list[npt.NDArray[np.float32]]:
        out = []
        for descriptors, cells in queries:
            if cells.size:
                out.append(gathered(*session.nearest(descriptors, cells, threads), session.images))
            else:
                out.append(np.zeros(session.images, np.float32))
        return out
