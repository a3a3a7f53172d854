"""The parts of an engine's directory: index, codebook, and the naming of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from delf_engine.engine.manifest import Manifest
from delf_engine.errors import ConfigError, DelfEngineWarning, FormatError, MismatchError
from delf_engine.images import ImageSource, find_images, source_name
from delf_engine.index import AsmkIndex, Codebook, KdTreeIndex, has_index
from delf_engine.model import codebook_path

__all__ = [
    "CODEBOOK",
    "FEATURES",
    "INDEX",
    "choose_codebook",
    "is_one_image",
    "load_codebook",
    "load_index",
    "named_images",
    "new_index",
]

FEATURES, INDEX, CODEBOOK = "features", "index", "codebook.safetensors"


def choose_codebook(
    given: Codebook | str | os.PathLike[str] | None, model: str | os.PathLike[str], dim: int
) -> Codebook:
    """Return the codebook given, or the one that comes with the checkpoint, if it is `dim`-D."""
    if given is None:
        beside = codebook_path(model)
        if beside is None:
            raise ConfigError(
                f"checkpoint {str(model)!r} comes without a codebook; give codebook=..., or use index='kdtree'"
            )
        given = beside
    codebook = given if isinstance(given, Codebook) else Codebook.load(given)
    if codebook.dim != dim:
        raise MismatchError(f"the codebook is {codebook.dim}-D, the model's descriptors are {dim}-D")
    return codebook


def new_index(manifest: Manifest, codebook: Codebook | None) -> AsmkIndex | KdTreeIndex:
    """Return an empty index of the kind that the manifest names."""
    if codebook is not None:
        return AsmkIndex(codebook, manifest.profile.asmk)
    return KdTreeIndex(manifest.dim, manifest.profile.kdtree)


def load_index(directory: Path, manifest: Manifest, check: bool | None) -> AsmkIndex | KdTreeIndex:
    """Open the index of an engine's directory, without segments that are damaged.

    Where there is none, or its manifest is damaged, a `DelfEngineWarning` says so and it begins empty.
    """
    path, options = directory / INDEX, {"check": check, "damaged": "skip"}
    codebook = None if manifest.codebook is None else load_codebook(directory, manifest)
    try:
        return _load_index(path, manifest, codebook, **options)
    except FormatError as error:
        if has_index(path):
            raise
        message = f"{error}; it is made again from the stored features"
        warnings.warn(message, DelfEngineWarning, stacklevel=3)
        return new_index(manifest, codebook)


def _load_index(
    path: Path, manifest: Manifest, codebook: Codebook | None, **options: Any
) -> AsmkIndex | KdTreeIndex:
    if codebook is None:
        return KdTreeIndex.load(path, manifest.profile.kdtree, **options)
    return AsmkIndex.load(path, codebook, manifest.profile.asmk, **options)


def load_codebook(directory: Path, manifest: Manifest) -> Codebook:
    """Return the codebook of an engine's directory.

    Raises
    ------
    FormatError
        If it is missing or damaged.
    MismatchError
        If it is another than the engine was made with.
    """
    codebook = Codebook.load(directory / CODEBOOK)
    if codebook.hash != manifest.codebook:
        raise MismatchError(f"{directory / CODEBOOK}: not the codebook that this engine was made with")
    return codebook


def named_images(
    images: ImageSource | Iterable[ImageSource], ids: Sequence[str] | None
) -> Iterator[tuple[str, ImageSource]]:
    """Yield each image with its id: the one given for it, or its path; folders are expanded."""
    sources: list[ImageSource] = [images] if is_one_image(images) else list(images)  # type: ignore[list-item, arg-type]
    if ids is not None:
        if len(ids) != len(sources):
            raise ConfigError(f"{len(ids)} ids were given for {len(sources)} images")
        yield from zip(ids, sources, strict=True)
        return
    for source in sources:
        if not isinstance(source, (str, os.PathLike)):
            raise ConfigError(f"{source_name(source)}: an image that is not a file needs an id (ids=...)")
        expanded = [os.fspath(source)]
        with suppress(OSError):
            if Path(source).is_dir():
                expanded = find_images([source])
        yield from ((path, path) for path in expanded)


def is_one_image(images: Any) -> bool:
    """Whether this is one image rather than an iterable of them."""
    return isinstance(images, (str, os.PathLike, bytes)) or hasattr(images, "getbands") or hasattr(images, "dtype")
