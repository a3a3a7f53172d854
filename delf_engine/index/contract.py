"""What an index takes and gives: the checks at its door, and what it says of itself."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, MismatchError
from delf_engine.features import LocalFeatures

#: What a search compares: what the kind of index keeps of local features, global descriptors, or both.
SearchBy: TypeAlias = Literal["local", "global", "fused"]
Found: TypeAlias = tuple[list[str], npt.NDArray[np.float32]]  # ids, best first, and their (K,) scores
Frequencies: TypeAlias = tuple[int, npt.NDArray[np.int64]]  # images, and those that have each word, (W,)

_KDTREE_DESCRIPTORS = 2_000_000  # more of them are better searched by an index that does not hold them in memory
_REMOVED_SHARE = 0.2  # of all rows, from which on merging is worth while
_REMOVED_IMAGES = 1000  # fewer cost nothing worth a word


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
        Postings of an ASMK index, vectors of a BoW, VLAD or Fisher index, descriptors of a KD-tree or IVF index,
        those of removed images included.
    bytes : int
        Size of its arrays.
    segments : int
        Immutable parts that its arrays are kept in.
    dim : int
        Descriptor dimension D.
    vectors : int
        Components of the global descriptors that are kept, too; 0: none are.
    """

    kind: str
    images: int
    removed: int
    entries: int
    bytes: int
    segments: int
    dim: int
    vectors: int = 0

    @property
    def advice(self) -> str | None:
        """What would serve better than this index as it is: another kind, or a merge; None: nothing."""
        if self.kind == "kdtree" and self.entries > _KDTREE_DESCRIPTORS:
            return (
                f"KD-trees hold all {self.entries:,} descriptors in memory and grow anew after a change; from "
                f"{_KDTREE_DESCRIPTORS:,} on take an index of kind 'asmk' or 'ivf'"
            )
        if self.removed >= _REMOVED_IMAGES and self.removed >= _REMOVED_SHARE * (self.images + self.removed):
            return f"{self.removed:,} removed images still take space and time; compact the index"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return {**asdict(self), "advice": self.advice}


def check_ids(ids: Iterable[str]) -> list[str]:
    """Return `ids` as a list; a `ConfigError` if it is a single string, or one of them is empty or no string."""
    if isinstance(ids, str):
        raise ConfigError(f"expected several ids, got the single string {ids!r}; put it into a list")
    ids = list(ids)
    for image_id in ids:
        if not isinstance(image_id, str) or not image_id:
            raise ConfigError(f"an image id must be a non-empty string, got {image_id!r}")
    return ids


def check_batch(ids: Iterable[str], features: Iterable[LocalFeatures], dim: int) -> dict[str, LocalFeatures]:
    """Return a batch by image id; of an id that occurs twice the first counts. Errors as `CandidateIndex.add`."""
    ids, features = check_ids(ids), list(features)
    if len(ids) != len(features):
        raise ConfigError(f"got {len(ids)} ids for the features of {len(features)} images")
    batch: dict[str, LocalFeatures] = {}
    for image_id, item in zip(ids, features, strict=True):
        check_features(item, dim, image_id)
        batch.setdefault(image_id, item)
    return batch


def check_queries(queries: Iterable[LocalFeatures], dim: int) -> list[LocalFeatures]:
    """Return several queries as a list; a `ConfigError` if they are one, and `check_features` names its number."""
    if isinstance(queries, LocalFeatures):
        raise ConfigError("expected several queries, got the features of one; put them into a list")
    several = list(queries)
    for number, features in enumerate(several):
        check_features(features, dim, f"query {number}")
    return several


def check_features(features: LocalFeatures, dim: int, name: str) -> None:
    """Raise a `FeatureError` or `MismatchError`, which calls them `name`, unless features fit an index."""
    if not isinstance(features, LocalFeatures):
        raise FeatureError(f"{name}: expected LocalFeatures, got {type(features).__name__}")
    if features.dim != dim:
        raise MismatchError(f"{name}: descriptors have {features.dim} dimensions, the index holds {dim}")


def check_top_k(top_k: int) -> int:
    """Return `top_k` as an int; a `ConfigError` if it is not a whole number of at least 1."""
    try:
        count = operator.index(top_k)
    except TypeError as error:
        raise ConfigError(f"top_k must be a whole number, got {top_k!r}") from error
    if count < 1:
        raise ConfigError(f"top_k must be at least 1, got {count}")
    return count


def check_min_score(value: float | None) -> float | None:
    """Return a lowest score as a float; a `ConfigError` if it is not a finite number."""
    if value is None:
        return None
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"min_score must be a finite number, got {value!r}")
    return float(value)
