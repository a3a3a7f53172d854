"""`VladIndex`: candidates by vectors of locally aggregated descriptors.

An image is one vector: for each visual word w the sum of the residuals ``x - w`` of the descriptors assigned to
it. The sums are scaled to unit length one by one (``intra``), all components raised to a power with their sign
(``power``), the whole is scaled to unit length, and two images are as similar as the cosine of their vectors.

R-VLAD adds to the sums of an image those of regions of it, before all of this; with ``region_norm = "l2"`` each
at unit length over all words, as in the published code. At the end that code divides by the number of regions, or
scales to unit length: one direction, and so one cosine. Queries are aggregated without regions, and the index is
as large as before.

Published variants, by the options they set in `VladConfig`. All have 1 assignment.

- Jégou et al. 2010: ``intra = false``, ``power = 1``; Jégou et al. 2012: ``intra = false``, ``power = 0.5``.
- Arandjelović and Zisserman 2013: ``intra = true``, ``power = 1``.
- DELF-R-VLAD of D2R: ``intra = false``, ``power = 1``, ``region_norm = "l2"``, with regions of a detector, given
  when images are added.

References
----------
Jégou, Douze, Schmid, Pérez: Aggregating local descriptors into a compact image representation. CVPR 2010.
Jégou, Perronnin, Douze, Sánchez, Pérez, Schmid: Aggregating local image descriptors into compact codes. PAMI 2012.
Arandjelović, Zisserman: All about VLAD. CVPR 2013.
Teichmann, Araujo, Zhu, Sim: Detect-to-Retrieve: Efficient regional aggregation for image search. CVPR 2019 (D2R).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from delf_engine.config import VladConfig
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import Aggregate, aggregated, blocks
from delf_engine.index.codebook import Codebook
from delf_engine.index.dense import DenseIndex, Vector, normalised
from delf_engine.index.vocabulary import RegionalIndex
from delf_engine.regions import Regions
from delf_engine.support.threads import in_threads

__all__ = ["VladIndex"]


class VladIndex(RegionalIndex[Vector, VladConfig], DenseIndex[Codebook, VladConfig]):
    """One vector of W D components an image, of W words and D dimensions.

    Searching reads all vectors: it costs time in proportion to images, words and dimensions.

    Parameters
    ----------
    codebook : Codebook
        A small one (tens or hundreds of words), best trained on other images than those indexed.
    config : VladConfig, optional
        By default that of the ``default`` profile.

    Raises
    ------
    ConfigError
        If the codebook is so large that an image would have more than 262,144 components.
    """

    kind = "vlad"
    _options = VladConfig
    _built_with = tuple(VladConfig.model_fields)

    def __init__(self, codebook: Codebook, config: VladConfig | None = None) -> None:
        self.codebook = codebook
        super().__init__(codebook, config)

    @classmethod
    def _length(cls, vocabulary: Codebook) -> tuple[int, str]:
        return vocabulary.centroids.size, f"{vocabulary.words:,} words of {vocabulary.dim} dimensions"

    def _images(
        self,
        items: Sequence[LocalFeatures],
        threads: int,
        regions: Sequence[Regions | None] | None = None,
    ) -> list[Vector]:
        out: list[Vector] = []
        for block in blocks(items):  # so that no more sums are held than need be
            sums = aggregated(
                self.codebook,
                items[block],
                assignments=self.config.assignments,
                kernel="sum",
                threads=threads,
                regions=None if regions is None else regions[block],
                region_norm=self.config.region_norm,
            )
            out += in_threads(partial(self._vector_of, sums), len(sums), threads)
        return out

    def _vector_of(self, aggregates: Sequence[Aggregate], image: int) -> Vector:
        words, sums = aggregates[image]
        if self.config.intra:
            lengths = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
            sums = sums / np.where(lengths > 0, lengths, 1)
        vector = np.zeros(self.codebook.centroids.shape)
        vector[words] = sums
        return normalised(vector.ravel(), self.config.power)
