"""Giving an engine another index, made from the features that it holds.

The new index is written beside the old one under a name of its own. The manifest of the engine, which names the
one in use, is replaced in one step at the end: a crash at any moment leaves the old index or the new one. What is
left over is deleted when the engine is next opened for writing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from delf_engine.config import Profile, load_profile
from delf_engine.engine.creating import check_kind
from delf_engine.engine.following import follow_store
from delf_engine.engine.manifest import Manifest, read_manifest, write_manifest
from delf_engine.engine.parts import choose_vocabulary, empty_index, open_vocabulary
from delf_engine.errors import FormatError
from delf_engine.index import KINDS, IndexKind, Vocabulary
from delf_engine.support.files import sync_directory

if TYPE_CHECKING:
    from delf_engine.engine.base import EngineBase

__all__ = ["reindex", "tidy"]

# Names of ours: whatever else lies in an engine's directory is left alone.
_INDEX = re.compile(r"index(-\d+)?")
_WORDS = re.compile(r"codebook(-[0-9a-f]{16})?\.safetensors")


def reindex(
    engine: EngineBase,
    kind: IndexKind | None,
    codebook: Vocabulary | str | os.PathLike[str] | None,
    profile: str | os.PathLike[str] | Profile | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make the index anew; see `Engine.reindex`."""
    directory, old, store = engine.directory, engine.manifest, engine.store
    kind = kind or old.index
    check_kind(kind)
    words = _words(engine, kind, codebook)
    manifest = old.model_copy(
        update={
            "index": kind,
            "index_folder": _free_name(directory),
            "codebook": None if words is None else words.hash,
            "codebook_file": _file_of(old, words),
            "profile": _with_options(old.profile, profile),
        }
    )
    folder = directory / manifest.index_folder
    index = empty_index(manifest, words)

    def settle() -> None:
        in_use = read_manifest(directory)  # interrupted just after it was replaced, it is the new one
        if in_use == manifest:
            engine.use(manifest, index, mark)
        tidy(directory, in_use)

    with ExitStack() as undo:
        undo.callback(settle)
        mark = follow_store(store, index, None, save=lambda: index.save(folder), progress=progress)
        index.mark = None if mark is None else mark.to_dict()
        index.save(folder)
        if words is not None and words.hash != old.codebook:
            words.save(directory / manifest.codebook_file)
        sync_directory(directory)
        try:
            write_manifest(directory, manifest)
        except OSError as error:
            raise FormatError(f"{directory}: the new index cannot be put into use: {error}") from error
        undo.pop_all()
    engine.use(manifest, index, mark)
    tidy(directory, manifest)


def tidy(directory: Path, manifest: Manifest) -> None:
    """Delete indexes and words of ours that the manifest does not name."""
    words = manifest.codebook_file if manifest.codebook is not None else None
    for path in directory.iterdir():
        if _INDEX.fullmatch(path.name) and path.is_dir() and path.name != manifest.index_folder:
            shutil.rmtree(path, ignore_errors=True)
        elif _WORDS.fullmatch(path.name) and path.name != words:
            path.unlink(missing_ok=True)


def _words(
    engine: EngineBase, kind: IndexKind, given: Vocabulary | str | os.PathLike[str] | None
) -> Vocabulary | None:
    """Return the words given, those that the engine has if they fit, or those of the checkpoint."""
    old = engine.manifest
    fits = old.codebook is not None and kind != "kdtree" and (kind == "fisher") == (old.index == "fisher")
    if given is None and fits and (kind != "vlad" or old.index == "vlad"):
        return open_vocabulary(engine.directory, old)
    return choose_vocabulary(kind, given, old.model, old.dim)


def _free_name(directory: Path) -> str:
    number = 1
    while (directory / f"index-{number}").exists():
        number += 1
    return f"index-{number}"


def _file_of(old: Manifest, words: Vocabulary | None) -> str:
    if words is None:
        return Manifest.model_fields["codebook_file"].default
    if words.hash == old.codebook:
        return old.codebook_file
    return f"codebook-{words.hash[:16]}.safetensors"


def _with_options(old: Profile, given: str | os.PathLike[str] | Profile | None) -> Profile:
    """Return a profile with the options of indexes from another one; how features are made stays as it was."""
    if given is None:
        return old
    profile = given if isinstance(given, Profile) else load_profile(given)
    return old.model_copy(update={name: getattr(profile, name) for name in KINDS})
