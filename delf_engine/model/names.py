"""Checkpoints by name: one that comes with the package, or a file."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from delf_engine.errors import CheckpointError

__all__ = [
    "DEFAULT_MODEL",
    "checkpoint_names",
    "checkpoint_path",
    "codebook_beside",
    "codebook_path",
    "model_reference",
    "packaged_folder",
]

DEFAULT_MODEL = "delf-r18"

_SUFFIX = ".safetensors"
_CODEBOOK = ".codebook.safetensors"


def checkpoint_path(name_or_path: str | os.PathLike[str]) -> Path:
    """Return the file of a checkpoint, given its path or the name of one that comes with the package.

    A file goes before a name.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    text = os.fspath(name_or_path)
    if os.path.isfile(text):
        return Path(text)
    names = checkpoint_names()
    if text in names:
        return packaged_folder() / f"{text}{_SUFFIX}"
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        raise CheckpointError(
            f"{text}: checkpoints are not downloaded; fetch this file yourself and give its path"
        )
    hint = difflib.get_close_matches(text, names, n=1, cutoff=0.75)
    raise CheckpointError(
        f"there is no checkpoint {text!r}: neither a file nor one of those that come with the package "
        f"({', '.join(names)})" + (f". Did you mean {hint[0]!r}?" if hint else "")
    )


def model_reference(name_or_path: str | os.PathLike[str]) -> str:
    """Return what to write down to find the same checkpoint again: a name as it is, a path in full.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    path = checkpoint_path(name_or_path)
    return str(path.resolve()) if os.path.isfile(name_or_path) else os.fspath(name_or_path)


def checkpoint_names() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    found = packaged_folder().glob(f"*{_SUFFIX}")
    return sorted(path.stem for path in found if not path.name.endswith(_CODEBOOK))


def packaged_folder() -> Path:
    """Return the folder of the checkpoints that come with the package."""
    return Path(__file__).parent.parent / "checkpoints"


def codebook_path(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return the codebook that lies beside a checkpoint (``NAME.codebook.safetensors``), or None."""
    beside = codebook_beside(checkpoint_path(name_or_path))
    return beside if beside.is_file() else None


def codebook_beside(path: Path) -> Path:
    """Return where the codebook of a checkpoint lies if it has one: ``NAME.codebook.safetensors``."""
    return path.with_name(f"{path.stem}{_CODEBOOK}")
