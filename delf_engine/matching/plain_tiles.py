"""The micro-kernel in plain loops: slow, readable, for any version of numba. Says what `llvm_tiles` must do.

The loop over the dimensions is that of `_sum`: one product and one sum after the other, fused where the processor
can. Imported only by functions that run kernels.
"""

from __future__ import annotations

from typing import Any

from numba import njit

#: Numbers in a vector, rows in a tile, vectors in a panel, columns in a panel.
LANES, ROWS, VECTORS = 16, 4, 2
PANEL = VECTORS * LANES


@njit(cache=True, nogil=True, fastmath={"contract"})
def _sum(data: Any, row: Any, columns: Any, at: Any, width: Any, start: Any) -> Any:
    """Return `start` + the inner product of a row and the column that begins at `at` of `columns`."""
    total = start
    for d in range(data.shape[1]):
        total += data[row, d] * columns[at + d * width]
    return total


@njit(cache=True, nogil=True)
def _scores(
    data: Any, rows: Any, columns: Any, at: Any, width: Any, bias: Any, first: Any, limits: Any, scores: Any,
    count: Any,
) -> Any:  # fmt: skip
    above = 0
    for r in range(ROWS):
        for j in range(count):
            score = _sum(data, rows[r], columns, at + j, width, bias[first + j])
            scores[r, first + j] = score
            if score > limits[r]:
                above |= 1 << r
    return above


@njit(cache=True, nogil=True)
def scores_16(
    data: Any, i0: Any, i1: Any, i2: Any, i3: Any, columns: Any, at: Any, width: Any,
    bias: Any, first: Any, limits: Any, scores: Any,
) -> Any:  # fmt: skip
    """Write ``bias + x . column`` of four rows x and 16 columns; return a number with bit r set where one is high.

    Parameters
    ----------
    data : (n, D) float32
    i0, i1, i2, i3 : int64
        Rows.
    columns : (M,) float32
        With a (D, width) matrix in it.
    at, width : int64
        Where its first of the columns begins, and how far its rows are apart.
    bias : (W,) float32
    first : int64
        The bias of the first column, and the column of `scores` to begin at.
    limits : (4,) float32
        Higher scores of each row are high.
    scores : (4, w) float32
        Overwritten.
    """
    return _scores(data, (i0, i1, i2, i3), columns, at, width, bias, first, limits, scores, LANES)


@njit(cache=True, nogil=True)
def scores_32(
    data: Any, i0: Any, i1: Any, i2: Any, i3: Any, columns: Any, at: Any, width: Any,
    bias: Any, first: Any, limits: Any, scores: Any,
) -> Any:  # fmt: skip
    """Do what `scores_16` does, for 32 columns."""
    return _scores(data, (i0, i1, i2, i3), columns, at, width, bias, first, limits, scores, 2 * LANES)


@njit(cache=True, nogil=True)
def match_tile(
    data: Any, i0: Any, i1: Any, i2: Any, i3: Any, count: Any, columns: Any, column: Any,
    bias: Any, norms_rows: Any, norms_columns: Any,
    best_rows: Any, second_rows: Any, place_rows: Any, other_rows: Any,
    best_columns: Any, second_columns: Any, place_columns: Any,
) -> None:  # fmt: skip
    """Merge ``(bias + x . column) norm norm`` of four rows x and a panel into the maxima of both.

    Parameters
    ----------
    data : (n, D) float32, or (n, E / 4) int32
        Whole numbers are four unsigned bytes each, for `llvm_tiles` and processors that multiply bytes only.
    i0, i1, i2, i3 : int64
        Rows.
    count : int64
        The first so many of them count.
    columns : (P D 32,) float32, or (P E / 4 32,) int32 of four signed bytes each
        Panels.
    column : int64
        The first column, a multiple of 32.
    bias : (32 P,) float32 or int32
    norms_rows, norms_columns : (n,), (32 P,) float32; or None, None
        None: all are 1.
    best_rows, second_rows, place_rows, other_rows : (n, 16) float32, float32, int32, int32
        For each row and lane, of the columns so far: best, second best and their columns less the lane.
    best_columns, second_columns, place_columns : (32 P,) float32, float32, int32
        For each column, of the rows so far: best, second best and the row of the best.
    """
    rows = (i0, i1, i2, i3)
    for r in range(min(count, ROWS)):
        i = rows[r]
        for j in range(PANEL):
            c, lane = column + j, j % LANES
            score = _sum(data, i, columns, column * data.shape[1] + j, PANEL, bias[c])
            if norms_rows is not None:
                score = score * norms_columns[c] * norms_rows[i]
            if score > best_rows[i, lane]:
                second_rows[i, lane], other_rows[i, lane] = best_rows[i, lane], place_rows[i, lane]
                best_rows[i, lane], place_rows[i, lane] = score, c - lane
            elif score > second_rows[i, lane]:
                second_rows[i, lane], other_rows[i, lane] = score, c - lane
            if score > best_columns[c]:
                second_columns[c] = best_columns[c]
                best_columns[c], place_columns[c] = score, i
            elif score > second_columns[c]:
                second_columns[c] = score
