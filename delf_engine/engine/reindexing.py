"""Giving an engine another index, made from the features that it holds.

The new index is written beside the old one under a name of its own. The manifest of the engine, which names the
one in use, is replaced in one step at the end: a crash at any moment leaves the old index or the new one. What is
left over is deleted when the engine is next opened for writing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

from delf_engine.config import Profile, load_profile
from delf_engine.engine.catch_up import catch_up
from delf_engine.engine.directory import (
    Words,
    check_kind,
    choose_encoder,
    empty_index,
    open_encoder,
    remove_unused,
)
from delf_engine.engine.manifest import Manifest, read_manifest, write_manifest
from delf_engine.engine.state import EngineState
from delf_engine.index import KINDS, Encoder, IndexKind
from delf_engine.support.files import sync_directory


def reindex(
    state: EngineState,
    kind: IndexKind | None,
    codebook: Words | None,
    profile: str | os.PathLike[str] | Profile | None,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make the index anew; see `Engine.reindex`."""
    directory, old, store = state.directory, state.manifest, state.store
    kind = kind or old.index
    check_kind(kind)
    words = _words(state, kind, codebook)
    manifest = old.model_copy(
        update={
            "index": kind,
            "index_folder": next(
                name for name in map("index-{}".format, count(1)) if not (directory / name).exists()
            ),
            "codebook": None if words is None else words.hash,
            "codebook_file": _file_of(old, words),
            "profile": _with_options(old.profile, profile),
        }
    )
    folder = directory / manifest.index_folder
    index = empty_index(manifest, words)

    def roll_back() -> None:
        in_use = read_manifest(directory)  # interrupted just after it was replaced, it is the new one
        if in_use == manifest:
            state.use(manifest, index, revision)
        remove_unused(directory, in_use)

    with ExitStack() as undo:
        undo.callback(roll_back)
        revision = catch_up(store, index, None, save=lambda: index.save(folder), progress=progress)
        index.mark = revision.to_dict()
        index.save(folder)
        if words is not None and words.hash != old.codebook:
            words.save(directory / manifest.codebook_file)
        sync_directory(directory)
        write_manifest(directory, manifest)
        undo.pop_all()
    state.use(manifest, index, revision)
    remove_unused(directory, manifest)


def _words(state: EngineState, kind: IndexKind, given: Words | None) -> Encoder | None:
    """Return the words given, those that the engine has if they fit, or those of the checkpoint."""
    old = state.manifest
    fits = old.codebook is not None and kind != "kdtree" and (kind == "fisher") == (old.index == "fisher")
    if given is None and fits and (kind != "vlad" or old.index == "vlad"):
        return open_encoder(state.directory, old)
    return choose_encoder(kind, given, old.model, old.dim)


def _file_of(old: Manifest, words: Encoder | None) -> str:
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
