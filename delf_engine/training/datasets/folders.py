"""A folder of class folders: each folder directly below the root is a class."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from delf_engine.errors import DataError, DelfEngineWarning
from delf_engine.images import IMAGE_SUFFIXES, find_images
from delf_engine.training.datasets.labelled import LabelledImages, named

__all__ = ["read_class_folders"]


def read_class_folders(root: str | os.PathLike[str]) -> LabelledImages:
    """List the photographs of a folder of class folders, each searched recursively.

    Raises
    ------
    DataError
        If there is no such folder, no class folder in it, or no photograph in them.

    Warns
    -----
    DelfEngineWarning
        For class folders without photographs, and photographs beside them, which have no class. Both are left out.
    """
    root = Path(root)
    try:
        entries = sorted((e for e in os.scandir(root) if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{root}: not a readable folder of class folders: {error.strerror or error}") from error
    folders = [entry.name for entry in entries if entry.is_dir()]
    beside = [entry.name for entry in entries if not entry.is_dir() and _is_image(entry.name)]
    if not folders:
        raise DataError(
            f"{root}: no class folders in it"
            + (f", only {len(beside)} photographs without a class" if beside else "")
            + "; expected one folder for each class with its photographs inside"
        )
    files, labels, empty = [], [], []
    for name in folders:
        try:
            found = find_images([root / name])
        except DataError:
            empty.append(name)
            continue
        files += [os.path.relpath(path, root) for path in found]
        labels += [name] * len(found)
    if not files:
        raise DataError(f"{root}: no photograph in any of its {len(folders)} class folders ({named(folders)})")
    for names, what in ((empty, "class folders without a photograph"), (beside, "photographs beside the classes")):
        if names:
            warnings.warn(f"{root}: {len(names)} {what} left out: {named(names)}", DelfEngineWarning, stacklevel=2)
    return LabelledImages.group(root, files, labels)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES
