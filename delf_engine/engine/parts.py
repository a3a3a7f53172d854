"""The parts of an engine's directory: index, codebook, and the naming of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from delf_engine.config import Profile
from delf_engine.engine.manifest import Manifest, read_manifest
from delf_engine.errors import CheckpointError, ConfigError, DelfEngineWarning, FormatError, MismatchError
from delf_engine.images import ImageSource, find_images, source_name
from delf_engine.index import AnyIndex, Codebook, IndexKind, Mixture, Vocabulary, has_index
from delf_engine.index.kinds import load_index, load_vocabulary, new_index
from delf_engine.model import checkpoint_path, codebook_path
from delf_engine.verification import Calibration, load_calibration

__all__ = [
    "CODEBOOK",
    "FEATURES",
    "INDEX",
    "calibration_of",
    "choose_vocabulary",
    "empty_index",
    "is_one_image",
    "named_images",
    "open_index",
    "open_vocabulary",
]

FEATURES, INDEX, CODEBOOK = "features", "index", "codebook.safetensors"

_ATTEMPTS = 5
_WITHOUT = "or use index='kdtree'"


def calibration_of(model: str | os.PathLike[str], profile: Profile, identity: str) -> Calibration | None:
    """Return the calibration beside a model's checkpoint, if both are there and it holds for these options."""
    try:
        path = checkpoint_path(model)
    except CheckpointError:
        return None
    return load_calibration(path, profile=profile, identity=identity)


def choose_vocabulary(
    kind: IndexKind, given: Vocabulary | str | os.PathLike[str] | None, model: str | os.PathLike[str], dim: int
) -> Vocabulary | None:
    """Return the words given, or the codebook that comes with the checkpoint, if they are `dim`-D.

    Raises
    ------
    ConfigError
        If the kind of index needs words and there are none, or takes none.
    FormatError
        If a file cannot be read.
    MismatchError
        If they have another dimension.
    """
    if kind == "kdtree":
        if given is not None:
            raise ConfigError("a KD-tree index has no words; leave codebook=... out, or choose another index")
        return None
    if given is None and kind in ("vlad", "fisher"):
        what = "a small codebook" if kind == "vlad" else "a mixture"
        option = "--words 64" + (" --mixture" if kind == "fisher" else "")
        raise ConfigError(
            f"an index of kind {kind!r} needs {what} of its own: train one with `delf-engine codebook PHOTOS "
            f"words.safetensors {option}` and give it as codebook=..."
        )
    if given is None:
        given = codebook_path(model)
        if given is None:
            raise ConfigError(f"checkpoint {str(model)!r} comes without a codebook; give codebook=..., {_WITHOUT}")
    words = given if isinstance(given, (Codebook, Mixture)) else load_vocabulary(kind, given)
    if words.dim != dim:
        raise MismatchError(
            f"the {type(words).__name__.lower()} is {words.dim}-D, the model's descriptors {dim}-D"
        )
    return words


def empty_index(manifest: Manifest, vocabulary: Vocabulary | None) -> AnyIndex:
    """Return an empty index of the kind that the manifest names."""
    return new_index(manifest.index, manifest.dim, manifest.profile, vocabulary)


def open_index(directory: Path, manifest: Manifest, check: bool | None) -> tuple[Manifest, AnyIndex]:
    """Open the index of an engine's directory, without segments that are damaged.

    Where there is none, or its manifest is damaged, a `DelfEngineWarning` says so and it begins empty. Returns the
    engine's manifest, too: another process may have given the engine another index since it was read.
    """
    for _ in range(_ATTEMPTS):
        try:
            path, vocabulary = directory / manifest.index_folder, open_vocabulary(directory, manifest)
            return manifest, load_index(path, manifest.index, manifest.profile, vocabulary, check=check)
        except (FormatError, MismatchError):
            before, manifest = manifest, read_manifest(directory)
            if manifest == before:
                break
    return manifest, _open_damaged(directory, manifest, check)


def _open_damaged(directory: Path, manifest: Manifest, check: bool | None) -> AnyIndex:
    path, vocabulary = directory / manifest.index_folder, open_vocabulary(directory, manifest)
    try:
        return load_index(path, manifest.index, manifest.profile, vocabulary, check=check, damaged="skip")
    except FormatError as error:
        if has_index(path):
            raise
        message = f"{error}; it is made again from the stored features"
        warnings.warn(message, DelfEngineWarning, stacklevel=3)
        return empty_index(manifest, vocabulary)


def open_vocabulary(directory: Path, manifest: Manifest) -> Vocabulary | None:
    """Return the words of an engine's directory, None if its index has none.

    Raises
    ------
    FormatError
        If the file is missing or damaged.
    MismatchError
        If it is another than the engine was made with.
    """
    if manifest.codebook is None:
        return None
    path = directory / manifest.codebook_file
    words = load_vocabulary(manifest.index, path)
    if words.hash != manifest.codebook:
        raise MismatchError(f"{path}: not the words that this engine was made with")
    return words


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
