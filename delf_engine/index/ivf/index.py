"""`IvfIndex`: candidates by nearest neighbours of single descriptors, for collections that do not fit in memory.

Two levels (Noh et al. 2017). The words of a codebook divide descriptors into cells, and each query descriptor is
compared with the descriptors in the few cells nearest to it. There it finds its nearest neighbours, which vote for
their images as in `KdTreeIndex`: one vote at most of each query descriptor for each image, and of each descriptor
of an image for the query, which is how repeated structures are kept from outvoting the rest.

Cells are inverted lists of faiss, mapped from disk: a search reads what it visits. A descriptor takes 8 bytes for
its number and D for its components (``codec = "uint8"``), or D / 4 (``codec = "pq"``). The paper also divides
large cells by KD-trees with quantisers of their own, which is not done here.

References
----------
Noh, Araujo, Sim, Weyand, Han: Large-scale image retrieval with attentive deep local features. ICCV 2017.
Sivic, Zisserman: Video Google: A text retrieval approach to object matching in videos. ICCV 2003 (the cells).
Jégou, Douze, Schmid: Product quantization for nearest neighbor search. TPAMI 2011 (IVFADC, the codes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.config import IvfConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.asmk.aggregation import blocks, by_image
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.ivf.layout import Codec, IvfLayout, Rows
from delf_engine.index.ivf.search import SegmentSearcher, nearest
from delf_engine.index.kdtree.votes import gathered
from delf_engine.index.segments.segment import Segment

#: The descriptors of a query, (N, D), and the cells that each visits, (N, P); P = 0 where there is nothing.
Query: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
Session: TypeAlias = list[SegmentSearcher]

_MOST_PROBES = 1024  # that a small collection is given
_EXPECTED = 4  # times the neighbours wanted, how many descriptors the visited cells should hold


class IvfIndex(CandidateIndex[Query, IvfConfig]):
    """An inverted file of single descriptors.

    Searching costs time in proportion to the descriptors in the visited cells. Where a collection is so small that
    these would hold fewer than four times the neighbours asked for, more cells are visited.

    Parameters
    ----------
    codebook : Codebook
        Its words are the cells. Best trained on other images than those indexed.
    config : IvfConfig, optional
        By default that of the ``default`` profile.

    Raises
    ------
    ConfigError
        If the codec is "pq" and the codebook has fewer than 256 words.
    """

    kind = "ivf"
    _fixed = ("codec",)
    _ready = 8  # each has up to a thousand cells for each of its descriptors

    def __init__(self, codebook: Codebook, config: IvfConfig | None = None) -> None:
        self.codebook = codebook
        config = load_profile().ivf if config is None else config
        self._codec = Codec(config.codec, codebook.centroids)
        self._layout = IvfLayout(codebook.words, self._codec)
        self._searchers: dict[Segment, SegmentSearcher] = {}
        super().__init__(codebook.dim, self._layout, codebook, config)

    def __repr__(self) -> str:
        return f"IvfIndex({len(self)} images, {self.codebook!r}, {self.config.codec})"

    def _entries(self, segment: Segment) -> int:
        return int(segment.arrays["row_offsets"][-1])

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Rows]:
        out: list[Rows] = []
        codec = self._known_codec()
        for block in blocks(items):
            some = items[block]
            descriptors = np.concatenate([item.descriptors for item in some])
            mode = self.config.assignment
            cells = self.codebook.assign(descriptors, mode=mode, threads=threads)[:, 0]
            out += zip(by_image(cells, some), by_image(codec.encode(descriptors), some), strict=True)
        return out

    def _session(self) -> Session:
        before, self._searchers, codec = self._searchers, {}, self._known_codec()
        for segment in self._collection.segments:
            searcher = before.get(segment)
            if searcher is None or searcher.dead != segment.dead:
                searcher = SegmentSearcher(segment, self._layout.lists(segment), codec)
            self._searchers[segment] = searcher
        return list(self._searchers.values())

    def _known_codec(self) -> Codec:
        """Return the codec, with the levels of product quantisation that the segments were made with."""
        if self._codec.levels is None and self._collection.segments:
            self._codec.levels = self._collection.segments[0].arrays.get("levels")
        return self._codec

    def _probes(self, session: Session) -> int:
        """Return how many cells each query descriptor visits.

        More than are configured, up to 1,024, where a collection is so small that they would hold too few
        descriptors.
        """
        words, wanted = self.codebook.words, _EXPECTED * self.config.neighbours
        needed = -(-words * wanted // max(sum(searcher.descriptors for searcher in session), 1))
        return min(words, max(self.config.probes, min(needed, _MOST_PROBES)))

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: Session) -> list[Query]:
        descriptors = np.concatenate([item.descriptors for item in items])
        cells = np.empty((len(descriptors), 0), np.int32)
        if any(searcher.descriptors for searcher in session):
            cells = self.codebook.assign(
                descriptors, self._probes(session), mode=self.config.assignment, threads=threads
            )
        return [(item.descriptors, part) for item, part in zip(items, by_image(cells, items), strict=True)]

    def _score(self, query: Query, threads: int, session: Session) -> npt.NDArray[np.float32]:
        (descriptors, cells), images = query, sum(searcher.images for searcher in session)
        if not cells.size:
            return np.zeros(images, np.float32)
        asked, count = self._codec.scaled(descriptors), self.config.neighbours
        rows, squared, owners = nearest(session, asked, cells, count, threads)
        return gathered(rows, squared * self._codec.unit**2, owners, images)
