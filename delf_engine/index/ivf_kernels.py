"""Numba kernels that scan, compare again and merge the cells of an `IvfIndex`.

Imported only by functions that run them. What is found is kept as one number a descriptor, its distance in the
upper and its row in the lower 32 bits: the smallest numbers are the nearest descriptors, equally near ones in the
order of insertion. No order of scanning changes which they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["EMPTY", "copy_cells", "count_cells", "encode", "merge", "rescore", "scan_codes", "scan_rows"]

EMPTY = np.iinfo(np.int64).max  # a place for a neighbour that is not taken
_BLOCK = 256  # rows compared with one query descriptor after the other while they are in the cache


@njit(cache=True, nogil=True)
def _replace_farthest(keys: Any, places: Any, key: Any, place: Any) -> None:
    """Put a key in the place of the largest, which is the first (a binary heap)."""
    at, size = 0, len(keys)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[at] = keys[child]
        places[at] = places[child]
        at = child
    keys[at] = key
    places[at] = place


@njit(cache=True, nogil=True)
def _image_of(row: Any, row_offsets: Any) -> Any:
    """Return the image that a row is of: the last one that begins no later."""
    low, high = 0, len(row_offsets) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if row_offsets[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _within(cell: Any, cell_offsets: Any, rows: Any) -> Any:
    begin, end = cell_offsets[cell], cell_offsets[cell + 1]
    return begin >= 0 and end >= begin and end <= len(rows)


@njit(cache=True, nogil=True)
def _keep(
    distances: Any, begin: Any, rows: Any, row_offsets: Any, alive: Any, some_dead: Any, first: Any, keys: Any,
    places: Any, first_place: Any,
) -> Any:  # fmt: skip
    """Keep those rows of a block that are nearer than the farthest kept; False if a row is out of range."""
    for b in range(len(distances)):
        distance = np.int64(distances[b])
        if distance <= keys[0] >> 32:
            row = np.int64(rows[begin + b])
            if row >= row_offsets[-1]:
                return False
            key = (distance << 32) | (first + row)
            if key < keys[0] and not (some_dead and not alive[_image_of(row, row_offsets)]):
                _replace_farthest(keys, places, key, first_place + begin + b)
    return True


@njit(cache=True, nogil=True)
def scan_rows(
    cells: Any,
    visits: Any,
    visitors: Any,
    queries: Any,
    cell_offsets: Any,
    rows: Any,
    descriptors: Any,
    row_offsets: Any,
    alive: Any,
    first: Any,
    first_place: Any,
    keys: Any,
    places: Any,
) -> Any:
    """Compare the descriptors of one segment with all query descriptors that visit their cells.

    Distances are squared and in units of 1 / (127 * 128): whole numbers, below 2^31 as vectors are of about
    unit length.

    Parameters
    ----------
    cells : (C,) int32
    visits : (C + 1,) int64
        Where the visitors of each cell begin.
    visitors : (V,) int32
        Query descriptors.
    queries : (Q, D) int32
        In units of 1 / (127 * 128), 128 * 128 meaning 0.
    cell_offsets : (W + 1,) int64
        Where each cell begins in
    rows : (R,) uint32
        the number of each descriptor, in the order of insertion, and
    descriptors : (R, D) uint8
        the descriptor, in units of 1 / 127, 128 meaning 0.
    row_offsets : (n + 1,) int64
        Number of the first descriptor of each image.
    alive : (n,) bool
    first, first_place : int
        Descriptors in the segments before: what is added to rows, and to places in the order of the cells.
    keys : (Q, K) int64
        What is kept, as heaps. Updated, with
    places : (Q, K) int64
        where each is.

    Returns
    -------
    bool
        False if the segment's arrays point outside each other: they are damaged.
    """
    some_dead = not alive.all()
    distances = np.empty(_BLOCK, np.int32)
    for c in range(len(cells)):
        cell = cells[c]
        if not _within(cell, cell_offsets, rows):
            return False
        end = cell_offsets[cell + 1]
        for begin in range(cell_offsets[cell], end, _BLOCK):
            size = min(_BLOCK, end - begin)
            for v in range(visits[c], visits[c + 1]):
                visitor = visitors[v]
                for b in range(size):
                    distances[b] = _squared(queries[visitor], descriptors[begin + b])
                if not _keep(
                    distances[:size], begin, rows, row_offsets, alive, some_dead, first, keys[visitor],
                    places[visitor], first_place,
                ):  # fmt: skip
                    return False
    return True


@njit(cache=True, nogil=True)
def _squared(query: Any, descriptor: Any) -> Any:
    # Sums of whole numbers: the compiler may take them in any order, in registers of any width.
    total = np.int32(0)
    for d in range(len(query)):
        difference = np.int32(query[d] - np.int32(descriptor[d]) * np.int32(128))
        total = np.int32(total + np.int32(difference * difference))
    return total


@njit(cache=True, nogil=True)
def scan_codes(
    cells: Any,
    visits: Any,
    visitors: Any,
    queries: Any,
    centroids: Any,
    levels: Any,
    bounds: Any,
    cell_offsets: Any,
    rows: Any,
    codes: Any,
    row_offsets: Any,
    alive: Any,
    first: Any,
    first_place: Any,
    keys: Any,
    places: Any,
) -> Any:
    """Compare the codes of one segment with all query descriptors that visit their cells.

    A code stands for what is left of a descriptor when the centroid of its cell is subtracted. Distances are
    squared, in float32, and kept by their bits, which are ordered as they are.

    Parameters
    ----------
    cells, visits, visitors, cell_offsets, rows, row_offsets, alive, first, first_place, keys, places
        As in `scan_rows`.
    queries : (Q, D) float32
    centroids : (W, D) float32
        Of the cells.
    levels : (D, L) float32
        Of the product quantiser.
    bounds : (M + 1,) int64
        Where each part of a descriptor begins.
    codes : (R, B) uint8

    Returns
    -------
    bool
        As `scan_rows`.
    """
    parts, count = len(bounds) - 1, levels.shape[1]
    bits, mask = np.uint64(_log2(count)), np.uint64(count - 1)
    some_dead = not alive.all()
    table = np.empty((parts, count), np.float32)
    distances = np.empty(_BLOCK, np.float32)
    for c in range(len(cells)):
        cell = cells[c]
        if not _within(cell, cell_offsets, rows):
            return False
        end = cell_offsets[cell + 1]
        for begin in range(cell_offsets[cell], end, _BLOCK):
            size = min(_BLOCK, end - begin)
            for v in range(visits[c], visits[c + 1]):
                visitor = visitors[v]
                table[:] = 0
                for m in range(parts):
                    for d in range(bounds[m], bounds[m + 1]):
                        left = queries[visitor, d] - centroids[cell, d]
                        for level in range(count):
                            difference = left - levels[d, level]
                            table[m, level] += difference * difference
                for b in range(size):
                    code, total = _unpacked(codes[begin + b]), np.float32(0)
                    for m in range(parts):
                        total += table[m, code & mask]
                        code >>= bits
                    distances[b] = total
                if not _keep(
                    distances[:size].view(np.int32), begin, rows, row_offsets, alive, some_dead, first,
                    keys[visitor], places[visitor], first_place,
                ):  # fmt: skip
                    return False
    return True


@njit(cache=True, nogil=True)
def _unpacked(code: Any) -> Any:
    number = np.uint64(0)
    for byte in range(len(code)):
        number |= np.uint64(code[byte]) << np.uint64(8 * byte)
    return number


@njit(cache=True, nogil=True)
def _log2(count: Any) -> Any:
    bits = 0
    while 1 << bits < count:
        bits += 1
    return bits


@njit(cache=True, nogil=True)
def encode(vectors: Any, levels: Any, bounds: Any, codes: Any) -> None:
    """Write the nearest level of each part of each vector, of equally near ones the lowest, packed into bytes.

    Parameters
    ----------
    vectors : (N, D) float32
    levels : (D, L) float32
    bounds : (M + 1,) int64
    codes : (N, B) uint8
        Overwritten: M numbers of log2(L) bits, the first in the lowest bits of the first byte.
    """
    count = levels.shape[1]
    bits = _log2(count)
    for n in range(len(vectors)):
        code = np.uint64(0)
        for m in range(len(bounds) - 1):
            best, nearest = np.inf, 0
            for level in range(count):
                distance = 0.0
                for d in range(bounds[m], bounds[m + 1]):
                    difference = np.float64(vectors[n, d]) - np.float64(levels[d, level])
                    distance += difference * difference
                if distance < best:
                    best, nearest = distance, level
            code |= np.uint64(nearest) << np.uint64(bits * m)
        for byte in range(codes.shape[1]):
            codes[n, byte] = np.uint8((code >> np.uint64(8 * byte)) & np.uint64(255))


@njit(cache=True, nogil=True)
def rescore(
    queries: Any, descriptors: Any, first_place: Any, found: Any, found_places: Any, keys: Any, places: Any
) -> None:
    """Keep the nearest of what `scan_codes` found in one segment, by distances as those of `scan_rows`.

    Parameters
    ----------
    queries : (Q, D) int32
    descriptors : (R, D) uint8
    first_place : int
    found, found_places : (Q, F) int64
        Those of other segments are passed over.
    keys, places : (Q, K) int64
        Updated.
    """
    low = np.int64(0xFFFFFFFF)
    for q in range(len(queries)):
        for f in range(found.shape[1]):
            place = found_places[q, f] - first_place
            if found[q, f] == EMPTY or place < 0 or place >= len(descriptors):
                continue
            distance = np.int64(_squared(queries[q], descriptors[place]))
            key = (distance << 32) | (found[q, f] & low)
            if key < keys[q, 0]:
                _replace_farthest(keys[q], places[q], key, found_places[q, f])


@njit(cache=True, nogil=True)
def merge(more: Any, more_places: Any, keys: Any, places: Any) -> None:
    """Keep the nearest of two lists of (Q, K) each, in the second one."""
    for q in range(len(keys)):
        for k in range(more.shape[1]):
            if more[q, k] < keys[q, 0]:
                _replace_farthest(keys[q], places[q], more[q, k], more_places[q, k])


@njit(cache=True, nogil=True)
def count_cells(cell_offsets: Any, rows: Any, row_offsets: Any, alive: Any, counts: Any) -> Any:
    """Add the number of live descriptors in each cell of a segment to `counts`; False if arrays are damaged."""
    for cell in range(len(counts)):
        if not _within(cell, cell_offsets, rows):
            return False
        for place in range(cell_offsets[cell], cell_offsets[cell + 1]):
            if rows[place] >= row_offsets[-1]:
                return False
            counts[cell] += alive[_image_of(np.int64(rows[place]), row_offsets)]
    return True


@njit(cache=True, nogil=True)
def copy_cells(
    cell_offsets: Any,
    rows: Any,
    descriptors: Any,
    codes: Any,
    row_offsets: Any,
    shifts: Any,
    cursor: Any,
    out_rows: Any,
    out_descriptors: Any,
    out_codes: Any,
) -> None:
    """Append the live descriptors of one segment, already checked by `count_cells`, to the cells of a larger one.

    Parameters
    ----------
    cell_offsets, rows, descriptors, codes, row_offsets
        Of the segment.
    shifts : (n,) int64
        What is added to the rows of each image; below -2^40 if it was removed.
    cursor : (W,) int64
        Where the next descriptor of each cell goes; advanced.
    out_rows, out_descriptors, out_codes
        Written.
    """
    for cell in range(len(cursor)):
        for place in range(cell_offsets[cell], cell_offsets[cell + 1]):
            row = np.int64(rows[place])
            shift = shifts[_image_of(row, row_offsets)]
            if shift >= -(1 << 40):
                at = cursor[cell]
                out_rows[at] = row + shift
                out_descriptors[at] = descriptors[place]
                out_codes[at] = codes[place]
                cursor[cell] = at + 1
