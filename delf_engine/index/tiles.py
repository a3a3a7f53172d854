"""The innermost loop of the two-level search: inner products of four rows with 16 or 32 columns, in registers.

Loops that numba compiles load and store every sum once a dimension, since it cannot know that arrays do not
overlap. Here the sums of a tile stay in registers: the loop is written in the language of LLVM, in vectors of
sixteen floats, of which it makes what the processor has. Every lane adds up the products of one column in the
order of the dimensions, whatever else is in the tile; products and sums are fused where the processor can.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "ROWS", "tile_1", "tile_2"]

LANES, ROWS = 16, 4

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(64)
_ZEROS = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
_FUSED = ("contract",)


def _tile(vectors: int) -> Any:
    """Return a function for numba that fills a tile of four rows and ``16 vectors`` columns."""

    def tile(
        typingctx: Any, data: Any, i0: Any, i1: Any, i2: Any, i3: Any, columns: Any, at: Any, width: Any,
        bias: Any, first: Any, limits: Any, scores: Any,
    ) -> Any:  # fmt: skip
        whole = types.int64
        signature = whole(data, *(whole,) * 4, columns, whole, whole, bias, whole, limits, scores)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            def array(position: int) -> Any:
                return context.make_array(sig.args[position])(context, builder, args[position])

            def vector_at(base: Any, index: Any) -> Any:
                return builder.bitcast(builder.gep(base, [index]), _VECTOR.as_pointer())

            def spread(value: Any) -> Any:
                single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.IntType(32)(0))
                return builder.shuffle_vector(single, single, _ZEROS)

            rows, limit, out = array(0), array(10), array(11)
            dim = cgutils.unpack_tuple(builder, rows.shape)[1]
            stride = cgutils.unpack_tuple(builder, out.shape)[1]
            starts = [builder.mul(args[1 + r], dim) for r in range(ROWS)]
            lanes = [ir.Constant(_INDEX, LANES * v) for v in range(vectors)]
            sums = []
            for _ in range(ROWS):
                for lane in lanes:
                    place = cgutils.alloca_once(builder, _VECTOR)
                    start = vector_at(array(8).data, builder.add(args[9], lane))
                    builder.store(builder.load(start, align=4), place)
                    sums.append(place)
            with cgutils.for_range(builder, dim, intp=_INDEX) as loop:
                row = builder.add(args[6], builder.mul(loop.index, args[7]))
                parts = [builder.load(vector_at(array(5).data, builder.add(row, x)), align=4) for x in lanes]
                for r in range(ROWS):
                    value = builder.load(builder.gep(rows.data, [builder.add(starts[r], loop.index)]))
                    factor = spread(value)
                    for v, part in enumerate(parts):
                        place = sums[r * vectors + v]
                        product = builder.fmul(factor, part, flags=_FUSED)
                        builder.store(builder.fadd(builder.load(place), product, flags=_FUSED), place)
            above = ir.Constant(_INDEX, 0)
            for r in range(ROWS):
                begin = builder.add(args[9], builder.mul(ir.Constant(_INDEX, r), stride))
                least = spread(builder.load(builder.gep(limit.data, [ir.Constant(_INDEX, r)])))
                for v, lane in enumerate(lanes):
                    total = builder.load(sums[r * vectors + v])
                    builder.store(total, vector_at(out.data, builder.add(begin, lane)), align=4)
                    bits = builder.bitcast(builder.fcmp_ordered(">", total, least), ir.IntType(LANES))
                    some = builder.zext(builder.icmp_unsigned("!=", bits, ir.IntType(LANES)(0)), _INDEX)
                    above = builder.or_(above, builder.shl(some, ir.Constant(_INDEX, r)))
            return above

        return signature, generate

    tile.__doc__ = f"""Write ``bias + x . column`` of four rows x and {LANES * vectors} columns; say which are
    high.

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
    scores : (4, w) float32
        Overwritten.

    Returns
    -------
    int64
        Bit r is set where a score of row r is above its limit.
    """
    return intrinsic(tile)


tile_1, tile_2 = _tile(1), _tile(2)
