"""What an ASMK index keeps of its images: an inverted file in four arrays, and how a query is scored on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig
from delf_engine.index.aggregation import Aggregate, Kernel, code_length
from delf_engine.index.collection import Segment
from delf_engine.index.halves import bits, half_values
from delf_engine.index.inverted import InvertedLayout, damaged
from delf_engine.support.threads import in_threads

__all__ = ["KIND", "VERSION", "AsmkLayout", "score_segment", "selectivity"]

KIND = "asmk"
VERSION = 1

_LEAST_PART = 32768  # rows that are worth a thread


class AsmkLayout(InvertedLayout):
    """The arrays of a segment.

    Parameters
    ----------
    words, dim : int
        Of the codebook.
    kernel : "binary" or "float"
        What a code is: the signs of a residual, D bits in whole 64-bit numbers, or the residual at unit length in
        float16, which errs by at most 2^-11 in each component and takes half the space of float32.
    """

    def __init__(self, words: int, dim: int, kernel: Kernel) -> None:
        binary = kernel == "binary"
        length, dtype = (code_length(dim), "<u8") if binary else (dim, "<f2")
        super().__init__(KIND, VERSION, words, length, dtype)


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
    postings = (a["word_offsets"], a["image_ids"], bits(a["codes"]), sums)
    kernel: Any
    rule: tuple[Any, ...]
    if config.kernel == "binary":
        kernel, rule = kernels.score_signs, (selectivity(dim, config),)
    else:
        kernel = kernels.score_units
        rule = (config.alpha, config.threshold, half_values())
    parts = max(1, min(threads, count // _LEAST_PART))
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
    return np.where(similarity >= config.threshold, np.sign(similarity) * np.abs(similarity) ** config.alpha, 0.0)
