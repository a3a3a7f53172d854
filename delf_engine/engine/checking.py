"""Comparing everything that an engine has on disk with its checksums."""

from __future__ import annotations

from pathlib import Path

from delf_engine.engine.directory import FEATURES, open_encoder
from delf_engine.engine.manifest import Manifest, read_manifest
from delf_engine.engine.results import CheckReport
from delf_engine.errors import FormatError, MismatchError
from delf_engine.index import check_index
from delf_engine.storage import FeatureStore

__all__ = ["check_directory", "check_parts"]


def check_directory(directory: Path) -> CheckReport:
    """Check an engine that is not open, without reading its index into memory; see `Engine.check`.

    Raises
    ------
    FormatError
        If there is no engine, or its feature store cannot be opened at all.
    """
    manifest = read_manifest(directory)
    with FeatureStore.open(directory / FEATURES, readonly=True) as store:
        return check_parts(directory, manifest, store)


def check_parts(directory: Path, manifest: Manifest, store: FeatureStore) -> CheckReport:
    """Read the codebook, every file of the index and every value of the store; see `Engine.check`."""
    report, words, index = CheckReport(), directory / manifest.codebook_file, directory / manifest.index_folder
    if manifest.codebook is not None:
        report.files.append(str(words))
        try:
            open_encoder(directory, manifest)
        except (FormatError, MismatchError) as error:
            report.damaged_files.append((str(words), str(error)))
    try:
        for path, problem in check_index(index):
            report.files.append(str(path))
            if problem is not None:
                report.damaged_files.append((str(path), problem))
    except FormatError as error:
        report.damaged_files.append((str(index), str(error)))
    for image_id, problem in store.check():
        report.images.append(image_id)
        if problem is not None:
            report.damaged_images.append((image_id, problem))
    return report
