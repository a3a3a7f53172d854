"""Is a local copy of a data set what it should be? Every check is made, also after one has failed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from delf_engine.datasets.local import Dataset
from delf_engine.datasets.table import KNOWN, definition
from delf_engine.errors import DataError, DelfEngineError
from delf_engine.support.files import file_sha256

__all__ = ["Finding", "check"]


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is in order, a few words on it, and the names concerned."""

    what: str
    ok: bool
    found: str
    names: tuple[str, ...] = ()


def check(name: str, root: str | os.PathLike[str] | None = None) -> list[Finding]:
    """Check a data set on this machine: its files, and which of its images are there.

    Parameters
    ----------
    name : str
        A known set, or the path of a folder that `Dataset.open` opens.
    root : path, optional
        See `delf_engine.datasets.data_folder`.

    Raises
    ------
    DataError
        If there is no such set, or nothing of it is here.
    """
    own = name not in KNOWN and os.path.isdir(name)
    dataset = Dataset.open(name) if own else Dataset.of(definition(name), root)
    if not dataset.folder.is_dir():
        raise DataError(f"{name} is not there: no {dataset.folder}; get it with: delf-engine data get {name}")
    known = dataset.definition
    findings = [] if known is None else [_file(dataset, file, known.hashes.get(file)) for file in known.files]
    if known is not None and dataset.parts:
        findings.append(Finding("parts", True, f"{len(dataset.parts)} of {len(known.parts)} unpacked"))
    try:
        expected, missing = dataset.expected, dataset.missing()
    except DelfEngineError as error:  # of the ground truth, or the list
        return [*findings, Finding("names", False, str(error))]
    found = f"{len(missing):,} of {len(expected):,} are not there"
    return [*findings, Finding("images", not missing, found, tuple(missing))]


def _file(dataset: Dataset, name: str, sha256: str | None) -> Finding:
    path = dataset.folder / name
    if not path.is_file():
        return Finding(name, False, "missing")
    if sha256 is None:
        return Finding(name, True, f"{path.stat().st_size:,} bytes; no SHA-256 is published")
    found = file_sha256(path)
    return Finding(
        name, found == sha256, f"SHA-256 {found}" + ("" if found == sha256 else f", published {sha256}")
    )
