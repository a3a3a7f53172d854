"""The micro-kernel in the language of LLVM: inner products of four rows with 16 or 32 columns, in registers.

Loops that numba compiles load and store every sum once a dimension, since it cannot know that arrays do not
overlap. Here the sums of a tile stay in registers, in vectors of sixteen numbers, of which LLVM makes what the
processor has. `plain_tiles` says what each function does, and does it with the same bits.

Where the processor multiplies bytes and adds up the products in one instruction (AVX-512 VNNI), descriptors of
8 bits are compared at four times the rate. Their sums are whole numbers, and the same on every machine.

Pointers are opaque, as they are in LLVM: every address and every load names the type of what it is about.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from delf_engine.matching.plain_tiles import LANES, ROWS, VECTORS

_INDEX, _WHOLE = ir.IntType(64), ir.IntType(32)
_FLOATS, _WHOLES = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(_WHOLE, LANES)
_FUSED = ("contract",)
_NO_NAN = ("nnan", "nsz")
_BYTE_PRODUCTS = "llvm.x86.avx512.vpdpbusd.512"


@lru_cache(maxsize=1)
def has_byte_products() -> bool:
    """Tell whether this processor adds up products of bytes in one instruction."""
    return bool(dict(binding.get_host_cpu_features()).get("avx512vnni", False))


class _Array(NamedTuple):
    """An array argument: where its numbers are, of which type one is, and its shape."""

    data: Any
    element: ir.Type
    shape: list[Any]


class _Writer:
    """Writes the loads, stores and sums of a tile, from what numba gives an intrinsic's `generate`.

    The parameters of `tile`, the intrinsic's own function, name the arguments.
    """

    def __init__(self, tile: Callable[..., Any], context: Any, builder: Any, sig: Any, args: Any) -> None:
        self.context, self.builder = context, builder
        _, *names = inspect.signature(tile).parameters
        self.values = dict(zip(names, args, strict=True))
        self.types = dict(zip(names, sig.args, strict=True))
        self.rows = [self.values[f"i{r}"] for r in range(ROWS)]

    def array(self, name: str) -> _Array:
        """Return an argument that is an array."""
        kind = self.types[name]
        array = self.context.make_array(kind)(self.context, self.builder, self.values[name])
        # By way of a number, which LLVM takes out again: while llvmlite knows typed pointers, a cast from one to
        # an opaque one is none to it, and nothing but the pointee may be stored there.
        data = self.builder.inttoptr(self.builder.ptrtoint(array.data, _INDEX), ir.PointerType())
        shape = cgutils.unpack_tuple(self.builder, array.shape)
        return _Array(data, self.context.get_data_type(kind.dtype), shape)

    def plus(self, index: Any, more: int) -> Any:
        """Return an index moved by a constant."""
        return self.builder.add(index, ir.Constant(_INDEX, more))

    def one(self, array: _Array, index: Any) -> Any:
        """Return one element of an array, counted flat."""
        return self.builder.load(self._at(array, index), typ=array.element)

    def load(self, array: _Array, index: Any) -> Any:
        """Return a vector of an array from an index on, counted flat."""
        return self.builder.load(self._at(array, index), align=4, typ=ir.VectorType(array.element, LANES))

    def store(self, vector: Any, array: _Array, index: Any) -> None:
        """Store a vector into an array from an index on, counted flat."""
        self.builder.store(vector, self._at(array, index), align=4)

    def spread(self, value: Any) -> Any:
        """Return a vector with one value in all its lanes."""
        empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        single = self.builder.insert_element(empty, value, _WHOLE(0))
        return self.builder.shuffle_vector(single, single, ir.Constant(_WHOLES, [0] * LANES))

    def _at(self, array: _Array, index: Any) -> Any:
        return self.builder.gep(array.data, [index], source_etype=array.element)

    def variable(self, value: Any) -> Callable[..., Any]:
        """Return a variable of the stack, which LLVM keeps in a register: called with a value it takes it."""
        place = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, place)

        def access(new: Any = None) -> Any:
            if new is None:
                return self.builder.load(place, typ=value.type)
            return self.builder.store(new, place)

        return access

    def sums(self, vectors: int, first: Any, at: Any, width: Any) -> list[list[Any]]:
        """Return ``bias + x . column`` of the four rows x and some columns, as vectors [row][vector] of 16.

        `first` is the index of the first column's bias, `at` where that column begins in `columns`, and `width`
        how far the rows of that matrix are apart.
        """
        builder, data, columns, bias = self.builder, *map(self.array, ("data", "columns", "bias"))
        add = self._add_fused if data.element == ir.FloatType() else self._add_byte_products
        dim = data.shape[1]
        start = [self.load(bias, self.plus(first, LANES * v)) for v in range(vectors)]
        sums = [[self.variable(vector) for vector in start] for _ in range(ROWS)]
        begins = [builder.mul(row, dim) for row in self.rows]
        with cgutils.for_range(builder, dim, intp=_INDEX) as loop:
            row = builder.add(at, builder.mul(loop.index, width))
            parts = [self.load(columns, self.plus(row, LANES * v)) for v in range(vectors)]
            for r in range(ROWS):
                factor = self.spread(self.one(data, builder.add(begins[r], loop.index)))
                for total, part in zip(sums[r], parts, strict=True):
                    total(add(total(), factor, part))
        return [[total() for total in of_row] for of_row in sums]

    def _add_fused(self, total: Any, factor: Any, part: Any) -> Any:
        """Return ``total + factor part`` of floats, fused where the processor can."""
        product = self.builder.fmul(factor, part, flags=_FUSED)
        return self.builder.fadd(total, product, flags=_FUSED)

    def _add_byte_products(self, total: Any, factor: Any, part: Any) -> Any:
        """Return `total` + the sums of four products, of unsigned bytes of `factor` and signed ones of `part`."""
        kind = ir.FunctionType(_WHOLES, [_WHOLES] * 3)
        call = cgutils.get_or_insert_function(self.builder.module, kind, _BYTE_PRODUCTS)
        return self.builder.call(call, [total, factor, part])


# ---------------------------------------------------------------------------------------------- tiles of scores


def _write_scores(write: _Writer, vectors: int) -> Any:
    builder, first = write.builder, write.values["first"]
    limits, scores = write.array("limits"), write.array("scores")
    sums = write.sums(vectors, first, write.values["at"], write.values["width"])
    above = ir.Constant(_INDEX, 0)
    for r in range(ROWS):
        begin = builder.add(first, builder.mul(ir.Constant(_INDEX, r), scores.shape[1]))
        least = write.spread(write.one(limits, ir.Constant(_INDEX, r)))
        for v, total in enumerate(sums[r]):
            write.store(total, scores, write.plus(begin, LANES * v))
            bits = builder.bitcast(builder.fcmp_ordered(">", total, least), ir.IntType(LANES))
            some = builder.zext(builder.icmp_unsigned("!=", bits, ir.IntType(LANES)(0)), _INDEX)
            above = builder.or_(above, builder.shl(some, ir.Constant(_INDEX, r)))
    return above


def _scores_tile(vectors: int) -> Any:
    def tile(
        _typing: Any, data: Any, i0: Any, i1: Any, i2: Any, i3: Any, columns: Any, at: Any, width: Any,
        bias: Any, first: Any, limits: Any, scores: Any,
    ) -> Any:  # fmt: skip
        """Do what `plain_tiles` does."""
        whole = types.int64
        signature = whole(data, *(whole,) * ROWS, columns, whole, whole, bias, whole, limits, scores)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _write_scores(_Writer(tile, context, builder, sig, args), vectors)

        return signature, generate

    return intrinsic(tile)


scores_16, scores_32 = _scores_tile(1), _scores_tile(2)


# --------------------------------------------------------------------------------------------- tiles of matching


def _scaled(write: _Writer, sums: list[list[Any]], column: Any) -> list[list[Any]]:
    """Return sums as floats, times the norms of both sides if there are any."""
    if isinstance(write.types["norms_rows"], types.NoneType):
        return sums
    builder, of_rows, of_columns = write.builder, write.array("norms_rows"), write.array("norms_columns")
    norms = [write.load(of_columns, write.plus(column, LANES * v)) for v in range(VECTORS)]
    out = []
    for r, row in enumerate(write.rows):
        norm = write.spread(write.one(of_rows, row))
        totals = [x if x.type == _FLOATS else builder.sitofp(x, _FLOATS) for x in sums[r]]
        out.append([builder.fmul(builder.fmul(x, y), norm) for x, y in zip(totals, norms, strict=True)])
    return out


def _merged(write: _Writer, value: Any, place: Any, kept: list[Any]) -> list[Any]:
    """Return best, second best and their places (or that of the best alone), of those kept and one more value."""
    builder = write.builder
    best, second, at = kept[:3]
    higher = builder.fcmp_ordered(">", value, best, flags=_NO_NAN)
    other = builder.select(higher, best, value)
    above = builder.fcmp_ordered(">", other, second, flags=_NO_NAN)
    merged = [
        builder.select(higher, value, best),
        builder.select(above, other, second),
        builder.select(higher, place, at),
    ]
    if len(kept) > 3:
        # A best that is surpassed stood before a second that equals it: it is the second now in any case.
        merged.append(builder.select(higher, at, builder.select(above, place, kept[3])))
    return merged


def _write_matches(write: _Writer) -> None:
    """Merge a tile into the maxima of its rows, a lane each, and of its columns."""
    builder, column = write.builder, write.values["column"]
    width = ir.Constant(_INDEX, LANES * VECTORS)
    at = builder.mul(column, write.array("data").shape[1])
    scores = _scaled(write, write.sums(VECTORS, column, at, width), column)
    of_rows = [write.array(name) for name in ("best_rows", "second_rows", "place_rows", "other_rows")]
    of_columns = [write.array(name) for name in ("best_columns", "second_columns", "place_columns")]
    starts = [write.plus(column, LANES * v) for v in range(VECTORS)]
    columns = [[write.variable(write.load(array, start)) for array in of_columns] for start in starts]
    places = [write.spread(builder.trunc(start, _WHOLE)) for start in starts]
    for r, row in enumerate(write.rows):
        counts = builder.icmp_signed("<", ir.Constant(_INDEX, r), write.values["count"])
        with builder.if_then(counts, likely=True):
            begin = builder.mul(row, ir.Constant(_INDEX, LANES))
            best = [write.load(array, begin) for array in of_rows]
            number = write.spread(builder.trunc(row, _WHOLE))
            for v in range(VECTORS):
                best = _merged(write, scores[r][v], places[v], best)
                kept = _merged(write, scores[r][v], number, [variable() for variable in columns[v]])
                for variable, value in zip(columns[v], kept, strict=True):
                    variable(value)
            for array, value in zip(of_rows, best, strict=True):
                write.store(value, array, begin)
    for v, start in enumerate(starts):
        for array, variable in zip(of_columns, columns[v], strict=True):
            write.store(variable(), array, start)


def _match_tile(
    _typing: Any, data: Any, i0: Any, i1: Any, i2: Any, i3: Any, count: Any, columns: Any, column: Any,
    bias: Any, norms_rows: Any, norms_columns: Any,
    best_rows: Any, second_rows: Any, place_rows: Any, other_rows: Any,
    best_columns: Any, second_columns: Any, place_columns: Any,
) -> Any:  # fmt: skip
    """Do what `plain_tiles` does; bytes for processors that `has_byte_products` says yes of."""
    whole = types.int64
    maxima = (best_rows, second_rows, place_rows, other_rows, best_columns, second_columns, place_columns)
    numbers = (whole,) * (ROWS + 1)
    signature = types.void(data, *numbers, columns, whole, bias, norms_rows, norms_columns, *maxima)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _write_matches(_Writer(_match_tile, context, builder, sig, args))
        return context.get_dummy_value()

    return signature, generate


match_tile: Any = intrinsic(_match_tile)


# ------------------------------------------------------------------------------------------------------- support


@njit(cache=True)
def _try_scores(data: Any, columns: Any, bias: Any, limits: Any, scores: Any) -> Any:
    return scores_16(data, 0, 0, 0, 0, columns, 0, LANES, bias, 0, limits, scores)


@njit(cache=True)
def _try_match(data: Any, columns: Any, bias: Any, norms: Any, of_rows: Any, of_columns: Any) -> None:
    best, second, place, other = of_rows
    best_columns, second_columns, place_columns = of_columns
    match_tile(
        data, 0, 0, 0, 0, 1, columns, 0, bias, norms, norms,
        best, second, place, other, best_columns, second_columns, place_columns,
    )  # fmt: skip


def check_support(*, of_bytes: bool) -> None:
    """Compile and run tiles, to see whether the installed numba and llvmlite still are what this is written for.

    `of_bytes` are tiles of bytes, which `has_byte_products` must say yes of; else those of floats. Raises whatever
    numba says if they are not, and `RuntimeError` if a tile computes something else.
    """
    width = LANES * VECTORS
    data = np.full((1, 1), 0x01010101, np.int32) if of_bytes else np.ones((1, 1), np.float32)
    numbers = np.arange(width, dtype=np.int32 if of_bytes else np.float32)  # of bytes: the first of each four
    low = np.float32(-np.inf)
    of_rows = (*np.full((2, 1, LANES), low), *np.zeros((2, 1, LANES), np.int32))
    of_columns = (*np.full((2, width), low), np.zeros(width, np.int32))
    norms = np.ones(width, np.float32) if of_bytes else None
    _try_match(data, numbers, np.zeros_like(numbers), norms, of_rows, of_columns)
    good = np.array_equal(of_columns[0], np.arange(width)) and np.array_equal(
        of_rows[0][0], np.arange(LANES, width)
    )
    if not of_bytes:
        scores, limits = np.zeros((ROWS, LANES), np.float32), np.array([LANES - 2, LANES, 0, 0], np.float32)
        above = _try_scores(data, numbers, np.zeros(LANES, np.float32), limits, scores)
        good = good and above == 0b1101 and np.array_equal(scores, np.tile(np.arange(LANES), (ROWS, 1)))
    if not good:
        raise RuntimeError("a compiled tile gives wrong numbers")
