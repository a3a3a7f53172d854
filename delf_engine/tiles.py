"""The innermost loop of the searches: inner products of four rows with 16 or 32 columns, in registers.

Loops that numba compiles load and store every sum once a dimension, since it cannot know that arrays do not
overlap. Here the sums of a tile stay in registers: the loop is written in the language of LLVM, in vectors of
sixteen numbers, of which it makes what the processor has. Every lane adds up the products of one column in the
order of the dimensions, whatever else is in the tile; products and sums are fused where the processor can.

Where the processor multiplies bytes and adds up the products in one instruction (AVX-512 VNNI), descriptors of
8 bits are compared at four times the rate. Their sums are whole numbers, and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["FLOATS", "INDEX", "LANES", "ROWS", "WHOLES", "Writer", "has_byte_products", "tile_1", "tile_2"]

LANES, ROWS = 16, 4

FLOATS = ir.VectorType(ir.FloatType(), LANES)
WHOLES = ir.VectorType(ir.IntType(32), LANES)
INDEX = ir.IntType(64)
_ZEROS = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
_FUSED = ("contract",)
_BYTE_PRODUCTS = "llvm.x86.avx512.vpdpbusd.512"


@lru_cache(maxsize=1)
def has_byte_products() -> bool:
    """Tell whether this processor adds up products of bytes in one instruction, as the byte tiles do."""
    return bool(dict(binding.get_host_cpu_features()).get("avx512vnni", False))


class Writer:
    """Writes the loads, stores and sums of a tile, from what an intrinsic's `generate` is given.

    Parameters
    ----------
    context, builder, sig, args
        Those of the intrinsic.
    """

    def __init__(self, context: Any, builder: Any, sig: Any, args: Any) -> None:
        self.context, self.builder, self.sig, self.args = context, builder, sig, args

    def array(self, position: int) -> Any:
        """Return the array that an argument is."""
        return self.context.make_array(self.sig.args[position])(self.context, self.builder, self.args[position])

    def length(self, array: Any, axis: int) -> Any:
        """Return the length of an axis."""
        return cgutils.unpack_tuple(self.builder, array.shape)[axis]

    def plus(self, index: Any, more: int) -> Any:
        """Return an index moved by a constant."""
        return self.builder.add(index, ir.Constant(INDEX, more))

    def one(self, array: Any, index: Any) -> Any:
        """Return one element of an array, counted flat."""
        return self.builder.load(self.builder.gep(array.data, [index]))

    def load(self, array: Any, index: Any, kind: ir.VectorType) -> Any:
        """Return a vector of an array from an index on, counted flat."""
        return self.builder.load(self._at(array, index, kind), align=4)

    def store(self, vector: Any, array: Any, index: Any) -> None:
        """Store a vector into an array from an index on, counted flat."""
        self.builder.store(vector, self._at(array, index, vector.type), align=4)

    def spread(self, value: Any, kind: ir.VectorType) -> Any:
        """Return a vector with one value in all its lanes."""
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(single, single, _ZEROS)

    def _at(self, array: Any, index: Any, kind: ir.VectorType) -> Any:
        return self.builder.bitcast(self.builder.gep(array.data, [index]), kind.as_pointer())

    def sums(
        self, vectors: int, start: list[Any], columns: tuple[Any, Any, Any], add: Callable[[Any, Any, Any], Any]
    ) -> list[list[Any]]:
        """Return vectors of sums, [row][vector], over the dimensions.

        Parameters
        ----------
        vectors : int
            Of 16 columns each.
        start : list
            For each vector, what its sums begin with.
        columns : (array, index, index)
            An array with a (D, width) matrix in it, where its first of the columns begins, and the width.
        add : callable
            From (sums, one value of a row in all lanes, values of the columns) to new sums. Rows are arguments
            1 to 4, numbers of rows of the matrix that is argument 0.
        """
        builder, kind = self.builder, start[0].type
        rows = self.array(0)
        dim = self.length(rows, 1)
        places = []
        for _ in range(ROWS * vectors):
            places.append(cgutils.alloca_once(builder, kind))
            builder.store(start[(len(places) - 1) % vectors], places[-1])
        begins = [builder.mul(self.args[1 + r], dim) for r in range(ROWS)]
        with cgutils.for_range(builder, dim, intp=INDEX) as loop:
            row = builder.add(columns[1], builder.mul(loop.index, columns[2]))
            parts = [self.load(columns[0], self.plus(row, LANES * v), kind) for v in range(vectors)]
            for r in range(ROWS):
                factor = self.spread(self.one(rows, builder.add(begins[r], loop.index)), kind)
                for v, part in enumerate(parts):
                    place = places[r * vectors + v]
                    builder.store(add(builder.load(place), factor, part), place)
        return [[builder.load(places[r * vectors + v]) for v in range(vectors)] for r in range(ROWS)]

    def fused(self, total: Any, factor: Any, part: Any) -> Any:
        """Return ``total + factor part`` of floats, fused where the processor can."""
        product = self.builder.fmul(factor, part, flags=_FUSED)
        return self.builder.fadd(total, product, flags=_FUSED)

    def byte_products(self, total: Any, factor: Any, part: Any) -> Any:
        """Return `total` + the sums of four products, of unsigned bytes of `factor` and signed ones of `part`."""
        kind = ir.FunctionType(WHOLES, [WHOLES] * 3)
        call = cgutils.get_or_insert_function(self.builder.module, kind, _BYTE_PRODUCTS)
        return self.builder.call(call, [total, factor, part])


def _tile(vectors: int) -> Any:
    """Return a function for numba that fills a tile of four rows and ``16 vectors`` columns."""

    def tile(
        typingctx: Any, data: Any, i0: Any, i1: Any, i2: Any, i3: Any, columns: Any, at: Any, width: Any,
        bias: Any, first: Any, limits: Any, scores: Any,
    ) -> Any:  # fmt: skip
        whole = types.int64
        signature = whole(data, *(whole,) * 4, columns, whole, whole, bias, whole, limits, scores)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            write = Writer(context, builder, sig, args)
            limit, out = write.array(10), write.array(11)
            stride = write.length(out, 1)
            start = [write.load(write.array(8), write.plus(args[9], LANES * v), FLOATS) for v in range(vectors)]
            sums = write.sums(vectors, start, (write.array(5), args[6], args[7]), write.fused)
            above = ir.Constant(INDEX, 0)
            for r in range(ROWS):
                begin = builder.add(args[9], builder.mul(ir.Constant(INDEX, r), stride))
                least = write.spread(write.one(limit, ir.Constant(INDEX, r)), FLOATS)
                for v, total in enumerate(sums[r]):
                    write.store(total, out, write.plus(begin, LANES * v))
                    bits = builder.bitcast(builder.fcmp_ordered(">", total, least), ir.IntType(LANES))
                    some = builder.zext(builder.icmp_unsigned("!=", bits, ir.IntType(LANES)(0)), INDEX)
                    above = builder.or_(above, builder.shl(some, ir.Constant(INDEX, r)))
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
