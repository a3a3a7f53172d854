"""Labelled photographs of whichever layout a path has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from delf_engine.errors import DataError
from delf_engine.training.datasets.folders import read_class_folders
from delf_engine.training.datasets.labelled import LabelledImages
from delf_engine.training.datasets.landmarks import is_landmarks_layout, read_landmarks

__all__ = ["open_labelled"]


def open_labelled(path: str | os.PathLike[str], *, missing: Literal["error", "drop"] = "error") -> LabelledImages:
    """List labelled photographs: of Google Landmarks v2 if its lists are there, else of a folder of class folders.

    Raises
    ------
    DataError, FormatError
        As `read_landmarks` and `read_class_folders`.
    """
    if is_landmarks_layout(path):
        return read_landmarks(path, missing=missing)
    whole = Path(path).resolve()
    if whole.name == "train" and is_landmarks_layout(whole.parent):
        # Its folders 0 to f would pass for sixteen classes.
        raise DataError(
            f"{path}: the photographs of a Google Landmarks list; give the folder of the list, {whole.parent}"
        )
    return read_class_folders(path)
