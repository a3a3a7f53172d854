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
- DELF-ASMK* of D2R: 1 and 1 assignments, ``kernel = "binary"``; there a similarity at the threshold itself scores
  nothing. DELF-ASMK: the same with ``kernel = "float"``.
- DELF-R-ASMK* of D2R: as ASMK*, with regions of a detector, and the sums of each region at unit length. Here
  ``regions = "grid"`` takes those of R-MAC, and descriptors count alike in all of them.

References
----------
Tolias, Avrithis, Jégou: Image search with selective match kernels: aggregation across single and multiple images.
IJCV 2016. Inverted file and constants: reference implementation of Jenicek (2020).
Teichmann, Araujo, Zhu, Sim: Detect-to-Retrieve: Efficient regional aggregation for image search. CVPR 2019 (D2R).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import Aggregate, aggregated
from delf_engine.index.asmk_layout import KIND, VERSION, AsmkLayout, score_segment
from delf_engine.index.base import BaseIndex, saved_options
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import IfDamaged
from delf_engine.index.inverted import damaged as damaged_postings

__all__ = ["AsmkIndex"]


class AsmkIndex(BaseIndex[Aggregate]):
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

    def __init__(self, codebook: Codebook, config: AsmkConfig | None = None) -> None:
        self.codebook = codebook
        self.config = load_profile().asmk if config is None else config
        super().__init__(codebook.dim, AsmkLayout(codebook.words, codebook.dim, self.config.kernel))

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        codebook: Codebook,
        config: AsmkConfig | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> AsmkIndex:
        """Open an index that was saved. Its arrays are memory-mapped: this takes milliseconds at any size.

        Parameters
        ----------
        directory : path
        codebook : Codebook
            The one it was built with.
        config : AsmkConfig, optional
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

        def make(header: Mapping[str, Any]) -> AsmkIndex:
            given = (codebook, config, AsmkConfig, ("image_assignments", "kernel", "regions"), str(directory))
            return cls(codebook, saved_options(header, "codebook", *given))

        return cls._opened(directory, make, check, damaged)

    def __repr__(self) -> str:
        return f"AsmkIndex({len(self)} images, {self.codebook!r})"

    def _header(self) -> dict[str, Any]:
        return {
            "words": self.codebook.words,
            "codebook": self.codebook.hash,
            "config": self.config.model_dump(mode="json"),
        }

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Aggregate]:
        return self._aggregates(items, self.config.image_assignments, threads, self.config.regions)

    def _queries(self, items: Sequence[LocalFeatures], threads: int, session: None = None) -> list[Aggregate]:
        return self._aggregates(items, self.config.query_assignments, threads, None)

    def _aggregates(
        self, items: Sequence[LocalFeatures], assignments: int, threads: int, regions: Literal["grid"] | None
    ) -> list[Aggregate]:
        return aggregated(
            self.codebook,
            items,
            assignments=assignments,
            kernel=self.config.kernel,
            threads=threads,
            mode=self.config.assignment,
            regions=regions,
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
                raise damaged_postings(segment)
        return np.log(len(self) / np.maximum(counts, 1)) ** 2
