"""What a KD-tree index keeps of its images: their descriptors, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.index.segments.segment import Allocate, Arrays, Layout, Segment

__all__ = ["KdTreeLayout", "live_rows", "offsets_of", "row_counts"]


class KdTreeLayout(Layout):
    """The arrays of a segment.

    Parameters
    ----------
    dim : int
        Descriptor dimension D.
    """

    dtypes: Mapping[str, tuple[str, int]] = {
        "descriptors": ("<f4", 2),  # (R, D) of all images, one after the other
        "row_offsets": ("<i8", 1),  # (n + 1,) where those of each image begin
    }

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def build(self, payloads: Sequence[npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        return {"descriptors": np.concatenate(payloads), "row_offsets": offsets_of([len(p) for p in payloads])}

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        counts = np.concatenate([row_counts(segment)[segment.alive] for segment in segments])
        offsets = offsets_of(counts)
        allocate("row_offsets", offsets.shape)[...] = offsets
        descriptors, first = allocate("descriptors", (int(offsets[-1]), self._dim)), 0
        for segment in segments:
            rows = segment.arrays["descriptors"][np.repeat(segment.alive, row_counts(segment))]
            descriptors[first : first + len(rows)] = rows
            first += len(rows)

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with the images."""
        offsets, descriptors = arrays["row_offsets"], arrays["descriptors"]
        if len(offsets) != images + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != len(descriptors):
            return "row_offsets do not fit the descriptors or the images"
        return None if descriptors.shape[1] == self._dim else f"descriptors do not have {self._dim} dimensions"


def live_rows(segments: Sequence[Segment], dim: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the descriptors of all live images, and for each of them the image, counted among the live ones."""
    parts = [np.empty((0, dim), np.float32)]
    counts = [np.empty(0, np.int64)]
    for segment in segments:
        rows, descriptors = row_counts(segment), segment.arrays["descriptors"]
        parts.append(descriptors[np.repeat(segment.alive, rows)] if segment.dead else descriptors)
        counts.append(rows[segment.alive])
    # The usual case, one segment, is used as it is mapped.
    descriptors = parts[1] if len(parts) == 2 else np.concatenate(parts)
    every = np.concatenate(counts)
    return descriptors, np.repeat(np.arange(len(every)), every)


def row_counts(segment: Segment) -> npt.NDArray[np.int64]:
    """Return the descriptors of each image of a segment, (n,) int64."""
    return np.diff(segment.arrays["row_offsets"])


def offsets_of(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return where each of several runs begins, and where the last ends, (n + 1,) int64."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
