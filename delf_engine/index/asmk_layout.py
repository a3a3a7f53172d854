"""What an ASMK index keeps of its images: an inverted file in four arrays, and how a query is scored on it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig, parse_config
from delf_engine.errors import FormatError, MismatchError
from delf_engine.index.aggregation import Aggregate, Kernel, code_length
from delf_engine.index.codebook import Codebook
from delf_engine.index.collection import Allocate, Arrays, Segment
from delf_engine.index.threads import in_threads

__all__ = [
    "KIND",
    "VERSION",
    "AsmkLayout",
    "damaged",
    "saved_config",
    "saved_layout",
    "score_segment",
    "selectivity",
]

KIND = "asmk"
VERSION = 1

_BUILT_WITH = ("image_assignments", "kernel", "regions", "region_norm")  # options that cannot change later


class AsmkLayout:
    """The arrays of a segment.

    Parameters
    ----------
    words, dim : int
        Of the codebook.
    kernel : "binary" or "float"
        What a code is: the signs of a residual, D bits in whole 64-bit numbers, or the residual at unit length in
        float16, which errs by at most 2^-11 in each component and takes half the space of float32.
    """

    kind = KIND
    version = VERSION

    def __init__(self, words: int, dim: int, kernel: Kernel) -> None:
        self._words = words
        binary = kernel == "binary"
        self._length = code_length(dim) if binary else dim
        self._dtype = "<u8" if binary else "<f2"
        self.dtypes: Mapping[str, tuple[str, int]] = {
            "word_offsets": ("<i8", 1),  # (W + 1,) where the postings of each word begin
            "image_ids": ("<i4", 1),  # (P,) row of each posting's image, ascending within a word
            "codes": (self._dtype, 2),  # (P, ceil(D / 64)) signs of the residuals, or (P, D) residuals
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
            "codes": np.concatenate([codes for _, codes in payloads])[order].astype(self._dtype, copy=False),
            "word_counts": counts,
        }

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        from delf_engine.index import kernels

        counts = np.zeros(self._words, np.int64)
        every = np.arange(self._words, dtype=np.int32)
        for segment in segments:
            a = segment.arrays
            if not kernels.count_postings(every, a["word_offsets"], a["image_ids"], segment.alive, False, counts):
                raise damaged(segment)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        allocate("word_offsets", offsets.shape)[...] = offsets
        ids, codes = allocate("image_ids", (offsets[-1],)), allocate("codes", (offsets[-1], self._length))
        cursor, first = offsets[:-1].copy(), 0
        for segment in segments:
            a = segment.arrays
            rows = np.where(segment.alive, first + np.cumsum(segment.alive) - 1, -1).astype(np.int32)
            postings = (a["word_offsets"], a["image_ids"], _bits(a["codes"]))
            kernels.copy_postings(*postings, rows, cursor, np.asarray(ids), _bits(np.asarray(codes)))
            first += segment.live
        word_counts = [segment.arrays["word_counts"][segment.alive] for segment in segments]
        allocate("word_counts", (first,))[...] = np.concatenate(word_counts)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with them."""
        offsets, postings = arrays["word_offsets"], len(arrays["image_ids"])
        if len(offsets) != self._words + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != postings:
            return "word_offsets do not fit the postings or the codebook"
        if arrays["codes"].shape != (postings, self._length):
            return f"codes have shape {arrays['codes'].shape}, wanted {(postings, self._length)}"
        return None if len(arrays["word_counts"]) == images else "word_counts do not fit the images"


def saved_layout(header: Mapping[str, Any], codebook: Codebook, where: str) -> AsmkLayout:
    """Return the layout of an index that was saved with `header`.

    Raises
    ------
    MismatchError
        If it was built with another codebook.
    ConfigError
        If the header has options that this version does not know.
    """
    if header["codebook"] != codebook.hash:
        raise MismatchError(
            f"{where}: the index was built with codebook {header['codebook'][:8]}, not with {codebook.hash[:8]}"
        )
    kernel = parse_config(AsmkConfig, header["config"], where=where).kernel
    return AsmkLayout(codebook.words, codebook.dim, kernel)


def saved_config(header: Mapping[str, Any], config: AsmkConfig | None, where: str) -> AsmkConfig:
    """Return the options in `header`.

    Raises
    ------
    MismatchError
        If those that indexed images depend on are others in `config`.
    """
    saved = parse_config(AsmkConfig, header["config"], where=where)
    for name in _BUILT_WITH:
        if config is not None and getattr(config, name) != getattr(saved, name):
            raise MismatchError(
                f"{where}: the index was built with {name} = {getattr(saved, name)}, asked for "
                f"{getattr(config, name)}; build it again"
            )
    return saved


def score_segment(
    segment: Segment,
    query: Aggregate,
    weights: npt.NDArray[np.float64],
    config: AsmkConfig,
    dim: int,
    threads: int = 1,
) -> npt.NDArray[np.float32]:
    """Return the similarity of a query to each image, (n,) float32; 0 for those that were removed.

    Raises
    ------
    FormatError
        If the segment turns out to be damaged.
    """
    from delf_engine.index import score_kernels as kernels

    a, count = segment.arrays, len(segment.ids)
    sums, out = np.zeros(count), np.empty(count, np.float32)
    postings = (a["word_offsets"], a["image_ids"], _bits(a["codes"]), sums)
    kernel: Any
    rule: tuple[Any, ...]
    if config.kernel == "binary":
        kernel, rule = kernels.score_signs, (selectivity(dim, config),)
    else:
        kernel = kernels.score_units
        rule = (config.alpha, config.threshold, config.strict_threshold, _half_values())
    parts = max(1, min(threads, count // kernels.RANGE))
    bounds = np.linspace(0, count, parts + 1).astype(np.int64)

    def score(part: int) -> None:
        first, last = int(bounds[part]), int(bounds[part + 1])
        if not kernel(first, last, *query, weights, *rule, *postings):
            raise damaged(segment)
        rows = slice(first, last)
        kernels.normalise(sums[rows], len(query[0]), a["word_counts"][rows], segment.alive[rows], out[rows])

    in_threads(score, parts, threads)
    return out


def selectivity(dim: int, config: AsmkConfig) -> npt.NDArray[np.float64]:
    """Return sigma(1 - 2 h / D), (D + 1,) float64, for each Hamming distance h."""
    divisor = dim if config.divisor == "bits" else 32 * -(-dim // 32)
    similarity = 1 - 2 * np.arange(dim + 1) / divisor
    above = similarity > config.threshold if config.strict_threshold else similarity >= config.threshold
    return np.where(above, np.sign(similarity) * np.abs(similarity) ** config.alpha, 0.0)


def damaged(segment: Segment) -> FormatError:
    """Return the error of a segment whose postings point outside each other."""
    return FormatError(
        f"{segment.name or 'segment'}: postings are damaged: they point outside; build the index again"
    )


def _bits(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return codes as the kernels take them: float16 by its bits."""
    return codes.view(np.uint16) if codes.dtype == np.float16 else codes


@functools.cache
def _half_values() -> npt.NDArray[np.float32]:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    values.flags.writeable = False
    return values
