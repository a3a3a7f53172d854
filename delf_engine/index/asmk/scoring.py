"""How a query of an ASMK index is scored on the postings of a segment."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.config import AsmkConfig
from delf_engine.index.asmk.aggregation import Aggregate
from delf_engine.index.asmk.postings import damaged
from delf_engine.index.segments.segment import Segment
from delf_engine.support.threads import in_threads

__all__ = ["score_segment", "selectivity"]

_LEAST_PART = 32768  # rows that are worth a thread


def score_segment(
    segment: Segment,
    query: Aggregate,
    weights: npt.NDArray[np.float64],
    selectivity: npt.NDArray[np.float64],
    threads: int = 1,
) -> npt.NDArray[np.float32]:
    """Return the similarity of a query to each image, (n,) float32; 0 for those that were removed.

    Parameters
    ----------
    segment : Segment
    query : (words, signs)
        At least one word.
    weights : (w,) float64
        Of each word.
    selectivity : (D + 1,) float64
        By Hamming distance, as `selectivity` makes it.
    threads : int

    Raises
    ------
    FormatError
        If the segment turns out to be damaged.
    """
    from delf_engine.index.asmk import score_kernels as kernels

    a, count = segment.arrays, len(segment.ids)
    sums, out = np.zeros(count), np.empty(count, np.float32)
    words, signs = query
    parts = max(1, min(threads, count // _LEAST_PART))
    bounds = np.linspace(0, count, parts + 1).astype(np.int64)

    def score(part: int) -> None:
        first, last = int(bounds[part]), int(bounds[part + 1])
        postings = (a["word_offsets"], a["image_ids"], a["codes"], sums)
        if not kernels.score_signs(first, last, words, signs, weights, selectivity, *postings):
            raise damaged(segment)
        rows = slice(first, last)
        kernels.normalise(sums[rows], len(words), a["word_counts"][rows], segment.alive[rows], out[rows])

    in_threads(score, parts, threads)
    return out


def selectivity(dim: int, config: AsmkConfig) -> npt.NDArray[np.float64]:
    """Return sigma(1 - 2 h / D), (D + 1,) float64, for each Hamming distance h."""
    divisor = dim if config.divisor == "bits" else 32 * -(-dim // 32)
    similarity = 1 - 2 * np.arange(dim + 1) / divisor
    above = similarity >= config.threshold
    return np.where(above, np.sign(similarity) * np.abs(similarity) ** config.alpha, 0.0)
