"""`KdTreeIndex`: candidates by nearest neighbours of single descriptors, in KD-trees.

Every query descriptor finds its nearest descriptors in the whole collection, which are gathered by the image
they belong to (Noh et al. 2017).

Burstiness. A repeated structure, such as a row of equal windows, would outvote everything else: its descriptors
find each other, and their number grows with the square of the repetitions. Therefore each image gets of each query
descriptor one vote at most, for its nearest descriptor, which handles repetitions in the image; and each
descriptor of an image gives one at most, to the nearest query descriptor, which handles those in the query.

A vote counts by how far it stands out from the background, which the farthest of the neighbours found stands for::

    score = sum over such pairs of  max(0, cosine) - 0.99 max(0, cosine of the farthest neighbour)

The last hundredth keeps images above 0 that are all equally near.

Neighbours are found by randomised trees, most of them, or by one tree that is searched to the end, all of them.
The latter costs time in proportion to the collection and is for small ones: `KdTreeConfig`.

References
----------
Noh, Araujo, Sim, Weyand, Han: Large-scale image retrieval with attentive deep local features. ICCV 2017.
Muja, Lowe: Fast approximate nearest neighbors with automatic algorithm configuration. VISAPP 2009 (the trees).
Jégou, Douze, Schmid: On the burstiness of visual elements. CVPR 2009 (one vote).
McCann, Lowe: Local naive Bayes nearest neighbor for image classification. CVPR 2012 (the background).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import KdTreeConfig, load_profile
from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.index.base import CandidateIndex
from delf_engine.index.kdtree.exact_tree import ExactTree
from delf_engine.index.kdtree.votes import gathered
from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment, offsets_of, row_counts

_KDTREE = 1  # FLANN_INDEX_KDTREE
_FEW = 8  # times the neighbours asked for


class KdTreeLayout(Layout):
    """The arrays of a segment, of descriptors with `dim` components."""

    dtypes: Mapping[str, tuple[str, int]] = {
        "descriptors": ("<f4", 2),  # (R, D) of all images, one after the other
        "row_offsets": ("<i8", 1),  # (n + 1,) where those of each image begin
    }

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def build(self, payloads: Sequence[npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        return {"descriptors": np.concatenate(payloads), "row_offsets": offsets_of([len(p) for p in payloads])}

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        counts = np.concatenate([row_counts(segment)[segment.alive] for segment in segments])
        offsets = offsets_of(counts)
        allocate("row_offsets", offsets.shape)[...] = offsets
        descriptors, first = allocate("descriptors", (int(offsets[-1]), self._dim)), 0
        for segment in segments:
            rows = segment.arrays["descriptors"][np.repeat(segment.alive, row_counts(segment))]
            descriptors[first : first + len(rows)] = rows
            first += len(rows)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        offsets, descriptors = arrays["row_offsets"], arrays["descriptors"]
        if len(offsets) != images + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != len(descriptors):
            return "row_offsets do not fit the descriptors or the images"
        return None if descriptors.shape[1] == self._dim else f"descriptors do not have {self._dim} dimensions"


class KdTreeIndex(CandidateIndex[npt.NDArray[np.float32], KdTreeConfig]):
    """KD-trees over all descriptors of a collection.

    The trees are built when first searched after a change, over the images that are there: about a second for
    300,000 descriptors. They are held in memory together with the descriptors, and are not written to disk; for
    large collections use `AsmkIndex` or `IvfIndex`.

    Parameters
    ----------
    dim : int
        Descriptor dimension D.
    config : KdTreeConfig, optional
        By default that of the ``default`` profile.
    seed : int
        Seed of the randomised trees.
    """

    kind = "kdtree"

    def __init__(self, dim: int, config: KdTreeConfig | None = None, *, seed: int = 0) -> None:
        if dim < 1:
            raise ConfigError(f"dim must be at least 1, got {dim}")
        super().__init__(dim, KdTreeLayout(dim), None, load_profile().kdtree if config is None else config)
        self.seed = seed
        self._forest: _Forest | None = None

    @classmethod
    def _empty(cls, header: Mapping[str, Any], kind: str, encoder: None, config: KdTreeConfig) -> KdTreeIndex:
        return cls(header["dim"], config, seed=header["seed"])

    def __repr__(self) -> str:
        return f"KdTreeIndex({len(self)} images, {self.dim}-D, {self.config.trees} trees)"

    def _header(self) -> dict[str, Any]:
        return {**super()._header(), "seed": self.seed}

    def _entries(self, segment: Segment) -> int:
        return len(segment.arrays["descriptors"])

    def _changed(self) -> None:
        self._forest = None

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[npt.NDArray[np.float32]]:
        return [item.descriptors for item in items]

    def _queries(
        self, items: Sequence[LocalFeatures], threads: int, session: _Forest | None
    ) -> list[npt.NDArray[np.float32]]:
        return self._images(items, threads)

    def _score(
        self, query: npt.NDArray[np.float32], threads: int, session: _Forest | None
    ) -> npt.NDArray[np.float32]:
        alive = np.concatenate([segment.alive for segment in self._collection.segments])
        scores = np.zeros(len(alive), np.float32)
        if session is not None and len(query):
            rows, squared = session.nearest(query, self.config)
            scores[alive] = gathered(rows, squared, session.images[rows], len(self))
        return scores

    def _session(self) -> _Forest | None:
        """Return the trees over the images that are there, or None if these have no descriptor at all."""
        if self._forest is None:
            self._collection.flush()
            descriptors, images = _live_rows(self._collection.segments, self.dim)
            if len(descriptors):
                self._forest = _Forest(_grown(descriptors, self.config, self.seed), descriptors, images)
        return self._forest


@dataclass(frozen=True)
class _Forest:
    trees: Any  # `ExactTree`, or randomised trees of FLANN
    descriptors: npt.NDArray[np.float32]  # (R, D), which the trees refer to
    images: npt.NDArray[np.int64]  # (R,) of each descriptor, counted among those that are there

    def nearest(
        self, queries: npt.NDArray[np.float32], config: KdTreeConfig
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the rows of the nearest descriptors, (Q, K), and their squared distances."""
        k = min(config.neighbours, len(self.descriptors))
        if isinstance(self.trees, ExactTree):
            return self.trees.nearest(queries, k)
        rows, squared = self.trees.knnSearch(queries, k, params={"checks": config.checks})
        return rows, squared


def _grown(descriptors: npt.NDArray[np.float32], config: KdTreeConfig, seed: int) -> Any:
    import cv2

    # FLANN keeps no more branches in mind than there are descriptors: of few it may not find as many as asked.
    count, least = len(descriptors), {"exact": np.inf, "auto": config.exact_below, "randomised": 0}
    if count < max(_FEW * config.neighbours, least[config.search]):
        return ExactTree(descriptors)
    cv2.setRNGSeed(seed)  # the only way to seed FLANN: the generator of this thread
    return cv2.flann.Index(descriptors, {"algorithm": _KDTREE, "trees": config.trees})


def _live_rows(segments: Sequence[Segment], dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the descriptors of all live images, and for each of them the image, counted among the live ones."""
    parts = [np.empty((0, dim), np.float32)]
    counts = [np.empty(0, np.int64)]
    for segment in segments:
        rows, descriptors = row_counts(segment), segment.arrays["descriptors"]
        parts.append(descriptors[np.repeat(segment.alive, rows)] if segment.dead else descriptors)
        counts.append(rows[segment.alive])
    # The usual case, one segment, is used as it is mapped.
    descriptors = parts[1] if len(parts) == 2 else np.concatenate(parts)
    every = np.concatenate(counts)
    return descriptors, np.repeat(np.arange(len(every)), every)
