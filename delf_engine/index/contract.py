"""What every candidate index does, and the checks at its door."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.index.advice import advice

__all__ = [
    "CandidateIndex",
    "Found",
    "IndexInfo",
    "Progress",
    "check_batch",
    "check_ids",
    "check_queries",
    "check_query",
]

Found: TypeAlias = tuple[list[str], npt.NDArray[np.float32]]  # ids, best first, and their (K,) scores
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds.

    Attributes
    ----------
    kind : str
        ``asmk``, ``bow``, ``vlad``, ``fisher``, ``kdtree`` or ``ivf``.
    images : int
        Images that a search can find.
    removed : int
        Images that were removed and still take space until segments are merged.
    entries : int
        Postings of an ASMK or BoW index, vectors of a VLAD or Fisher index, descriptors of a KD-tree or IVF index,
        those of removed images included.
    bytes : int
        Size of its arrays.
    segments : int
        Immutable parts that its arrays are kept in.
    dim : int
        Descriptor dimension D.
    """

    kind: str
    images: int
    removed: int
    entries: int
    bytes: int
    segments: int
    dim: int

    @property
    def advice(self) -> str | None:
        """What would serve better than this index as it is, or None; see `delf_engine.index.advice`."""
        return advice(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {**asdict(self), "advice": self.advice}


class CandidateIndex(Protocol):
    """Finds the images of a collection that may show what a query shows.

    Equal collections, added in the same order, give equal results: bit for bit, however they came about, and
    whether or not they were saved in between.
    """

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""

    def add(self, ids: Sequence[str], features: Sequence[LocalFeatures]) -> list[str]:
        """Add images and return the ids that were new; an id that is there already is left alone."""

    def remove(self, ids: Iterable[str]) -> None:
        """Remove images, or raise `UnknownIdError` and remove none."""

    def replace(self, ids: Sequence[str], features: Sequence[LocalFeatures]) -> list[str]:
        """Give images new features, or raise `UnknownIdError` and change none; they become the last in order."""

    def compact(self) -> None:
        """Let the next save leave one segment without removed images."""

    def search(
        self,
        features: LocalFeatures,
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
    ) -> Found:
        """Return the at most `top_k` images with a score above 0, best first, ties in the order of insertion.

        With any of the options the result is that of ranking the whole collection and leaving out what they do
        not allow: scores stay the same.

        Parameters
        ----------
        features : LocalFeatures
        top_k : int
        among : iterable of str or None
            Return these images only; None: any. An id that the index does not hold raises `UnknownIdError`, since
            a search among images that are not there cannot be meant.
        exclude : iterable of str
            Leave these images out, such as the query itself. Ids that the index does not hold are ignored: they
            are left out already.
        min_score : float or None
            Leave out images with a lower score.
        """

    def search_many(
        self,
        queries: Iterable[LocalFeatures],
        top_k: int,
        *,
        among: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        min_score: float | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> list[Found]:
        """Return what `search` returns for each query, bit for bit, with any number of threads."""

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write what is new into `directory`; a crash leaves the state that was saved last."""

    def ids(self) -> list[str]:
        """Return the ids of all images, in the order of insertion."""

    def info(self) -> IndexInfo:
        """Return what the index holds."""

    def __len__(self) -> int: ...

    def __contains__(self, image_id: object) -> bool: ...


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return `ids` as a list.

    Raises
    ------
    ConfigError
        If it is a single string, or one of the ids is empty or not a string.
    """
    if isinstance(ids, str):
        raise ConfigError(f"expected several ids, got the single string {ids!r}; put it into a list")
    ids = list(ids)
    for image_id in ids:
        if not isinstance(image_id, str) or not image_id:
            raise ConfigError(f"an image id must be a non-empty string, got {image_id!r}")
    return ids


def check_batch(ids: Iterable[str], features: Iterable[LocalFeatures], dim: int) -> dict[str, LocalFeatures]:
    """Return a batch by image id; of an id that occurs twice the first counts.

    Raises
    ------
    ConfigError
        If the lengths differ or an id is empty or not a string.
    FeatureError
        If an item is no `LocalFeatures`.
    MismatchError
        If descriptors do not have `dim` dimensions.
    """
    ids, features = check_ids(ids), list(features)
    if len(ids) != len(features):
        raise ConfigError(f"got {len(ids)} ids for the features of {len(features)} images")
    batch: dict[str, LocalFeatures] = {}
    for image_id, item in zip(ids, features, strict=True):
        _check_features(item, dim, image_id)
        batch.setdefault(image_id, item)
    return batch


def check_query(features: LocalFeatures, top_k: int, dim: int) -> int:
    """Return `top_k` as an int once the query fits.

    Raises
    ------
    ConfigError
        If `top_k` is not a whole number of at least 1.
    FeatureError
        If `features` are no `LocalFeatures`.
    MismatchError
        If descriptors do not have `dim` dimensions.
    """
    _check_features(features, dim, "query")
    return _check_top_k(top_k)


def _check_top_k(top_k: int) -> int:
    try:
        count = operator.index(top_k)
    except TypeError as error:
        raise ConfigError(f"top_k must be a whole number, got {top_k!r}") from error
    if count < 1:
        raise ConfigError(f"top_k must be at least 1, got {count}")
    return count


def check_queries(queries: Iterable[LocalFeatures], top_k: int, dim: int) -> tuple[list[LocalFeatures], int]:
    """Return several queries as a list, and `top_k` as an int, as `check_query`; errors name the query."""
    if isinstance(queries, LocalFeatures):
        raise ConfigError("expected several queries, got the features of one; put them into a list")
    several = list(queries)
    count = _check_top_k(top_k)
    for number, features in enumerate(several):
        _check_features(features, dim, f"query {number}")
    return several, count


def _check_features(features: LocalFeatures, dim: int, name: str) -> None:
    if not isinstance(features, LocalFeatures):
        raise FeatureError(f"{name}: expected LocalFeatures, got {type(features).__name__}")
    if features.dim != dim:
        raise MismatchError(f"{name}: descriptors have {features.dim} dimensions, the index holds {dim}")
