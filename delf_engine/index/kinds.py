"""The kinds of index by name: how an empty one is made, how a saved one is opened, and what words it needs."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias, get_args

from delf_engine.config import Profile
from delf_engine.errors import ConfigError
from delf_engine.index.asmk.index import AsmkIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.codebook.mixture import Mixture
from delf_engine.index.dense.index import DenseIndex
from delf_engine.index.ivf.index import IvfIndex
from delf_engine.index.kdtree.index import KdTreeIndex

__all__ = ["KINDS", "AnyIndex", "IndexKind", "Vocabulary", "load_index", "load_vocabulary", "new_index"]

IndexKind: TypeAlias = Literal["asmk", "kdtree", "ivf", "bow", "vlad", "fisher"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
AnyIndex: TypeAlias = AsmkIndex | DenseIndex | IvfIndex | KdTreeIndex
Vocabulary: TypeAlias = Codebook | Mixture

_CLASSES: dict[str, Any] = {"asmk": AsmkIndex, "ivf": IvfIndex}


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
        If vocabulary or options do not go with the kind.
    """
    if kind == "kdtree":
        return KdTreeIndex(dim, profile.kdtree)
    given = _fitting(kind, vocabulary), getattr(profile, kind)
    if kind == "bow" or kind == "vlad" or kind == "fisher":
        return DenseIndex(kind, *given)
    index: AnyIndex = _CLASSES[kind](*given)
    return index


def load_index(
    directory: str | os.PathLike[str],
    kind: IndexKind,
    profile: Profile,
    vocabulary: Vocabulary | None,
    **options: Any,
) -> AnyIndex:
    """Open an index that was saved; `options` as `AsmkIndex.load` takes them: ``check`` and ``damaged``."""
    if kind == "kdtree":
        return KdTreeIndex.load(directory, profile.kdtree, **options)
    given = _fitting(kind, vocabulary), getattr(profile, kind)
    if kind == "bow" or kind == "vlad" or kind == "fisher":
        return DenseIndex.load(directory, kind, *given, **options)
    index: AnyIndex = _CLASSES[kind].load(directory, *given, **options)
    return index


def load_vocabulary(kind: IndexKind, path: str | os.PathLike[str]) -> Vocabulary:
    """Read the words of an index: a codebook, or a mixture for "fisher".

    Raises
    ------
    FormatError
        If the file is missing, damaged or of another sort.
    """
    return Mixture.load(path) if kind == "fisher" else Codebook.load(path)


def _fitting(kind: str, vocabulary: Vocabulary | None) -> Vocabulary:
    wanted = Mixture if kind == "fisher" else Codebook
    if not isinstance(vocabulary, wanted):
        raise ConfigError(
            f"an index of kind {kind!r} needs a {wanted.__name__.lower()}, got {type(vocabulary).__name__}"
        )
    return vocabulary
