"""`AsmkIndex`: candidates by the aggregated selective match kernel with binary residuals.

An image is the set of its visual words, each with the signs of the summed residuals of the descriptors assigned
to it. Two images are as similar as the words they share agree::

    score = sum over shared words w of  idf(w) sigma(1 - 2 h / D)  / sqrt(words of the query * words of the image)
    sigma(s) = sign(s) |s|^alpha  where s >= threshold, else 0

with h the Hamming distance of the two codes over their D bits. idf is 1, or ln(N / n_w)^2 with N images of which
n_w have the word; the norms count words in either case, as the published code does.

References
----------
Tolias, Avrithis, Jégou: Image search with selective match kernels: aggregation across single and multiple images.
IJCV 2016. Inverted file and constants: reference implementation of Jenicek (2020), but for the divisor D, which
is there rounded up to a multiple of 32.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig, load_profile, parse_config
from delf_engine.errors import FormatError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import Allocate, Arrays, Collection, Segment
from delf_engine.index.contract import Found, IndexInfo, Progress, check_batch, check_queries, check_query
from delf_engine.index.limits import Limits
from delf_engine.index.threads import check_threads, in_threads

__all__ = ["AsmkIndex"]

_KIND = "asmk"
_VERSION = 1
_BLOCK = 32768  # descriptors assigned at a time
_QUERIES = 64  # aggregated at a time

Words = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint64]


class AsmkIndex:
    """An inverted file of binary aggregated residuals.

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
        self._collection = Collection(_Layout(codebook.words, codebook.dim))

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return self.codebook.dim

    def add(self, ids: Sequence[str], features: Sequence[LocalFeatures]) -> list[str]:
        """Add images. They are found at once, and on disk after the next `save`.

        Parameters
        ----------
        ids : sequence of str
        features : sequence of LocalFeatures
            One for each id.

        Returns
        -------
        list of str
            The ids that were new. One that is there already, or occurs twice, is left alone.

        Raises
        ------
        ConfigError
            If lengths differ or an id is empty or not a string.
        MismatchError
            If descriptors have another dimension than the codebook.
        """
        batch = check_batch(ids, features, self.dim)
        new = [image_id for image_id in batch if image_id not in self]
        codes = self._aggregated([batch[image_id] for image_id in new], self.config.image_assignments)
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
        return self._found(self._aggregated([features], self.config.query_assignments)[0], top_k, limits)

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
            part = self._aggregated(several[start : start + _QUERIES], self.config.query_assignments)

            def one(i: int, part: Sequence[tuple[Words, Codes]] = part) -> Found:
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
            kind=_KIND,
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
            "config": self.config.model_dump(mode="json"),
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

        Raises
        ------
        MismatchError
            If it was built with another codebook, or other `image_assignments` than `config` asks for.
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """

        def layout(header: Mapping[str, Any]) -> _Layout:
            if header["codebook"] != codebook.hash:
                raise MismatchError(
                    f"{directory}: the index was built with codebook {header['codebook'][:8]}, "
                    f"not with {codebook.hash[:8]}"
                )
            return _Layout(codebook.words, codebook.dim)

        collection = Collection.load(directory, layout, _KIND, _VERSION, check=check)
        saved = parse_config(AsmkConfig, collection.header["config"], where=str(directory))
        if config is not None and config.image_assignments != saved.image_assignments:
            raise MismatchError(
                f"{directory}: the index was built with {saved.image_assignments} assignment(s) a descriptor, "
                f"asked for {config.image_assignments}; build it again"
            )
        index = cls(codebook, saved if config is None else config)
        index._collection = collection
        return index

    def __repr__(self) -> str:
        return f"AsmkIndex({len(self)} images, {self.codebook!r})"

    def _aggregated(self, features: Sequence[LocalFeatures], assignments: int) -> list[tuple[Words, Codes]]:
        out: list[tuple[Words, Codes]] = []
        k = min(assignments, self.codebook.words)
        block: list[LocalFeatures] = []
        for item in features:
            block.append(item)
            if sum(map(len, block)) >= _BLOCK:
                out += self._aggregated_block(block, k)
                block = []
        return out + self._aggregated_block(block, k)

    def _aggregated_block(self, block: Sequence[LocalFeatures], k: int) -> list[tuple[Words, Codes]]:
        from delf_engine.index import kernels

        if not block:
            return []
        assigned = self.codebook.assign(np.concatenate([item.descriptors for item in block]), k)
        ends = np.cumsum([len(item) for item in block])
        out = []
        for item, words in zip(block, np.split(assigned, ends[:-1]), strict=True):
            order = np.argsort(words, axis=None, kind="stable")
            found = np.empty(words.size, np.int32)
            codes = np.zeros((words.size, _code_length(self.dim)), np.uint64)
            n = kernels.aggregate(item.descriptors, self.codebook.centroids, words, order, found, codes)
            out.append((found[:n].copy(), codes[:n].copy()))
        return out

    def _found(self, query: tuple[Words, Codes], top_k: int, limits: Limits) -> Found:
        words, codes = query
        if not len(words) or not self._collection.segments:
            return [], np.empty(0, np.float32)
        scores = self._scores(words, codes)
        rows = limits.best(scores, top_k)
        return [self._collection.name_of(int(row)) for row in rows], scores[rows]

    def _scores(self, words: Words, codes: Codes) -> npt.NDArray[np.float32]:
        from delf_engine.index import kernels

        weights = self._idf(words) if self.config.idf else np.ones(len(words))
        selectivity = _selectivity(self.dim, self.config.alpha, self.config.threshold)
        out = []
        for segment in self._collection.segments:
            a = segment.arrays
            scores = np.zeros(len(segment.ids))
            postings = (a["word_offsets"], a["image_ids"], a["codes"])
            if not kernels.score_postings(words, codes, weights, selectivity, *postings, scores):
                raise _damaged(segment)
            # Two roots, each of a whole number: the product could lose an image's last bit to the query.
            scores /= np.sqrt(len(words)) * np.sqrt(np.maximum(a["word_counts"], 1))
            scores[~segment.alive] = 0
            out.append(scores.astype(np.float32))
        return np.concatenate(out)

    def _idf(self, words: Words) -> npt.NDArray[np.float64]:
        from delf_engine.index import kernels

        counts = np.zeros(len(words), np.int64)
        for segment in self._collection.segments:
            a = segment.arrays
            if not kernels.count_postings(words, a["word_offsets"], a["image_ids"], segment.alive, counts):
                raise _damaged(segment)
        return np.log(len(self) / np.maximum(counts, 1)) ** 2


class _Layout:
    kind = _KIND
    version = _VERSION
    dtypes: Mapping[str, tuple[str, int]] = {
        "word_offsets": ("<i8", 1),  # (W + 1,) where the postings of each word begin
        "image_ids": ("<i4", 1),  # (P,) row of each posting's image, ascending within a word
        "codes": ("<u8", 2),  # (P, ceil(D / 64)) signs of the residuals
        "word_counts": ("<i4", 1),  # (n,) words of each image
    }

    def __init__(self, words: int, dim: int) -> None:
        self._words = words
        self._length = _code_length(dim)

    def build(self, payloads: Sequence[tuple[Words, Codes]]) -> dict[str, npt.NDArray[Any]]:
        counts = np.array([len(words) for words, _ in payloads], "<i4")
        words = np.concatenate([words for words, _ in payloads])
        order = np.argsort(words, kind="stable")
        offsets = np.zeros(self._words + 1, "<i8")
        np.cumsum(np.bincount(words, minlength=self._words), out=offsets[1:])
        return {
            "word_offsets": offsets,
            "image_ids": np.repeat(np.arange(len(payloads), dtype="<i4"), counts)[order],
            "codes": np.concatenate([codes for _, codes in payloads])[order],
            "word_counts": counts,
        }

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        from delf_engine.index import kernels

        counts = np.zeros(self._words, np.int64)
        every = np.arange(self._words, dtype=np.int32)
        for segment in segments:
            a = segment.arrays
            if not kernels.count_postings(every, a["word_offsets"], a["image_ids"], segment.alive, counts):
                raise _damaged(segment)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
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
        offsets, postings = arrays["word_offsets"], len(arrays["image_ids"])
        if len(offsets) != self._words + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != postings:
            return "word_offsets do not fit the postings or the codebook"
        if arrays["codes"].shape != (postings, self._length):
            return f"codes have shape {arrays['codes'].shape}, wanted {(postings, self._length)}"
        return None if len(arrays["word_counts"]) == images else "word_counts do not fit the images"


def _code_length(dim: int) -> int:
    return -(-dim // 64)


def _selectivity(dim: int, alpha: float, threshold: float) -> npt.NDArray[np.float64]:
    similarity = 1 - 2 * np.arange(dim + 1) / dim
    return np.where(similarity >= threshold, np.sign(similarity) * np.abs(similarity) ** alpha, 0.0)


def _damaged(segment: Segment) -> FormatError:
    return FormatError(
        f"{segment.name or 'segment'}: postings are damaged: they point outside; build the index again"
    )
