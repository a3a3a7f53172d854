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

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import BowConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import blocks
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import IfDamaged, Segment
from delf_engine.index.encoded import EncodedIndex, saved_options
from delf_engine.index.inverted import InvertedLayout, damaged
from delf_engine.index.threads import in_threads

__all__ = ["BowIndex"]

#: Distinct words of an image, ascending, (w,) int32; and how often it has each, (w, 1) int32.
Bag = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

_BUILT_WITH = ("image_assignments",)  # options that cannot change later


class BowIndex(EncodedIndex[Bag]):
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

    def __init__(self, codebook: Codebook, config: BowConfig | None = None) -> None:
        super().__init__(codebook.dim, InvertedLayout(self.kind, self.version, codebook.words, 1, "<i4"))
        self.codebook = codebook
        self.config = load_profile().bow if config is None else config
        self._weights: _Weights | None = None

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        codebook: Codebook,
        config: BowConfig | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> BowIndex:
        """Open an index that was saved. Its arrays are memory-mapped.

        Parameters
        ----------
        directory : path
        codebook : Codebook
            The one it was built with.
        config : BowConfig, optional
            Options for searching, by default those it was saved with.
        check : bool, optional
            Whether to compare the checksums of all files, not their sizes only. By default where they are
            small (64 MiB).
        damaged : "error" or "skip"
            With "skip" a damaged segment is left out with a `DelfEngineWarning`; the next save deletes it.

        Raises
        ------
        MismatchError
            If it was built with another codebook, or with other options for indexed images than `config` has.
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """

        def make(header: Mapping[str, Any]) -> BowIndex:
            options = (codebook, config, BowConfig, _BUILT_WITH, str(directory))
            return cls(codebook, saved_options(header, "codebook", *options))

        index: BowIndex = cls._opened(directory, make, check, damaged)
        return index

    def __repr__(self) -> str:
        return f"BowIndex({len(self)} images, {self.codebook!r})"

    def _header(self) -> dict[str, Any]:
        return {"codebook": self.codebook.hash, "config": self.config.model_dump(mode="json")}

    def _entries(self, segment: Segment) -> int:
        return len(segment.arrays["image_ids"])

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Bag]:
        return self._bags(items, self.config.image_assignments, threads)

    def _queries(self, items: Sequence[LocalFeatures], threads: int) -> list[Bag]:
        return self._bags(items, self.config.query_assignments, threads)

    def _bags(self, items: Sequence[LocalFeatures], assignments: int, threads: int) -> list[Bag]:
        k = min(assignments, self.codebook.words)
        bags: list[Bag] = []
        for block in blocks(items):
            some = items[block]
            descriptors = np.concatenate([item.descriptors for item in some])
            words = self.codebook.assign(descriptors, k, mode=self.config.assignment)
            parts = np.split(words, np.cumsum([len(item) for item in some])[:-1])
            bags += in_threads(partial(_bag, parts), len(parts), threads)
        return bags

    def _ready(self) -> None:
        segments = self._collection.segments
        state = [(segment, segment.dead) for segment in segments]
        if self._weights is None or self._weights.state != state:
            weights = self._word_weights(segments)
            self._weights = _Weights(state, weights, [_lengths(segment, weights) for segment in segments])

    def _word_weights(self, segments: Sequence[Segment]) -> npt.NDArray[np.float64]:
        from delf_engine.index import kernels

        if not self.config.idf:
            return np.ones(self.codebook.words)
        every, counts = np.arange(self.codebook.words, dtype=np.int32), np.zeros(self.codebook.words, np.int64)
        for segment in segments:
            a = segment.arrays
            if not kernels.count_postings(
                every, a["word_offsets"], a["image_ids"], segment.alive, segment.dead == 0, counts
            ):
                raise damaged(segment)
        return np.log(max(1, len(self)) / np.maximum(counts, 1))

    def _scores(self, queries: Sequence[Bag]) -> list[npt.NDArray[np.float32]]:
        return [self._score(*query) for query in queries]

    def _score(self, words: npt.NDArray[np.int32], counts: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        from delf_engine.index import bow_kernels

        assert self._weights is not None
        weights = self._weights.words
        query = counts[:, 0] * weights[words]
        length = np.sqrt(_in_order(query * query))
        out = []
        for segment, lengths in zip(self._collection.segments, self._weights.lengths, strict=True):
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
