"""The manifest of an engine's directory: what made it, and with what it must be opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from delf_engine.config import Config, Profile, parse_config
from delf_engine.errors import ConfigError, FormatError
from delf_engine.index import IndexKind
from delf_engine.support.files import replacing, sync_directory, system_errors

MANIFEST = "engine.json"
VERSION = 1
_FORMAT = "delf-engine"


class Manifest(Config):
    """What an engine's directory says of itself.

    Attributes
    ----------
    format, version
        Format of the directory and its version.
    model : str
        Name or path of the checkpoint.
    model_identity : str
        Name and hash of its weights: features of another model do not fit.
    dim : int
        Descriptor dimension.
    index : str
        Kind of index, one of `delf_engine.index.KINDS`.
    index_folder : str
        Where the index lies in the directory.
    codebook : str or None
        Hash of the words of the index: a codebook, or a mixture.
    codebook_file : str
        Where they lie in the directory.
    profile : Profile
        All options, as they were when the engine was made; a precision of "auto" gives way to what the first
        image was extracted in.
    root : str or None
        Folder that ids of files start from, absolute or as seen from the directory. None: not known, ids are paths
        as they were given; so it is in engines of version 0.1.
    global_head : str or None
        Identity of what made the global descriptors that the index keeps; None: it keeps none.
    vectors : int
        Their components.
    """

    format: Literal["delf-engine"] = "delf-engine"
    version: Literal[1] = 1
    model: str
    model_identity: str
    dim: int
    index: IndexKind
    index_folder: str = "index"
    codebook: str | None
    codebook_file: str = "codebook.safetensors"
    profile: Profile
    root: str | None = None
    global_head: str | None = None
    vectors: int = 0


def read_manifest(directory: Path) -> Manifest:
    """Read an engine's manifest; a `FormatError` if there is none, it is damaged, or of another version."""
    path = directory / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(
            f"{directory}: no engine here (no {MANIFEST}); make one with `delf-engine add {directory} PHOTOS` "
            "or Engine.create"
        ) from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: damaged: {error}") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise FormatError(f"{path}: not the manifest of an engine")
    if values.get("version") != VERSION:
        raise FormatError(
            f"{path}: engine format version {values.get('version')}, this version reads {VERSION}; "
            "use the version that made it, or add the photographs to a new engine"
        )
    try:
        return parse_config(Manifest, values, where=str(path))
    except ConfigError as error:
        raise FormatError(f"damaged manifest: {error}") from error


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest so that it is there whole or not at all; a `FormatError` if it cannot be written."""
    path = directory / MANIFEST
    with system_errors(f"{path}: cannot be written"), replacing(path) as temporary:
        # Not by pydantic, which refuses paths that are not UTF-8.
        temporary.write_text(json.dumps(manifest.model_dump(), indent=1), encoding="utf-8")
    with system_errors(f"{directory}: cannot be synchronised"):
        sync_directory(directory)
