"""Is a checkpoint what it says it is? And copies of those that are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from delf_engine.errors import CheckpointError, FormatError
from delf_engine.model.checkpoint import (
    CheckpointInfo,
    checkpoint_path,
    codebook_beside,
    global_head_beside,
    load_checkpoint,
    read_tensors,
    tensors_sha256,
)
from delf_engine.model.global_head import load_global_head
from delf_engine.model.onnx_export import export_onnx, require_onnx
from delf_engine.support.files import replacing, system_errors

ReadCodebook = Callable[[Path], Any]
"""Reads a codebook and its words, dimension and hash, with `FormatError` for what is none: `Codebook.load`."""


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, whether it is in order, and a few words on what was found."""

    what: str
    ok: bool
    found: str


def check_checkpoint(name_or_path: str | os.PathLike[str], read_codebook: ReadCodebook) -> list[Check]:
    """Check metadata, hash, values and shapes of a checkpoint, and the codebook and global head beside it.

    Every check is made, also after one has failed. A `CheckpointError` if there is no such file; one that cannot
    be read fails a check.
    """
    path = checkpoint_path(name_or_path)
    try:
        info, tensors = read_tensors(path)
    except CheckpointError as error:
        return [Check("readable", False, str(error))]
    checks = [Check("readable", True, f"format version {info.format_version}")]
    found = tensors_sha256(tensors)
    intact = found == info.sha256
    stated = "as stated" if intact else f"{found[:12]}..., stated {info.sha256[:12]}...: damaged, get it again"
    checks.append(Check("hash of the weights", intact, stated))
    wrong = [key for key in sorted(tensors) if not np.isfinite(tensors[key]).all()]
    count = sum(value.size for value in tensors.values())
    told = f"not finite: {', '.join(wrong)}" if wrong else f"{count:,} numbers, all finite"
    checks.append(Check("values", not wrong, told))
    if intact:  # shapes of a damaged file say nothing
        try:
            load_checkpoint(path)
            checks.append(Check("shapes", True, f"fit {info.architecture}, {info.dim}-D"))
        except CheckpointError as error:
            checks.append(Check("shapes", False, " ".join(str(error).split())))
    return [*checks, _check_codebook(codebook_beside(path), info, read_codebook), _check_head(path, info)]


def copy_checkpoint(
    name_or_path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    read_codebook: ReadCodebook,
    *,
    codebook: bool = True,
    replace: bool = False,
) -> list[Path]:
    """Copy a checkpoint with what lies beside it, or write its network for ONNX Runtime; check it before.

    `target` is ``NAME.safetensors``, ``NAME.onnx``, or a folder, which gets a safetensors file of the same name.
    With `replace` a codebook or global head there that would not fit the new checkpoint is removed. Returned are
    the files written, the checkpoint first. A `CheckpointError` if the checkpoint is damaged, something is in the
    way, or a file cannot be written; a `ConfigError` if ONNX is asked for and not installed.
    """
    source, goal = checkpoint_path(name_or_path), Path(target)
    if goal.is_dir():
        goal = goal / source.name
    if goal.suffix not in (".safetensors", ".onnx"):
        raise CheckpointError(f"{goal}: neither a folder nor a name that ends in .safetensors or .onnx")
    if goal.suffix == ".onnx":
        require_onnx()
    for check in check_checkpoint(source, read_codebook):
        if not check.ok:
            raise CheckpointError(f"{source}: not copied: {check.what}: {check.found}")
    beside = [(source.with_suffix(".md"), goal.with_suffix(".md"))]
    beside.append((global_head_beside(source), global_head_beside(goal)))
    if codebook:
        beside.append((codebook_beside(source), codebook_beside(goal)))
    # The checkpoint last, so that it is never there without the others.
    copies = [*(pair for pair in beside if pair[0].is_file()), (source, goal)]
    stale = (codebook_beside(goal), global_head_beside(goal))
    for old, new in copies:
        if new.exists() and new.samefile(old):
            raise CheckpointError(f"{new}: is the checkpoint itself; choose another place")
    there = [path for path in (*(new for _, new in copies), *stale) if path.exists()]
    if there and not replace:
        raise CheckpointError(f"{there[0]}: exists; choose another name, or replace it (replace=True, --replace)")
    for old, new in copies:
        if new.suffix == ".onnx":
            export_onnx(new, *load_checkpoint(old))
            continue
        with system_errors(f"{new}: cannot be written", CheckpointError):
            new.parent.mkdir(parents=True, exist_ok=True)
            with replacing(new) as temporary:
                shutil.copyfile(old, temporary)
    for path in set(stale) - {new for _, new in copies}:
        path.unlink(missing_ok=True)
    return [new for _, new in reversed(copies)]


def _check_head(path: Path, info: CheckpointInfo) -> Check:
    try:
        head = load_global_head(path, info.identity)
    except CheckpointError as error:
        return Check("global head", False, str(error))
    return Check("global head", True, "none beside it" if head is None else f"{head.identity}, hash as stated")


def _check_codebook(path: Path, info: CheckpointInfo, read_codebook: ReadCodebook) -> Check:
    if not path.is_file():
        return Check("codebook", True, "none beside it")
    try:
        book = read_codebook(path)
    except FormatError as error:
        return Check("codebook", False, str(error))
    if book.dim != info.dim:
        return Check("codebook", False, f"{book.dim}-D, the descriptors are {info.dim}-D")
    if info.codebook_sha256 not in (None, book.hash):
        return Check("codebook", False, f"hash {book.hash[:12]}..., made with {str(info.codebook_sha256)[:12]}...")
    return Check("codebook", True, f"{book.words:,} words, {book.dim}-D, hash as stated")
