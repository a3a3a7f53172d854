"""Ground truth of the revisited Oxford and Paris benchmarks: which images show what each query shows.

Radenović, Iscen, Tolias, Avrithis, Chum: Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking,
CVPR 2018. Every query has images that show it plainly (easy), images that show it under hard conditions (hard)
and images that are neither counted for nor against a ranking (junk); all others are negatives.

========  =============  ============
set-up    positives      taken out
========  =============  ============
easy      easy           junk, hard
medium    easy, hard     junk
hard      hard           junk, easy
========  =============  ============
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.evaluation.rankings import Indices, check_listed, index_array
from delf_engine.support.arrays import check_array, checked_names
from delf_engine.support.files import library_errors, replacing, system_errors

Setup: TypeAlias = Literal["easy", "medium", "hard"]

SETUPS: tuple[Setup, ...] = get_args(Setup)

#: Lists that each set-up counts as positives, and those that it takes out.
_FIELDS: dict[Setup, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_PROTOCOL = 2  # of pickle: what the published evaluation code reads in any version of Python


@dataclass(frozen=True, eq=False, repr=False)
class GroundTruth:
    """Which images of a gallery show what each query shows.

    Parameters
    ----------
    names : sequence of N str
        Names of the gallery's images, in the order that indices refer to.
    query_names : sequence of Q str
    boxes : (Q, 4) float64
        x0, y0, x1, y1 of each query's landmark in pixels of the query image, to which it is cropped.
    easy, hard, junk : sequence of Q integer arrays
        Indices into `names`, for each query. No image is in two of them.

    Raises
    ------
    DataError
        If lengths disagree, a name is doubled, an index is not one of `names` or occurs twice for a query, or a
        box is not four finite numbers.
    """

    names: tuple[str, ...]
    query_names: tuple[str, ...]
    boxes: npt.NDArray[np.float64]
    easy: tuple[Indices, ...]
    hard: tuple[Indices, ...]
    junk: tuple[Indices, ...]

    def __post_init__(self) -> None:
        for field in ("names", "query_names"):
            object.__setattr__(self, field, tuple(checked_names(getattr(self, field), field, distinct=True)))
        queries = len(self.query_names)
        boxes = check_array("boxes", self.boxes, np.float64, (queries, 4), error=DataError).copy()
        boxes.flags.writeable = False
        object.__setattr__(self, "boxes", boxes)
        for field in ("easy", "hard", "junk"):
            object.__setattr__(self, field, tuple(index_array(each, field) for each in getattr(self, field)))
            if len(getattr(self, field)) != queries:
                raise DataError(f"{field} must have one list for each of the {queries} queries")
        for name, *lists in zip(self.query_names, self.easy, self.hard, self.junk, strict=True):
            check_listed(np.concatenate(lists), len(self.names), f"query {name}")

    def __len__(self) -> int:
        return len(self.query_names)

    def positives_of(self, setup: Setup) -> tuple[Indices, ...]:
        """Return the indices of the images that each query should find."""
        return self._joined(setup_fields(setup)[0])

    def junk_of(self, setup: Setup) -> tuple[Indices, ...]:
        """Return the indices of the images that `setup` takes out of each query's ranking.

        A shortlist that is cut before it is re-ranked must lose them before the cut.
        """
        return self._joined(setup_fields(setup)[1])

    def _joined(self, fields: tuple[str, ...]) -> tuple[Indices, ...]:
        return tuple(np.concatenate(lists) for lists in zip(*(getattr(self, f) for f in fields), strict=True))

    def __repr__(self) -> str:
        return f"GroundTruth({len(self)} queries, {len(self.names)} images)"


def setup_fields(setup: Setup) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which lists of a ground truth a set-up counts as positives, and which it takes out."""
    if setup not in SETUPS:
        raise ConfigError(f"there is no set-up {setup!r}; choose one of {', '.join(SETUPS)}")
    return _FIELDS[setup]


def load_ground_truth(path: str | os.PathLike[str]) -> GroundTruth:
    """Read ``gnd_roxford5k.pkl`` or ``gnd_rparis6k.pkl`` as the authors distribute them.

    The files are pickles of plain lists, dictionaries, strings and numbers; a pickle that asks for anything
    else is refused before it gets it, so a file of unknown origin cannot run code.

    Raises
    ------
    FormatError
        If the file is missing, damaged, asks for more than plain values, or is no such ground truth.
    """
    with library_errors(f"{path}: cannot be read as a ground truth"):
        content = _plain_values(Path(path).read_bytes())
    try:
        queries = content["gnd"]
        boxes = np.array([query["bbx"] for query in queries], np.float64).reshape(-1, 4)
        easy, hard, junk = (
            tuple(index_array(query[field], field) for query in queries) for field in ("easy", "hard", "junk")
        )
        return GroundTruth(content["imlist"], content["qimlist"], boxes, easy, hard, junk)
    except (DataError, LookupError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: is no ground truth of the revisited protocol: {error!r}") from error


def save_ground_truth(path: str | os.PathLike[str], truth: GroundTruth) -> None:
    """Write a ground truth as ``gnd_roxford5k.pkl`` is laid out: whole, or not at all.

    The file is a pickle of plain lists, dictionaries, strings and numbers, ``{"imlist", "qimlist", "gnd"}`` with
    ``{"bbx", "easy", "hard", "junk"}`` for each query (Radenović et al., CVPR 2018). `load_ground_truth` reads
    it, and so does ``pickle.load`` in the published code. Equal ground truths give equal bytes.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    queries = [
        {"bbx": box, "easy": easy.tolist(), "hard": hard.tolist(), "junk": junk.tolist()}
        for box, easy, hard, junk in zip(truth.boxes.tolist(), truth.easy, truth.hard, truth.junk, strict=True)
    ]
    content = {"imlist": list(truth.names), "qimlist": list(truth.query_names), "gnd": queries}
    with (
        system_errors(
            f"{path}: the ground truth cannot be written; make room or choose another folder", DataError
        ),
        replacing(Path(path)) as temporary,
    ):
        temporary.write_bytes(pickle.dumps(content, protocol=_PROTOCOL))


def restrict(ground_truth: GroundTruth, names: Sequence[str], query_names: Sequence[str]) -> GroundTruth:
    """Return the ground truth of some of the queries on a part of the gallery.

    Parameters
    ----------
    ground_truth : GroundTruth
    names, query_names : sequence of str
        Images and queries to keep, in this order.

    Raises
    ------
    DataError
        If a name is doubled or not in `ground_truth`.
    """
    kept = _places(ground_truth.names, checked_names(names, "names", distinct=True), "gallery")
    chosen = _places(ground_truth.query_names, checked_names(query_names, "query_names", distinct=True), "queries")
    place = np.full(len(ground_truth.names), -1, np.int64)
    place[kept] = np.arange(len(kept))

    def moved(lists: tuple[Indices, ...]) -> tuple[Indices, ...]:
        return tuple(np.sort(new[new >= 0]) for new in (place[lists[q]] for q in chosen))

    return GroundTruth(
        tuple(names),
        tuple(query_names),
        ground_truth.boxes[chosen],
        *(moved(lists) for lists in (ground_truth.easy, ground_truth.hard, ground_truth.junk)),
    )


def _places(all_names: tuple[str, ...], wanted: list[str], what: str) -> list[int]:
    place = {name: i for i, name in enumerate(all_names)}
    unknown = [name for name in wanted if name not in place]
    if unknown:
        raise DataError(f"{unknown[0]!r} is not among the {what} of this ground truth")
    return [place[name] for name in wanted]


def _plain_values(data: bytes) -> Any:
    """Unpickle plain values; damaged lengths and places of the memo must not ask for gigabytes either."""
    for opcode, argument, _ in pickletools.genops(data):  # checks the lengths
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise pickle.UnpicklingError(f"damaged: value number {argument} in {len(data)} bytes")
    return _PlainUnpickler(io.BytesIO(data)).load()


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values only: whatever a pickle names to call or to build is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain values are allowed")
