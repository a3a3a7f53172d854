"""Making an engine's directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from delf_engine.config import Profile, load_profile
from delf_engine.engine.manifest import Manifest, write_manifest
from delf_engine.engine.parts import FEATURES, choose_vocabulary, empty_index
from delf_engine.errors import ConfigError, FormatError
from delf_engine.index import KINDS, IndexKind, Vocabulary
from delf_engine.model import model_reference, read_checkpoint_info
from delf_engine.storage import FeatureStore

__all__ = ["check_kind", "create_directory"]


def create_directory(
    directory: Path,
    *,
    model: str | os.PathLike[str],
    profile: str | os.PathLike[str] | Profile | None,
    index: IndexKind | None,
    codebook: Vocabulary | str | os.PathLike[str] | None,
) -> None:
    """Make the directory of an empty engine; see `Engine.create`."""
    info = read_checkpoint_info(model)
    chosen = profile if isinstance(profile, Profile) else load_profile(profile or info.profile)
    kind = index or chosen.index
    check_kind(kind)
    words = choose_vocabulary(kind, codebook, model, info.dim)
    manifest = Manifest(
        model=model_reference(model),
        model_identity=info.identity,
        dim=info.dim,
        index=kind,
        codebook=None if words is None else words.hash,
        profile=chosen,
    )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FormatError(f"{directory}: exists and is not empty; open it, or choose another place")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Made beside its place and renamed, so that a crash leaves no half an engine.
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise FormatError(f"{directory}: an engine cannot be made here: {error}") from error
    try:
        temporary.chmod(0o755)
        FeatureStore.create(
            temporary / FEATURES, dim=info.dim, codec=chosen.storage.codec, model=info.identity
        ).close()
        if words is not None:
            words.save(temporary / manifest.codebook_file)
        empty_index(manifest, words).save(temporary / manifest.index_folder)
        write_manifest(temporary, manifest)
        os.replace(temporary, directory)
    except OSError as error:
        raise FormatError(f"{directory}: an engine cannot be made here: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_kind(kind: str) -> None:
    """Raise `ConfigError` unless there is such a kind of index."""
    if kind not in KINDS:
        raise ConfigError(f"there is no index of kind {kind!r}; choose from {', '.join(KINDS)}")
