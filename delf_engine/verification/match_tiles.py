"""The innermost loop of matching: similarities of four rows with 32 columns, merged into the maxima of both.

The similarities never leave the registers. For each column its best, its second best and the row of the best are
kept; for each row the same once a lane, for every 16th column, to be reduced at the end (see `match_kernels`).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from delf_engine.tiles import FLOATS, INDEX, LANES, ROWS, WHOLES, Writer

__all__ = ["VECTORS", "match_codes", "match_floats"]

VECTORS = 2
_FINITE = ("nnan", "nsz")


def _merge(write: Writer, value: Any, place: Any, kept: list[Any]) -> list[Any]:
    """Return best, second best and their places (or that of the best alone), of those kept and one more value."""
    builder = write.builder
    best, second, at = kept[:3]
    higher = builder.fcmp_ordered(">", value, best, flags=_FINITE)
    other = builder.select(higher, best, value)
    above = builder.fcmp_ordered(">", other, second, flags=_FINITE)
    merged = [
        builder.select(higher, value, best),
        builder.select(above, other, second),
        builder.select(higher, place, at),
    ]
    if len(kept) > 3:
        # A best that is surpassed stood before a second that equals it: it is the second now in any case.
        merged.append(builder.select(higher, at, builder.select(above, place, kept[3])))
    return merged


def _merge_tile(write: Writer, scores: list[list[Any]], count: Any, column: Any, arrays: list[Any]) -> None:
    """Merge a tile into the maxima of its rows, a lane each, and of its columns.

    Parameters
    ----------
    scores
        Vectors, [row][vector].
    count
        How many of the rows count.
    column
        Number of the first column.
    arrays
        Best, second and both places of the rows (n, 16), then best, second and place of the columns.
    """
    builder = write.builder
    of_rows, of_columns = arrays[:4], arrays[4:]
    kinds = (FLOATS, FLOATS, WHOLES, WHOLES)
    small = builder.trunc(column, ir.IntType(32))
    columns = []
    for v in range(VECTORS):
        at = write.plus(column, LANES * v)
        columns.append([cgutils.alloca_once(builder, kind) for kind in kinds[:3]])
        for place, array, kind in zip(columns[v], of_columns, kinds[:3], strict=True):
            builder.store(write.load(array, at, kind), place)
    for r in range(ROWS):
        with builder.if_then(builder.icmp_signed("<", ir.Constant(INDEX, r), count), likely=True):
            begin = builder.mul(write.args[1 + r], ir.Constant(INDEX, LANES))
            row = [write.load(array, begin, kind) for array, kind in zip(of_rows, kinds, strict=True)]
            number = write.spread(builder.trunc(write.args[1 + r], ir.IntType(32)), WHOLES)
            for v in range(VECTORS):
                start = builder.add(small, ir.IntType(32)(LANES * v))
                row = _merge(write, scores[r][v], write.spread(start, WHOLES), row)
                kept = _merge(write, scores[r][v], number, [builder.load(place) for place in columns[v]])
                for value, place in zip(kept, columns[v], strict=True):
                    builder.store(value, place)
            for value, array in zip(row, of_rows, strict=True):
                write.store(value, array, begin)
    for v in range(VECTORS):
        at = write.plus(column, LANES * v)
        for place, array in zip(columns[v], of_columns, strict=True):
            write.store(builder.load(place), array, at)


def _match_floats(
    typingctx: Any, data: Any, i0: Any, i1: Any, i2: Any, i3: Any, count: Any, columns: Any, column: Any,
    bias: Any,
    best_rows: Any, second_rows: Any, place_rows: Any, other_rows: Any,
    best_columns: Any, second_columns: Any, place_columns: Any,
) -> Any:  # fmt: skip
    """Merge ``bias + x . column`` of four rows x and 32 columns into the maxima of both.

    Parameters
    ----------
    data : (n, D) float32
    i0, i1, i2, i3 : int64
        Rows.
    count : int64
        The first so many of them count.
    columns : (P D 32,) float32
        Panels.
    column : int64
        The first column, a multiple of 32.
    bias : (32 P,) float32
    best_rows, second_rows, place_rows, other_rows : (n, 16) float32, float32, int32, int32
        For each row and lane, of the columns so far: best, second best and their columns less the lane.
    best_columns, second_columns, place_columns : (32 P,) float32, float32, int32
    """
    whole = types.int64
    arrays = (best_rows, second_rows, place_rows, other_rows, best_columns, second_columns, place_columns)
    signature = types.void(data, *(whole,) * 5, columns, whole, bias, *arrays)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        write = Writer(context, builder, sig, args)
        column = args[7]
        start = [write.load(write.array(8), write.plus(column, LANES * v), FLOATS) for v in range(VECTORS)]
        at = builder.mul(column, write.length(write.array(0), 1))
        width = ir.Constant(INDEX, LANES * VECTORS)
        sums = write.sums(VECTORS, start, (write.array(6), at, width), write.fused)
        _merge_tile(write, sums, args[5], column, [write.array(9 + i) for i in range(7)])
        return context.get_dummy_value()

    return signature, generate


match_floats: Any = intrinsic(_match_floats)


def _match_codes(
    typingctx: Any, data: Any, i0: Any, i1: Any, i2: Any, i3: Any, count: Any, columns: Any, column: Any,
    bias: Any, norms_rows: Any, norms_columns: Any,
    best_rows: Any, second_rows: Any, place_rows: Any, other_rows: Any,
    best_columns: Any, second_columns: Any, place_columns: Any,
) -> Any:  # fmt: skip
    """Do what `match_floats` does with codes: ``(bias + x . column) norm norm`` is merged.

    Whole numbers are bytes, four side by side, for processors that `has_byte_products` says yes of; floats serve
    any. Parameters are those of `match_floats` but for these.

    Parameters
    ----------
    data : (n, E / 4) int32, four unsigned bytes each; or (n, E) float32
    columns : (P E / 4 32,) int32, four signed bytes each; or (P E 32,) float32
    bias : (32 P,) int32 or float32
    norms_rows, norms_columns : (n,), (32 P,) float32
    """
    whole = types.int64
    arrays = (best_rows, second_rows, place_rows, other_rows, best_columns, second_columns, place_columns)
    signature = types.void(data, *(whole,) * 5, columns, whole, bias, norms_rows, norms_columns, *arrays)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        write = Writer(context, builder, sig, args)
        bytewise = sig.args[0].dtype == types.int32
        column = args[7]
        ats = [write.plus(column, LANES * v) for v in range(VECTORS)]
        start = [write.load(write.array(8), at, WHOLES if bytewise else FLOATS) for at in ats]
        begin = builder.mul(column, write.length(write.array(0), 1))
        panels = (write.array(6), begin, ir.Constant(INDEX, LANES * VECTORS))
        sums = write.sums(VECTORS, start, panels, write.byte_products if bytewise else write.fused)
        norms = [write.load(write.array(10), at, FLOATS) for at in ats]
        scores = []
        for r in range(ROWS):
            norm = write.spread(write.one(write.array(9), args[1 + r]), FLOATS)
            totals = [builder.sitofp(x, FLOATS) if bytewise else x for x in sums[r]]
            scores.append([builder.fmul(builder.fmul(x, y), norm) for x, y in zip(totals, norms, strict=True)])
        _merge_tile(write, scores, args[5], column, [write.array(11 + i) for i in range(7)])
        return context.get_dummy_value()

    return signature, generate


match_codes: Any = intrinsic(_match_codes)
