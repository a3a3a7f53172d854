"""An inverted file: for each visual word the images that have it, and the code of the word in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.index.asmk.aggregation import Aggregate
from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment

__all__ = ["InvertedLayout", "count_images", "damaged"]


class InvertedLayout(Layout):
    """The arrays of a segment.

    Parameters
    ----------
    words : int
        Of the codebook, W.
    length : int
        64-bit numbers of the code of a word, L.
    """

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
        offsets = np.zeros(self._words + 1, "<i8")
        np.cumsum(np.bincount(words, minlength=self._words), out=offsets[1:])
        return {
            "word_offsets": offsets,
            "image_ids": np.repeat(np.arange(len(payloads), dtype="<i4"), counts)[order],
            "codes": np.concatenate([codes for _, codes in payloads])[order],
            "word_counts": counts,
        }

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        from delf_engine.index.asmk import kernels

        counts = count_images(segments, np.arange(self._words, dtype=np.int32), checked=True)
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
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        offsets, postings = arrays["word_offsets"], len(arrays["image_ids"])
        if len(offsets) != self._words + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != postings:
            return "word_offsets do not fit the postings or the codebook"
        if arrays["codes"].shape != (postings, self._length):
            return f"codes have shape {arrays['codes'].shape}, wanted {(postings, self._length)}"
        return None if len(arrays["word_counts"]) == images else "word_counts do not fit the images"


def count_images(
    segments: Sequence[Segment], words: npt.NDArray[np.int32], *, checked: bool = False
) -> npt.NDArray[np.int64]:
    """Return how many live images have each of some words, (M,) int64.

    Parameters
    ----------
    segments : sequence of Segment
    words : (M,) int32
    checked : bool
        Read the postings of segments without a removed image, too, where the offsets alone would tell.

    Raises
    ------
    FormatError
        If postings turn out to be damaged.
    """
    from delf_engine.index.asmk import kernels

    counts = np.zeros(len(words), np.int64)
    for segment in segments:
        a, whole = segment.arrays, segment.dead == 0 and not checked
        if not kernels.count_postings(words, a["word_offsets"], a["image_ids"], segment.alive, whole, counts):
            raise damaged(segment)
    return counts


def damaged(segment: Segment) -> FormatError:
    """Return the error of a segment whose postings point outside each other."""
    return FormatError(
        f"{segment.name or 'segment'}: postings are damaged: they point outside; build the index again"
    )
