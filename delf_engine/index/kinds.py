"""The kinds of index by name: how an empty one is made, how a saved one is opened, and what encodes its images."""

from __future__ import annotations

import os
from typing import Any, Literal, TypeAlias, get_args

from delf_engine.config import Profile
from delf_engine.errors import ConfigError
from delf_engine.index.asmk.index import AsmkIndex
from delf_engine.index.base import CandidateIndex
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.codebook.encoder import Encoder
from delf_engine.index.codebook.mixture import Mixture
from delf_engine.index.dense.index import DenseIndex
from delf_engine.index.ivf.index import IvfIndex
from delf_engine.index.kdtree.index import KdTreeIndex

IndexKind: TypeAlias = Literal["asmk", "kdtree", "ivf", "bow", "vlad", "fisher"]
KINDS: tuple[IndexKind, ...] = get_args(IndexKind)
AnyIndex: TypeAlias = CandidateIndex[Any, Any]

_CLASSES: dict[str, Any] = {"asmk": AsmkIndex, "ivf": IvfIndex, "kdtree": KdTreeIndex}


def new_index(kind: IndexKind, dim: int, profile: Profile, encoder: Encoder | None) -> AnyIndex:
    """Return an empty index of one of `KINDS`, with the options of the profile's section of the same name.

    The encoder is a mixture for "fisher", None for "kdtree", a codebook for all others; a `ConfigError` if it does
    not go with the kind.
    """
    fitting, config = _fitting(kind, encoder), getattr(profile, kind)
    if kind == "kdtree":
        return KdTreeIndex(dim, config)
    if kind == "asmk":
        return AsmkIndex(fitting, config)
    return IvfIndex(fitting, config) if kind == "ivf" else DenseIndex(kind, fitting, config)


def load_index(
    directory: str | os.PathLike[str],
    kind: IndexKind,
    profile: Profile,
    encoder: Encoder | None,
    **options: Any,
) -> AnyIndex:
    """Open an index that was saved; `options` as `AsmkIndex.load` takes them: ``check`` and ``damaged``."""
    index: AnyIndex = _CLASSES.get(kind, DenseIndex).load(
        directory, _fitting(kind, encoder), getattr(profile, kind), **options
    )
    return index


def load_encoder(kind: IndexKind, path: str | os.PathLike[str]) -> Encoder:
    """Read what encodes the images of an index: a codebook, or a mixture for "fisher".

    A `FormatError` if the file is missing, damaged or of another sort.
    """
    return Mixture.load(path) if kind == "fisher" else Codebook.load(path)


def _fitting(kind: str, given: Encoder | None) -> Any:
    others: dict[str, type] = {"kdtree": type(None), "fisher": Mixture}
    wanted = others.get(kind, Codebook)
    if not isinstance(given, wanted):
        raise ConfigError(
            f"an index of kind {kind!r} needs a {wanted.__name__.lower()}, got {type(given).__name__}"
        )
    return given
