"""Making an engine's directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from delf_engine.config import Profile, load_profile
from delf_engine.engine.manifest import Manifest, write_manifest
from delf_engine.engine.parts import CODEBOOK, FEATURES, INDEX, choose_codebook, new_index
from delf_engine.errors import FormatError
from delf_engine.index import Codebook
from delf_engine.model import model_reference, read_checkpoint_info
from delf_engine.storage import FeatureStore

__all__ = ["create_directory"]


def create_directory(
    directory: Path,
    *,
    model: str | os.PathLike[str],
    profile: str | os.PathLike[str] | Profile | None,
    index: Literal["asmk", "kdtree"] | None,
    codebook: Codebook | str | os.PathLike[str] | None,
) -> None:
    """Make the directory of an empty engine; see `Engine.create`."""
    info = read_checkpoint_info(model)
    chosen = profile if isinstance(profile, Profile) else load_profile(profile or info.profile)
    kind = index or chosen.index
    words = choose_codebook(codebook, model, info.dim) if kind == "asmk" else None
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
            words.save(temporary / CODEBOOK)
        new_index(manifest, words).save(temporary / INDEX)
        write_manifest(temporary, manifest)
        os.replace(temporary, directory)
    except OSError as error:
        raise FormatError(f"{directory}: an engine cannot be made here: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
