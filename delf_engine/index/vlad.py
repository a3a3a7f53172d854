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

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import VladConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import Aggregate, aggregated, blocks, check_regions
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import IfDamaged
from delf_engine.index.contract import check_batch
from delf_engine.index.dense import DenseIndex, normalised
from delf_engine.index.encoded import saved_options
from delf_engine.index.threads import check_threads, in_threads
from delf_engine.regions import Regions, rigid_grid

__all__ = ["VladIndex"]


class VladIndex(DenseIndex):
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

    def __init__(self, codebook: Codebook, config: VladConfig | None = None) -> None:
        self.codebook = codebook
        self.config = load_profile().vlad if config is None else config
        what = f"{codebook.words:,} words of {codebook.dim} dimensions"
        super().__init__(codebook.dim, codebook.centroids.size, self.config.precision, what)

    def add(
        self,
        ids: Sequence[str],
        features: Sequence[LocalFeatures],
        regions: Sequence[Regions | None] | None = None,
        *,
        threads: int | None = None,
    ) -> list[str]:
        """Add images. They are found at once, and on disk after the next `save`.

        Parameters
        ----------
        ids : sequence of str
        features : sequence of LocalFeatures
            One for each id.
        regions : sequence of Regions or None, optional
            One for each id, None for an image by itself. Not given at all: as the options say, by default none.
            They are not kept: an index that is built again needs them again.
        threads : int or None
            That encode; the index is the same with any number. None: one a usable core.

        Returns
        -------
        list of str
            The ids that were new. One that is there already, or occurs twice, is left alone.

        Raises
        ------
        ConfigError
            If lengths differ, an id is empty or not a string, or `threads` is below 1.
        FeatureError
            If regions are no `Regions`, or name descriptors that their image does not have.
        MismatchError
            If descriptors have another dimension than the codebook.
        """
        threads = check_threads(threads)
        ids, features = list(ids) if not isinstance(ids, str) else ids, list(features)
        batch = check_batch(ids, features, self.dim)
        places = None if regions is None else check_regions(ids, features, regions)
        new = [image_id for image_id in batch if image_id not in self]
        items = [batch[image_id] for image_id in new]
        chosen = self._grids(items) if places is None else [places[image_id] for image_id in new]
        vectors = self._encoded(items, chosen, threads)
        stored = [vector.astype(self._stored) for vector in vectors]
        self._collection.add(dict(zip(new, stored, strict=True)))
        return new

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        codebook: Codebook,
        config: VladConfig | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> VladIndex:
        """Open an index that was saved. Its arrays are memory-mapped.

        Parameters
        ----------
        directory : path
        codebook : Codebook
            The one it was built with.
        config : VladConfig, optional
            By default that which it was saved with.
        check : bool, optional
            Whether to compare the checksums of all files, not their sizes only. By default where they are
            small (64 MiB).
        damaged : "error" or "skip"
            With "skip" a damaged segment is left out with a `DelfEngineWarning`; the next save deletes it.

        Raises
        ------
        MismatchError
            If it was built with another codebook, or with other options than `config`.
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """

        def make(header: Mapping[str, Any]) -> VladIndex:
            options = (codebook, config, VladConfig, VladConfig.model_fields, str(directory))
            return cls(codebook, saved_options(header, "codebook", *options))

        index: VladIndex = cls._opened(directory, make, check, damaged)
        return index

    def __repr__(self) -> str:
        return f"VladIndex({len(self)} images, {self.codebook!r})"

    def _header(self) -> dict[str, Any]:
        return {"codebook": self.codebook.hash, "config": self.config.model_dump(mode="json")}

    def _grids(self, items: Sequence[LocalFeatures]) -> list[Regions | None] | None:
        if self.config.regions is None:
            return None
        return [Regions.of(item, rigid_grid(item.image_size)) for item in items]

    def _vectors(self, items: Sequence[LocalFeatures], threads: int) -> list[npt.NDArray[np.float32]]:
        return self._encoded(items, None, threads)

    def _encoded(
        self, items: Sequence[LocalFeatures], regions: Sequence[Regions | None] | None, threads: int
    ) -> list[npt.NDArray[np.float32]]:
        out: list[npt.NDArray[np.float32]] = []
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

    def _vector_of(self, aggregates: Sequence[Aggregate], image: int) -> npt.NDArray[np.float32]:
        words, sums = aggregates[image]
        if self.config.intra:
            lengths = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
            sums = sums / np.where(lengths > 0, lengths, 1)
        vector = np.zeros(self.codebook.centroids.shape)
        vector[words] = sums
        return normalised(vector.ravel(), self.config.power)
