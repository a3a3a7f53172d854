"""Is a checkpoint what it says it is? Every check is made, also after one has failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delf_engine.downloads import file_sha256
from delf_engine.errors import CheckpointError
from delf_engine.model.checkpoint import CheckpointInfo, load_checkpoint, read_tensors, tensors_sha256

__all__ = ["Check", "check_checkpoint", "check_file"]


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, whether it is in order, and a few words on what was found."""

    what: str
    ok: bool
    found: str


def check_checkpoint(path: Path) -> tuple[CheckpointInfo | None, list[Check]]:
    """Check metadata, hash, values and shapes of a checkpoint file.

    Returns
    -------
    info : CheckpointInfo or None
        None if the file cannot be read.
    checks : list of Check
    """
    try:
        info, tensors = read_tensors(path)
    except CheckpointError as error:
        return None, [Check("readable", False, str(error))]
    checks = [Check("readable", True, f"format version {info.format_version}")]
    found = tensors_sha256(tensors)
    intact = found == info.sha256
    stated = "as stated" if intact else f"{found[:12]}..., stated {info.sha256[:12]}...: damaged, get it again"
    checks.append(Check("hash of the weights", intact, stated))
    wrong = [key for key in sorted(tensors) if not np.isfinite(tensors[key]).all()]
    count = sum(value.size for value in tensors.values())
    checks.append(
        Check(
            "values", not wrong, f"not finite: {', '.join(wrong)}" if wrong else f"{count:,} numbers, all finite"
        )
    )
    if intact:  # shapes of a damaged file say nothing
        checks.append(_check_shapes(path, info))
    return info, checks


def check_file(what: str, path: Path, sha256: str) -> Check:
    """Check the whole file against the hash that it was published with."""
    found = file_sha256(path)
    ok = found == sha256
    return Check(what, ok, "as published" if ok else f"{found[:12]}..., published {sha256[:12]}...")


def _check_shapes(path: Path, info: CheckpointInfo) -> Check:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        return Check("shapes", False, " ".join(str(error).split()))
    return Check("shapes", True, f"fit {info.architecture}, {info.dim}-D")
