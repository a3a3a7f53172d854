"""`BowIndex`: candidates by bags of visual words.

An image is the vector of how often it has each visual word, weighted by how rare the word is; two images are as
similar as the cosine of the two vectors::

    v_w = n_w,image * idf_w        idf_w = ln(N / N_w)

with N images in the index, of which N_w have the word. The published term frequency also divides by the number
of words of the image, which a cosine does not see. A word that no image has weighs as much as one that a single
image has, and counts in the length of the query. A word that all images have weighs nothing: an index of a single
image finds nothing unless ``idf`` is switched off.

References
----------
Sivic, Zisserman: Video Google: A text retrieval approach to object matching in videos. ICCV 2003.
Philbin, Chum, Isard, Sivic, Zisserman: Lost in quantization: Improving particular object retrieval in large scale
image databases. CVPR 2008 (several words a descriptor; here they all count as one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from delf_engine.config import BowConfig
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import blocks, by_image
from delf_engine.index.codebook import Codebook
from delf_engine.index.segments import Segment
from delf_engine.index.inverted import InvertedLayout, count_images, damaged
from delf_engine.index.vocabulary import VocabularyIndex
from delf_engine.support.threads import in_threads

__all__ = ["BowIndex"]

#: Distinct words of an image, ascending, (w,) int32; and how often it has each, (w, 1) int32.
Bag = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


class BowIndex(VocabularyIndex[Bag, Codebook, BowConfig]):
    """An inverted file of word counts, searched by tf-idf.

    Searching costs time in proportion to the postings of the query's words. The weights and the lengths of all
    images are those of the images that are there: the first search after a change computes them anew, in time in
    proportion to all postings.

    Parameters
    ----------
    codebook : Codebook
        Best trained on other images than those indexed.
    config : BowConfig, optional
        By default that of the ``default`` profile.
    """

    kind = "bow"
    _entries = "image_ids"
    _options = BowConfig
    _built_with = ("image_assignments",)

    def __init__(self, codebook: Codebook, config: BowConfig | None = None) -> None:
        self.codebook = codebook
        self._weights: _Weights | None = None
        super().__init__(codebook, config)

    @classmethod
    def _layout(cls, vocabulary: Codebook, config: BowConfig) -> InvertedLayout:
        return InvertedLayout(vocabulary.words, 1, "<i4")

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Bag]:
        return self._bags(items, self.config.image_assignments, threads)

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: _Weights) -> list[Bag]:
        return self._bags(items, self.config.query_assignments, threads)

    def _bags(self, items: Sequence[LocalFeatures], assignments: int, threads: int) -> list[Bag]:
        k = min(assignments, self.codebook.words)
        bags: list[Bag] = []
        for block in blocks(items):
            some = items[block]
            descriptors = np.concatenate([item.descriptors for item in some])
            words = self.codebook.assign(descriptors, k, mode=self.config.assignment, threads=threads)
            parts = by_image(words, some)
            bags += in_threads(partial(_bag, parts), len(parts), threads)
        return bags

    def _session(self) -> _Weights:
        segments = self._collection.segments
        state = [(segment, segment.dead) for segment in segments]
        if self._weights is None or self._weights.state != state:
            weights = self._word_weights(segments)
            self._weights = _Weights(state, weights, [_lengths(segment, weights) for segment in segments])
        return self._weights

    def _word_weights(self, segments: Sequence[Segment]) -> npt.NDArray[np.float64]:
        if not self.config.idf:
            return np.ones(self.codebook.words)
        counts = count_images(segments, np.arange(self.codebook.words, dtype=np.int32))
        return np.log(max(1, len(self)) / np.maximum(counts, 1))

    def _scores(self, queries: Sequence[Bag], threads: int, session: _Weights) -> list[npt.NDArray[np.float32]]:
        return [self._score(*query, session) for query in queries]

    def _score(
        self, words: npt.NDArray[np.int32], counts: npt.NDArray[np.int32], session: _Weights
    ) -> npt.NDArray[np.float32]:
        from delf_engine.index import bow_kernels

        weights = session.words
        query = counts[:, 0] * weights[words]
        length = np.sqrt(_in_order(query * query))
        out = []
        for segment, lengths in zip(self._collection.segments, session.lengths, strict=True):
            a = segment.arrays
            scores = np.zeros(len(segment.ids))
            postings = (a["word_offsets"], a["image_ids"], a["codes"], scores)
            if not bow_kernels.score_counts(words, query, weights, *postings):
                raise damaged(segment)
            divisor = length * lengths
            scores /= np.where(divisor > 0, divisor, 1)
            scores[~segment.alive] = 0
            out.append(scores.astype(np.float32))
        return np.concatenate(out)


@dataclass(frozen=True)
class _Weights:
    """What depends on the living images: valid for these segments with so many dead rows each."""

    state: list[tuple[Segment, int]]
    words: npt.NDArray[np.float64]  # (W,)
    lengths: list[npt.NDArray[np.float64]]  # (n,) for each segment


def _bag(words: Sequence[npt.NDArray[np.int32]], image: int) -> Bag:
    distinct, counts = np.unique(words[image], return_counts=True)
    return distinct.astype(np.int32), counts.astype(np.int32)[:, None]


def _lengths(segment: Segment, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    from delf_engine.index import bow_kernels

    squares, a = np.zeros(len(segment.ids)), segment.arrays
    if not bow_kernels.add_squares(weights, a["word_offsets"], a["image_ids"], a["codes"], squares):
        raise damaged(segment)
    return np.sqrt(squares)


def _in_order(values: npt.NDArray[np.float64]) -> float:
    """Add from the first to the last, as the kernels do: an image and itself as a query have one length."""
    return float(np.cumsum(values)[-1]) if len(values) else 0.0
