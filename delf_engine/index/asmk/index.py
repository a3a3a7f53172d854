"""`AsmkIndex`: candidates by the aggregated selective match kernel, binarised (ASMK*).

An image is the set of its visual words, each with the signs of the summed residuals of the descriptors assigned to
it. Two images are as similar as the words they share agree::

    score = sum over shared words w of  idf(w) sigma(1 - 2 h / D)  / sqrt(words of the query * words of the image)
    sigma(s) = sign(s) |s|^alpha  where s >= threshold, else 0

with h the Hamming distance of the two codes over their D bits. idf is 1, or ln(N / n_w)^2 with N images of which
n_w have the word; the norms count words in either case, as the published code does.

Regional aggregation (R-ASMK) adds to the sums of an image those of regions of it, word by word, before signs are
taken. What lies in regions then decides more of each code, and the index is as large as before. Queries are
aggregated without regions.

Published variants, by the options they set in `AsmkConfig`. All have alpha 3, threshold 0, no idf, and a codebook
of 65,536 words, trained in 10 iterations of k-means (D2R: 50).

- jenicek/asmk, HOW, FIRe: 1 assignment for images and 5 for queries, ``divisor = "padded"``.
- DELF-ASMK* of D2R: 1 and 1 assignments; there a similarity at the threshold itself scores nothing.
- DELF-R-ASMK* of D2R: as ASMK*, with regions of a detector, and the sums of each region at unit length. Here
  ``regions = "grid"`` takes those of R-MAC, and descriptors count alike in all of them.

References
----------
Tolias, Avrithis, Jégou: Image search with selective match kernels: aggregation across single and multiple images.
IJCV 2016. Inverted file and constants: reference implementation of Jenicek (2020).
Teichmann, Araujo, Zhu, Sim: Detect-to-Retrieve: Efficient regional aggregation for image search. CVPR 2019 (D2R).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.asmk.aggregation import Aggregate, aggregated, code_length
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.contract import Frequencies
from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment, offsets_of
from delf_engine.support.threads import in_threads

_LEAST_PART = 32768  # rows that are worth a thread


class InvertedLayout(Layout):
    """The arrays of a segment, for W `words` and codes of `length` 64-bit numbers, L."""

    def __init__(self, words: int, length: int) -> None:
        self._words, self._length = words, length
        self.dtypes: Mapping[str, tuple[str, int]] = {
            "word_offsets": ("<i8", 1),  # (W + 1,) where the postings of each word begin
            "image_ids": ("<i4", 1),  # (P,) row of each posting's image, ascending within a word
            "codes": ("<u8", 2),  # (P, L) the code of the word
            "word_counts": ("<i4", 1),  # (n,) words of each image
        }

    def build(self, payloads: Sequence[Aggregate]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        counts = np.array([len(words) for words, _ in payloads], "<i4")
        words = np.concatenate([words for words, _ in payloads])
        order = np.argsort(words, kind="stable")
        return {
            "word_offsets": offsets_of(np.bincount(words, minlength=self._words)),
            "image_ids": np.repeat(np.arange(len(payloads), dtype="<i4"), counts)[order],
            "codes": np.concatenate([codes for _, codes in payloads])[order],
            "word_counts": counts,
        }

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        from delf_engine.index.asmk import kernels

        counts = _count_images(segments, np.arange(self._words, dtype=np.int32), checked=True)
        offsets = offsets_of(counts)
        allocate("word_offsets", offsets.shape)[...] = offsets
        ids, codes = allocate("image_ids", (offsets[-1],)), allocate("codes", (offsets[-1], self._length))
        cursor, first = offsets[:-1].copy(), 0
        for segment in segments:
            a = segment.arrays
            rows = np.where(segment.alive, first + np.cumsum(segment.alive) - 1, -1).astype(np.int32)
            postings = (a["word_offsets"], a["image_ids"], a["codes"])
            kernels.copy_postings(*postings, rows, cursor, np.asarray(ids), np.asarray(codes))
            first += segment.live
        word_counts = [segment.arrays["word_counts"][segment.alive] for segment in segments]
        allocate("word_counts", (first,))[...] = np.concatenate(word_counts)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        offsets, postings = arrays["word_offsets"], len(arrays["image_ids"])
        if len(offsets) != self._words + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != postings:
            return "word_offsets do not fit the postings or the codebook"
        if arrays["codes"].shape != (postings, self._length):
            return f"codes have shape {arrays['codes'].shape}, wanted {(postings, self._length)}"
        return None if len(arrays["word_counts"]) == images else "word_counts do not fit the images"


class AsmkIndex(CandidateIndex[Aggregate, AsmkConfig]):
    """An inverted file of aggregated residuals.

    Searching costs time in proportion to the postings of the query's words. Images without a feature are held,
    and never found.

    Parameters
    ----------
    codebook : Codebook
        Best trained on other images than those indexed.
    config : AsmkConfig, optional
        By default that of the ``default`` profile.
    """

    kind = "asmk"
    _fixed = ("image_assignments", "regions")

    def __init__(self, codebook: Codebook, config: AsmkConfig | None = None) -> None:
        self.codebook = codebook
        layout = InvertedLayout(codebook.words, code_length(codebook.dim))
        super().__init__(codebook.dim, layout, codebook, load_profile().asmk if config is None else config)

    def __repr__(self) -> str:
        return f"AsmkIndex({len(self)} images, {self.codebook!r})"

    def _entries(self, segment: Segment) -> int:
        return len(segment.arrays["image_ids"])

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Aggregate]:
        config = self.config
        options = (config.image_assignments, config.assignment, config.regions)
        return aggregated(self.codebook, items, *options, threads=threads)

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: None = None) -> list[Aggregate]:
        config = self.config
        return aggregated(self.codebook, items, config.query_assignments, config.assignment, threads=threads)

    def _score(self, query: Aggregate, threads: int, session: None = None) -> npt.NDArray[np.float32]:
        words, segments = query[0], self._collection.segments
        if not len(words):  # nothing to divide by
            return np.zeros(sum(len(segment.ids) for segment in segments), np.float32)
        weights, rule = np.ones(len(words)), selectivity(self.dim, self.config)
        if self.config.idf:
            images, having = self.frequencies or (len(self), None)
            counts = _count_images(segments, words) if having is None else having[words]
            weights = np.log(images / np.maximum(counts, 1)) ** 2
        return np.concatenate([score_segment(segment, query, weights, rule, threads) for segment in segments])

    def word_frequencies(self) -> Frequencies | None:
        """See `CandidateIndex.word_frequencies`."""
        if not self.config.idf:
            return None
        self._collection.flush()
        every = np.arange(self.codebook.words, dtype=np.int32)
        return len(self), _count_images(self._collection.segments, every)


def score_segment(
    segment: Segment,
    query: Aggregate,
    weights: npt.NDArray[np.float64],
    rule: npt.NDArray[np.float64],
    threads: int = 1,
) -> npt.NDArray[np.float32]:
    """Return the similarity of a query to each image, (n,) float32; 0 for those that were removed.

    `query` has at least one word, `weights` are (w,) float64, and `rule`, (D + 1,) float64, is what a word scores
    by Hamming distance: `selectivity`. Raises `FormatError` if the segment turns out to be damaged.
    """
    from delf_engine.index.asmk import kernels

    a, count = segment.arrays, len(segment.ids)
    sums, out = np.zeros(count), np.empty(count, np.float32)
    words, signs = query
    parts = max(1, min(threads, count // _LEAST_PART))
    bounds = np.linspace(0, count, parts + 1).astype(np.int64)

    def score(part: int) -> None:
        first, last = int(bounds[part]), int(bounds[part + 1])
        postings = (a["word_offsets"], a["image_ids"], a["codes"], sums)
        if not kernels.score_signs(first, last, words, signs, weights, rule, *postings):
            raise segment.damaged("postings")
        rows = slice(first, last)
        kernels.normalise(sums[rows], len(words), a["word_counts"][rows], segment.alive[rows], out[rows])

    in_threads(score, parts, threads)
    return out


def _count_images(
    segments: Sequence[Segment], words: npt.NDArray[np.int32], *, checked: bool = False
) -> npt.NDArray[np.int64]:
    """Return how many live images have each of some words, (M,) int64.

    If `checked`, the postings of segments without a removed image are read, too, where the offsets alone would
    tell. Raises `FormatError` if they turn out to be damaged.
    """
    from delf_engine.index.asmk import kernels

    counts = np.zeros(len(words), np.int64)
    for segment in segments:
        a, whole = segment.arrays, segment.dead == 0 and not checked
        if not kernels.count_postings(words, a["word_offsets"], a["image_ids"], segment.alive, whole, counts):
            raise segment.damaged("postings")
    return counts


def selectivity(dim: int, config: AsmkConfig) -> npt.NDArray[np.float64]:
    """Return sigma(1 - 2 h / D), (D + 1,) float64, for each Hamming distance h."""
    divisor = dim if config.divisor == "bits" else 32 * -(-dim // 32)
    similarity = 1 - 2 * np.arange(dim + 1) / divisor
    above = similarity >= config.threshold
    return np.where(above, np.sign(similarity) * np.abs(similarity) ** config.alpha, 0.0)
