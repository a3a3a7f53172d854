"""One function for all formats."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.interchange.colmap_text import serialise_colmap
from delf_engine.interchange.delf_file import serialise_delf
from delf_engine.interchange.files import write_folder
from delf_engine.interchange.hloc_file import write_hloc

__all__ = ["FORMATS", "export_features"]

#: Formats that can be written, and what each makes of its target.
FORMATS: dict[str, str] = {
    "delf": "a folder of NAME.delf, the files of the published DELF code",
    "hloc": "one HDF5 file of all images, as hloc (Hierarchical-Localization) reads it",
    "colmap": "a folder of NAME.txt, for COLMAP's feature_importer",
}


def export_features(
    format: str,  # noqa: A002 - the word for it
    target: str | os.PathLike[str],
    items: Iterable[tuple[str, LocalFeatures]],
    *,
    replace: bool = False,
    half: bool = False,
) -> int:
    """Write the features of many images, one at a time, for other software.

    Parameters
    ----------
    format : str
        One of `FORMATS`.
    target : path
        File or folder, as the format has it. A folder must be empty, a file must not exist.
    items : iterable of (name of the image, LocalFeatures)
        Names with sub-folders make sub-folders and never leave the target
        (`delf_engine.interchange.files.relative_name`).
    replace : bool
        Replace the file, or files of the same name in the folder, where others stay.
    half : bool
        Half precision; of hloc alone.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ConfigError
        If there is no such format, it has no half precision, or a library it needs is not installed.
    FormatError
        If the target is there already or cannot be written.
    DataError
        If two images get the same name, or the format cannot hold the descriptors.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if half and format != "hloc":
        raise ConfigError(f"half precision is of format hloc alone, not of {format}; leave it out")
    if format == "hloc":
        return write_hloc(target, items, half=half, replace=replace)
    if format == "colmap":
        return write_folder(Path(target), items, ".txt", serialise_colmap, replace=replace)
    return write_folder(Path(target), items, ".delf", lambda _, one: serialise_delf(one), replace=replace)
