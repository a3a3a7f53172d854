"""The kinds of index by name: how an empty one is made, how a saved one is opened, and what encodes its images."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias, get_args

from delf_engine.config import Profile
from delf_engine.errors import ConfigError
from delf_engine.index.asmk.index import AsmkIndex
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.codebook.mixture import Mixture
from delf_engine.index.dense.index import DenseIndex
from delf_engine.index.ivf.index import IvfIndex
from delf_engine.index.kdtree.index import KdTreeIndex

__all__ = ["KINDS", "AnyIndex", "IndexKind", "Vocabulary", "load_index", "load_vocabulary", "new_index"]

IndexKind: TypeAlias = Literal["asmk", "kdtree", "ivf", "bow", "vlad", "fisher"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
AnyIndex: TypeAlias = CandidateIndex[Any, Any]
Vocabulary: TypeAlias = Codebook | Mixture


def new_index(kind: IndexKind, dim: int, profile: Profile, vocabulary: Vocabulary | None) -> AnyIndex:
    """Return an empty index.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    dim : int
        Descriptor dimension.
    profile : Profile
        Its section of the same name holds the options.
    vocabulary : Codebook, Mixture or None
        A mixture for "fisher", None for "kdtree", a codebook for all others.

    Raises
    ------
    ConfigError
        If these do not go with the kind.
    """
    if kind == "kdtree":
        return KdTreeIndex(dim, profile.kdtree)
    if kind == "asmk":
        return AsmkIndex(_codebook(kind, vocabulary), profile.asmk)
    if kind == "ivf":
        return IvfIndex(_codebook(kind, vocabulary), profile.ivf)
    return DenseIndex(kind, _encoder(kind, vocabulary), getattr(profile, kind))


def load_index(
    directory: str | os.PathLike[str],
    kind: IndexKind,
    profile: Profile,
    vocabulary: Vocabulary | None,
    **options: Any,
) -> AnyIndex:
    """Open an index that was saved; `options` as `AsmkIndex.load` takes them: ``check`` and ``damaged``."""
    if kind == "kdtree":
        return KdTreeIndex.load(directory, config=profile.kdtree, **options)
    if kind == "asmk":
        return AsmkIndex.load(directory, _codebook(kind, vocabulary), profile.asmk, **options)
    if kind == "ivf":
        return IvfIndex.load(directory, _codebook(kind, vocabulary), profile.ivf, **options)
    return DenseIndex.load(directory, _encoder(kind, vocabulary), getattr(profile, kind), **options)


def load_vocabulary(kind: IndexKind, path: str | os.PathLike[str]) -> Vocabulary:
    """Read what encodes the images of an index: a codebook, or a mixture for "fisher".

    Raises
    ------
    FormatError
        If the file is missing, damaged or of another sort.
    """
    return Mixture.load(path) if kind == "fisher" else Codebook.load(path)


def _codebook(kind: str, given: Vocabulary | None) -> Codebook:
    if not isinstance(given, Codebook):
        raise ConfigError(f"an index of kind {kind!r} needs a codebook, got {type(given).__name__}")
    return given


def _encoder(kind: str, given: Vocabulary | None) -> Vocabulary:
    if kind != "fisher":
        return _codebook(kind, given)
    if not isinstance(given, Mixture):
        raise ConfigError(f"an index of kind {kind!r} needs a mixture, got {type(given).__name__}")
    return given
