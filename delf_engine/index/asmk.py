"""`AsmkIndex`: candidates by the aggregated selective match kernel.

An image is the set of its visual words, each with the summed residuals of the descriptors assigned to it: their
signs, or the sums at unit length. Two images are as similar as the words they share agree::

    score = sum over shared words w of  idf(w) sigma(s)  / sqrt(words of the query * words of the image)
    s = 1 - 2 h / D,  or the cosine of the two sums
    sigma(s) = sign(s) |s|^alpha  where s >= threshold, else 0

with h the Hamming distance of the two codes over their D bits. idf is 1, or ln(N / n_w)^2 with N images of which
n_w have the word; the norms count words in either case, as the published code does.

Regional aggregation (R-ASMK) adds to the sums of an image those of regions of it, word by word, before signs are
taken or lengths divided out. What lies in regions then decides more of each code, and the index is as large as
before. Queries are aggregated without regions.

Published variants, by the options they set in `AsmkConfig`. All have alpha 3, threshold 0, no idf, and a codebook
of 65,536 words, trained in 10 iterations of k-means (D2R: 50).

- jenicek/asmk, HOW, FIRe: 1 assignment for images and 5 for queries, ``kernel = "binary"``,
  ``divisor = "padded"``.
- DELF-ASMK* of D2R: 1 and 1 assignments, ``kernel = "binary"``, ``strict_threshold = true``. DELF-ASMK: the same
  with ``kernel = "float"``.
- DELF-R-ASMK* of D2R: as ASMK*, with regions of a detector, given when images are added. The released code scales
  the sums of each region, ``region_norm = "l2"``. It divides by the number of regions, which changes no sign and
  no direction and is not done here; and it drops words whose sum is shorter than 1e-6, which are kept here.

References
----------
Tolias, Avrithis, Jégou: Image search with selective match kernels: aggregation across single and multiple images.
IJCV 2016. Inverted file and constants: reference implementation of Jenicek (2020).
Teichmann, Araujo, Zhu, Sim: Detect-to-Retrieve: Efficient regional aggregation for image search. CVPR 2019 (D2R).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import Aggregate, aggregated
from delf_engine.index.asmk_layout import KIND, VERSION, AsmkLayout, score_segment
from delf_engine.index.codebook import Codebook
from delf_engine.index.inverted import damaged
from delf_engine.index.vocabulary import RegionalIndex
from delf_engine.regions import Regions

__all__ = ["AsmkIndex"]


class AsmkIndex(RegionalIndex[Aggregate, AsmkConfig]):
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

    kind = KIND
    version = VERSION
    _entries = "image_ids"
    _options = AsmkConfig
    _built_with = ("image_assignments", "kernel", "regions", "region_norm")

    def __init__(self, codebook: Codebook, config: AsmkConfig | None = None) -> None:
        self.codebook = codebook
        super().__init__(codebook, config)

    @classmethod
    def _layout(cls, vocabulary: Codebook, config: AsmkConfig) -> AsmkLayout:
        return AsmkLayout(vocabulary.words, vocabulary.dim, config.kernel)

    def _header(self) -> dict[str, Any]:
        return {
            "words": self.codebook.words,
            "codebook": self.codebook.hash,
            "config": self.config.model_dump(mode="json", exclude_defaults=True),  # what older versions know
        }

    def _images(
        self,
        items: Sequence[LocalFeatures],
        threads: int,
        regions: Sequence[Regions | None] | None = None,
    ) -> list[Aggregate]:
        return self._aggregates(items, self.config.image_assignments, threads, regions)

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: None = None) -> list[Aggregate]:
        return self._aggregates(items, self.config.query_assignments, threads)

    def _aggregates(
        self,
        items: Sequence[LocalFeatures],
        assignments: int,
        threads: int,
        regions: Sequence[Regions | None] | None = None,
    ) -> list[Aggregate]:
        return aggregated(
            self.codebook,
            items,
            assignments=assignments,
            mode=self.config.assignment,
            kernel=self.config.kernel,
            threads=threads,
            regions=regions,
            region_norm=self.config.region_norm,
        )

    def _scores(
        self, queries: Sequence[Aggregate], threads: int, session: None = None
    ) -> list[npt.NDArray[np.float32]]:
        return [self._score(query, threads) for query in queries]

    def _score(self, query: Aggregate, threads: int) -> npt.NDArray[np.float32]:
        words, segments = query[0], self._collection.segments
        if not len(words):  # nothing to divide by
            return np.zeros(sum(len(segment.ids) for segment in segments), np.float32)
        weights = self._idf(words) if self.config.idf else np.ones(len(words))
        scores = [score_segment(segment, query, weights, self.config, self.dim, threads) for segment in segments]
        return np.concatenate(scores)

    def _idf(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        from delf_engine.index import kernels

        counts = np.zeros(len(words), np.int64)
        for segment in self._collection.segments:
            a = segment.arrays
            postings = (a["word_offsets"], a["image_ids"], segment.alive, segment.dead == 0)
            if not kernels.count_postings(words, *postings, counts):
                raise damaged(segment)
        return np.log(len(self) / np.maximum(counts, 1)) ** 2
