"""What an `IvfIndex` keeps of its images: descriptors of 8 bits and their codes, in the order of the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError, MismatchError
from delf_engine.index.collection import Allocate, Arrays, Segment
from delf_engine.index.kdtree_layout import offsets_of, row_counts
from delf_engine.index.product_quantizer import ProductQuantizer

__all__ = [
    "KIND",
    "UNIT",
    "VERSION",
    "IvfLayout",
    "Rows",
    "as_bytes",
    "check_count",
    "check_quantizer",
    "damaged",
]

KIND = "ivf"
VERSION = 1
UNIT = 1 / 127  # of a component of a descriptor

_MOST_ROWS = 1 << 32
_GONE = -(1 << 62)


@dataclass(frozen=True)
class Rows:
    """What is kept of one image: the cell, the descriptor and the code of each of its descriptors.

    Attributes
    ----------
    cells : (N,) int32
    descriptors : (N, D) uint8
    codes : (N, B) uint8
        B = 0 where there is no product quantiser.
    """

    cells: npt.NDArray[np.int32]
    descriptors: npt.NDArray[np.uint8]
    codes: npt.NDArray[np.uint8]


class IvfLayout:
    """The arrays of a segment.

    Parameters
    ----------
    words, dim : int
        Of the codebook.
    code_bytes : int
        Of each code; 0: none are kept.
    """

    kind = KIND
    version = VERSION

    def __init__(self, words: int, dim: int, code_bytes: int) -> None:
        self._words = words
        self._dim = dim
        self._code_bytes = code_bytes
        self.dtypes: Mapping[str, tuple[str, int]] = {
            "cell_offsets": ("<i8", 1),  # (W + 1,) where the descriptors of each cell begin
            "rows": ("<u4", 1),  # (R,) number of each in the order of insertion, ascending in a cell
            "row_offsets": ("<i8", 1),  # (n + 1,) number of the first one of each image
            "descriptors": ("|u1", 2),  # (R, D)
            **({"codes": ("|u1", 2)} if code_bytes else {}),  # (R, B)
        }

    def build(self, payloads: Sequence[Rows]) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a segment of these images."""
        cells = np.concatenate([payload.cells for payload in payloads])
        check_count(len(cells))
        order = np.argsort(cells, kind="stable")
        arrays: dict[str, npt.NDArray[Any]] = {
            "cell_offsets": offsets_of(np.bincount(cells, minlength=self._words)),
            "rows": order.astype("<u4"),
            "row_offsets": offsets_of([len(payload.cells) for payload in payloads]),
            "descriptors": np.concatenate([payload.descriptors for payload in payloads])[order],
        }
        if self._code_bytes:
            arrays["codes"] = np.concatenate([payload.codes for payload in payloads])[order]
        return arrays

    def merge(self, segments: Sequence[Segment], allocate: Allocate) -> None:
        """Write the live rows of several segments into new arrays."""
        from delf_engine.index import ivf_kernels

        counts = np.zeros(self._words, np.int64)
        for segment in segments:
            a = segment.arrays
            if not ivf_kernels.count_cells(a["cell_offsets"], a["rows"], a["row_offsets"], segment.alive, counts):
                raise damaged(segment)
        offsets = offsets_of(counts)
        total = int(offsets[-1])
        check_count(total)
        allocate("cell_offsets", offsets.shape)[...] = offsets
        row_offsets = offsets_of(np.concatenate([row_counts(s)[s.alive] for s in segments]))
        allocate("row_offsets", row_offsets.shape)[...] = row_offsets
        rows, descriptors = allocate("rows", (total,)), allocate("descriptors", (total, self._dim))
        codes = (
            allocate("codes", (total, self._code_bytes)) if self._code_bytes else np.empty((total, 0), np.uint8)
        )
        out = (np.asarray(rows), np.asarray(descriptors), np.asarray(codes))
        cursor, first = offsets[:-1].copy(), 0
        for segment in segments:
            a = segment.arrays
            shifts = np.full(len(segment.ids), _GONE)
            shifts[segment.alive] = (
                row_offsets[first : first + segment.live] - a["row_offsets"][:-1][segment.alive]
            )
            arrays = (a["cell_offsets"], a["rows"], a["descriptors"], self.codes(segment), a["row_offsets"])
            ivf_kernels.copy_cells(*arrays, shifts, cursor, *out)
            first += segment.live

    def codes(self, segment: Segment) -> npt.NDArray[np.uint8]:
        """Return the codes of a segment, (R, B) uint8; (R, 0) where none are kept."""
        if self._code_bytes:
            return segment.arrays["codes"]
        empty = np.empty((len(segment.arrays["rows"]), 0), np.uint8)
        empty.flags.writeable = False
        return empty

    def problem(self, arrays: Arrays, images: int) -> str | None:
        """Say what is wrong with the arrays of a segment, at no cost that grows with them."""
        count = len(arrays["rows"])
        cells, offsets = arrays["cell_offsets"], arrays["row_offsets"]
        if len(cells) != self._words + 1 or int(cells[0]) != 0 or int(cells[-1]) != count:
            return "cell_offsets do not fit the rows or the codebook"
        if len(offsets) != images + 1 or int(offsets[0]) != 0 or int(offsets[-1]) != count:
            return "row_offsets do not fit the rows or the images"
        shapes = {"descriptors": (count, self._dim), "codes": (count, self._code_bytes)}
        for name, wanted in shapes.items():
            if name in arrays and arrays[name].shape != wanted:
                return f"{name} have shape {arrays[name].shape}, wanted {wanted}"
        return None


def as_bytes(descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return descriptors in units of 1 / 127, rounded, 128 meaning 0; what lies beyond [-1, 1] is cut off.

    Each component of a descriptor of unit length is off by at most 1 / 254, and all together by at most
    sqrt(D) / 254.
    """
    return (np.clip(np.rint(descriptors / np.float32(UNIT)), -127, 127) + 128).astype(np.uint8)


def check_count(rows: int) -> None:
    """Refuse more descriptors than there are numbers for.

    Raises
    ------
    FormatError
        From 2^32 on.
    """
    if rows >= _MOST_ROWS:
        raise FormatError(f"{rows} descriptors do not fit one index, which holds 2^32 - 1; make several indexes")


def check_quantizer(header: Mapping[str, Any], quantizer: ProductQuantizer | None, where: str) -> None:
    """Compare a product quantiser with that of the index that was saved with `header`.

    Raises
    ------
    MismatchError
        If it was built with another one.
    """
    wanted = header["quantizer"]
    if wanted is not None and (quantizer is None or quantizer.hash != wanted):
        given = "none was given" if quantizer is None else f"not with {quantizer.hash[:8]}"
        raise MismatchError(
            f"{where}: the index was built with product quantiser {wanted[:8]}, {given}; load it with that one"
        )


def damaged(segment: Segment) -> FormatError:
    """Return the error of a segment whose rows point outside each other."""
    return FormatError(
        f"{segment.name or 'segment'}: cells are damaged: they point outside; build the index again"
    )
