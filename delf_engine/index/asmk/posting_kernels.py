"""Numba kernels that count and merge the postings of an ASMK index.

Imported only by functions that run them: numba takes a while to load. Arrays of a segment are read-only and
C-contiguous.
"""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["copy_postings", "count_postings"]


@njit(cache=True, nogil=True)
def count_postings(words: Any, word_offsets: Any, image_ids: Any, alive: Any, all_alive: Any, counts: Any) -> Any:
    """Add the number of live images that have each of `words` to `counts`; False if arrays are damaged.

    With `all_alive` the postings themselves are not read, only where they begin.
    """
    for w in range(len(words)):
        begin, end = word_offsets[words[w]], word_offsets[words[w] + 1]
        if begin < 0 or end < begin or end > len(image_ids):
            return False
        if all_alive:
            counts[w] += end - begin
            continue
        for p in range(begin, end):
            if image_ids[p] < 0 or image_ids[p] >= len(alive):
                return False
            counts[w] += alive[image_ids[p]]
    return True


@njit(cache=True, nogil=True)
def copy_postings(
    word_offsets: Any, image_ids: Any, codes: Any, new_rows: Any, cursor: Any, out_ids: Any, out_codes: Any
) -> None:
    """Append the live postings of one segment, already checked by `count_postings`, to those of a larger one.

    Parameters
    ----------
    word_offsets, image_ids, codes
        Of the segment.
    new_rows : (n,) int32
        New row of each image, -1 if it was removed.
    cursor : (W,) int64
        Where the next posting of each word goes; advanced.
    out_ids : (P,) int32
    out_codes : (P, L) uint64
    """
    for word in range(len(cursor)):
        for p in range(word_offsets[word], word_offsets[word + 1]):
            row = new_rows[image_ids[p]]
            if row >= 0:
                out_ids[cursor[word]] = row
                out_codes[cursor[word]] = codes[p]
                cursor[word] += 1
