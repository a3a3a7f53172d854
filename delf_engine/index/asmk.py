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

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.aggregation import Aggregate, aggregated, check_regions
from delf_engine.index.asmk_layout import (
    KIND,
    VERSION,
    AsmkLayout,
    saved_config,
    saved_layout,
    score_segment,
)
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import Collection, IfDamaged
from delf_engine.index.contract import Found, IndexInfo, Progress, check_batch, check_queries, check_query
from delf_engine.index.inverted import damaged
from delf_engine.index.limits import Limits
from delf_engine.index.maintenance import Maintained
from delf_engine.index.threads import check_threads, in_threads
from delf_engine.regions import Regions, rigid_grid

__all__ = ["AsmkIndex"]

_QUERIES = 64  # aggregated at a time


class AsmkIndex(Maintained):
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

    def __init__(self, codebook: Codebook, config: AsmkConfig | None = None) -> None:
        self.codebook = codebook
        self.config = load_profile().asmk if config is None else config
        self._collection = Collection(AsmkLayout(codebook.words, codebook.dim, self.config.kernel))

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self.codebook.dim

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
            That aggregate; the index is the same with any number. None: one a usable core.

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
        threads, config = check_threads(threads), self.config
        ids, features = list(ids) if not isinstance(ids, str) else ids, list(features)
        batch = check_batch(ids, features, self.dim)
        places = None if regions is None else check_regions(ids, features, regions)
        new = [image_id for image_id in batch if image_id not in self]
        items = [batch[image_id] for image_id in new]
        chosen: list[Regions | None] | None = None
        if places is not None:
            chosen = [places[image_id] for image_id in new]
        elif config.regions == "grid":
            chosen = [Regions.of(item, rigid_grid(item.image_size)) for item in items]
        codes = aggregated(
            self.codebook,
            items,
            assignments=config.image_assignments,
            mode=config.assignment,
            kernel=config.kernel,
            threads=threads,
            regions=chosen,
            region_norm=config.region_norm,
        )
        self._collection.add(dict(zip(new, codes, strict=True)))
        return new

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images. They are found no more at once, and gone from disk after the next `save`.

        Raises
        ------
        UnknownIdError
            If one is not in the index; none is removed then.
        """
        self._collection.remove(ids)

    def search(
        self,
        features: LocalFeatures,
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
    ) -> Found:
        """Return the images most similar to a query.

        Options leave out images and change no score: these are those of the whole collection.

        Parameters
        ----------
        features : LocalFeatures
            Of the query.
        top_k : int
            Images returned at most. Only images with a score above 0 are.
        among : iterable of str or None
            Return these images only; None: any.
        exclude : iterable of str
            Leave these images out, such as the query itself. Ids that are not in the index are ignored.
        min_score : float or None
            Leave out images with a lower score.

        Returns
        -------
        ids : list of str
            Best first, ties in the order of insertion.
        scores : (K,) float32

        Raises
        ------
        ConfigError
            If `top_k` is below 1, or `min_score` not a finite number.
        UnknownIdError
            If an id of `among` is not in the index.
        MismatchError
            If descriptors have another dimension than the codebook.
        FormatError
            If a memory-mapped segment turns out to be damaged.
        """
        top_k = check_query(features, top_k, self.dim)
        limits = Limits.of(self._collection, among, exclude, min_score)
        threads = check_threads(None)
        return self._found(self._queries([features], threads)[0], top_k, limits, threads)

    def search_many(
        self,
        queries: Iterable[LocalFeatures],
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> list[Found]:
        """Search with many queries at once.

        Parameters
        ----------
        queries : iterable of LocalFeatures
        top_k, among, exclude, min_score
            As in `search`, for every query. Ids are looked up once.
        threads : int or None
            None: one a usable core.
        progress : callable or None
            Called with (queries done, queries), in the calling thread.

        Returns
        -------
        list of (ids, scores)
            What `search` returns for each query: the same bits with any number of threads.

        Raises
        ------
        ConfigError
            If `threads` is below 1. Otherwise as `search`; nothing is searched if one query does not fit.
        """
        several, top_k = check_queries(queries, top_k, self.dim)
        threads = check_threads(threads)
        limits = Limits.of(self._collection, among, exclude, min_score)
        out: list[Found] = []
        for start in range(0, len(several), _QUERIES):
            part = self._queries(several[start : start + _QUERIES], threads)

            def one(i: int, part: Sequence[Aggregate] = part) -> Found:
                return self._found(part[i], top_k, limits)

            def report(done: int, start: int = start) -> None:
                if progress is not None:
                    progress(start + done, len(several))

            out += in_threads(one, len(part), threads, report)
        return out

    def __len__(self) -> int:
        return len(self._collection)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._collection

    def ids(self) -> list[str]:
        """Return the ids of all images, in the order of insertion."""
        return list(self._collection)

    def info(self) -> IndexInfo:
        """Return what the index holds."""
        self._collection.flush()
        segments = self._collection.segments
        return IndexInfo(
            kind=KIND,
            images=len(self),
            removed=sum(segment.dead for segment in segments),
            entries=sum(len(segment.arrays["image_ids"]) for segment in segments),
            bytes=sum(array.nbytes for segment in segments for array in segment.arrays.values()),
            segments=len(segments),
            dim=self.dim,
        )

    def save(self, directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write what is new since the last save into `directory`; the codebook is not written.

        Parameters
        ----------
        directory : path
            Made if need be.
        overwrite : bool
            Replace another index that is there.

        Raises
        ------
        MismatchError
            If `directory` holds another index and `overwrite` is not set.
        LockedError
            If another process is saving to it, or has since this index was loaded.
        FormatError
            If it cannot be written. What was saved before is still there.
        """
        header = {
            "dim": self.dim,
            "words": self.codebook.words,
            "codebook": self.codebook.hash,
            "config": self.config.model_dump(mode="json", exclude_defaults=True),  # what older versions know
        }
        self._collection.save(directory, header, overwrite=overwrite)

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

        def layout(header: Mapping[str, Any]) -> AsmkLayout:
            return saved_layout(header, codebook, str(directory))

        collection = Collection.load(directory, layout, KIND, VERSION, check=check, damaged=damaged)
        saved = saved_config(collection.header, config, str(directory))
        index = cls(codebook, saved if config is None else config)
        index._collection = collection
        return index

    def __repr__(self) -> str:
        return f"AsmkIndex({len(self)} images, {self.codebook!r})"

    def _queries(self, features: Sequence[LocalFeatures], threads: int) -> list[Aggregate]:
        config = self.config
        return aggregated(
            self.codebook,
            features,
            assignments=config.query_assignments,
            mode=config.assignment,
            kernel=config.kernel,
            threads=threads,
        )

    def _found(self, query: Aggregate, top_k: int, limits: Limits, threads: int = 1) -> Found:
        if not len(query[0]) or not self._collection.segments:
            return [], np.empty(0, np.float32)
        scores = self._scores(query, threads)
        rows = limits.best(scores, top_k)
        return [self._collection.name_of(int(row)) for row in rows], scores[rows]

    def _scores(self, query: Aggregate, threads: int = 1) -> npt.NDArray[np.float32]:
        words = query[0]
        weights = self._idf(words) if self.config.idf else np.ones(len(words))
        return np.concatenate(
            [
                score_segment(segment, query, weights, self.config, self.dim, threads)
                for segment in self._collection.segments
            ]
        )

    def _idf(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        from delf_engine.index import kernels

        counts = np.zeros(len(words), np.int64)
        for segment in self._collection.segments:
            a = segment.arrays
            postings = (a["word_offsets"], a["image_ids"], segment.alive, segment.dead == 0)
            if not kernels.count_postings(words, *postings, counts):
                raise damaged(segment)
        return np.log(len(self) / np.maximum(counts, 1)) ** 2
