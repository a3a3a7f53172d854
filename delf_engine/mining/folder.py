"""From a folder of photographs to a file of mined pairs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delf_engine.engine import Engine
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import DataError, FormatError, MismatchError
from delf_engine.images import find_images
from delf_engine.mining.mine import Mined, Progress, mine_pairs
from delf_engine.model import read_checkpoint_info
from delf_engine.support.files import replacing, system_errors
from delf_engine.training.sources.mined import MinedPair

__all__ = ["FEW_PAIRS", "MiningReport", "check_writable", "mine_folder", "write_pairs"]

#: Fewer pairs than this are less than a batch of ``configs/train_delf_self.toml`` draws.
FEW_PAIRS = 12

_DEFAULT_MODEL = "delf-r18"


@dataclass(frozen=True, eq=False)
class MiningReport:
    """What was mined, and the file it was written to.

    Attributes
    ----------
    out : Path
    mined : Mined
    """

    out: Path
    mined: Mined

    @property
    def few(self) -> bool:
        """Whether there are too few pairs to train on."""
        return len(self.mined.pairs) < FEW_PAIRS

    def __str__(self) -> str:
        found, groups = self.mined, self.mined.groups
        largest = ", ".join(map(str, groups[:8])) + (", ..." if len(groups) > 8 else "")
        left_out = {
            "near-duplicates": found.duplicates,
            "not on one plane": found.uneven,
            "more than wanted": found.surplus,
        }
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        lines = [
            f"{len(found.photographs)} photographs, {found.compared} pairs verified",
            f"{len(found.pairs)} pairs of at least {found.min_inliers} inliers"
            + (f"; left out: {reasons}" if reasons else ""),
            f"{len(groups)} connected groups, photographs in each: {largest}",
            f"{len(found.alone)} photographs without a partner",
        ]
        if self.few:
            lines.append(
                f"too few to train on: recipe delf_self draws {FEW_PAIRS} pairs a batch; add photographs of the "
                "same places, or ask for fewer inliers (min_inliers) and look at the pairs"
            )
        return "\n".join([*lines, f"wrote {self.out}"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        found = self.mined
        return {
            "out": str(self.out),
            "photographs": len(found.photographs),
            "compared": found.compared,
            "min_inliers": found.min_inliers,
            "pairs": len(found.pairs),
            "near_duplicates": found.duplicates,
            "not_on_one_plane": found.uneven,
            "surplus": found.surplus,
            "groups": list(found.groups),
            "alone": list(found.alone),
            "few": self.few,
        }


def mine_folder(
    photos: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    engine: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    per_photo: int = 20,
    min_inliers: int | None = None,
    max_pairs: int = 1000,
    keep_duplicates: bool = False,
    seed: int = 0,
    workers: int | None = None,
    on_error: Callable[[str, str], None] | None = None,
    progress: Progress | None = None,
) -> MiningReport:
    """Mine pairs among photographs and write them as JSON lines (`delf_engine.training.sources.mined`).

    Parameters
    ----------
    photos : sequence of path
        Image files and folders.
    out : path
        File to write; a photograph below its folder is named relative to it, any other in full.
    engine : path or None
        Directory of an engine to keep: what an earlier, interrupted call or `Engine.add` has extracted from the
        same paths is taken from there. None: a temporary one.
    model : str, path or None
        Checkpoint; None: that of the engine if there is one, else the default.
    per_photo, min_inliers, max_pairs, keep_duplicates, seed, workers, progress
        See `mine.mine_pairs`.
    on_error : callable or None
        Called with path and reason of each photograph that cannot be read.

    Raises
    ------
    DataError
        If there are fewer than 2 readable photographs, or no pair is found.
    FormatError
        If `out` cannot be written, found out before the work begins, or `engine` is none.
    MismatchError
        If the engine was made with another model.
    CheckpointError, ConfigError, LockedError
        As `Engine.create`, `Engine.open` and `mine.mine_pairs`.
    """
    files = find_images(photos)
    if len(files) < 2:
        raise DataError(f"{files[0] if files else 'nothing'}: pairs need 2 photographs at least, got {len(files)}")
    check_writable(out)
    report: Progress = progress or (lambda *_: None)
    with _engine(engine, model) as opened:
        added = opened.add(files, progress=lambda done, total: report("extracting", done, total))
        for name, reason in added.failed:
            if on_error:
                on_error(name, reason)
        readable = [name for name in files if name in opened]
        if len(readable) < 2:
            raise DataError(f"pairs need 2 photographs at least: {len(readable)} of {len(files)} can be read")
        found = mine_pairs(
            opened,
            readable,
            per_photo=per_photo,
            min_inliers=min_inliers,
            max_pairs=max_pairs,
            keep_duplicates=keep_duplicates,
            seed=seed,
            workers=workers,
            progress=progress,
        )
    if not found.pairs:
        raise DataError(_no_pair(found))
    write_pairs(out, found.pairs)
    return MiningReport(Path(out), found)


def write_pairs(path: str | os.PathLike[str], pairs: Sequence[MinedPair]) -> None:
    """Write pairs as JSON lines, in place of the file at once or not at all; `training.mined` reads them.

    Raises
    ------
    FormatError
        If the file cannot be written.
    """
    target = Path(path)
    folder = Path(os.path.abspath(target)).parent
    lines = [
        {
            "a": _relative(pair.a, folder),
            "b": _relative(pair.b, folder),
            "homography": pair.homography.tolist(),
            "points": pair.points.tolist(),
        }
        for pair in pairs
    ]
    with system_errors(f"{target}: cannot be written"), replacing(target) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out before long work whether a file can be written.

    Raises
    ------
    FormatError
        If it cannot.
    """
    target = Path(path)
    if target.is_dir():
        raise FormatError(f"{target}: is a folder; give the name of a file to write")
    with system_errors(f"{target}: cannot be written"), tempfile.TemporaryFile(dir=target.parent):
        pass


@contextmanager
def _engine(directory: str | os.PathLike[str] | None, model: str | os.PathLike[str] | None) -> Iterator[Engine]:
    """Open the engine that is kept, make it, or make one that is thrown away."""
    if directory is None:
        with (
            tempfile.TemporaryDirectory(prefix="delf-engine-") as folder,
            Engine.create(Path(folder) / "engine", model=model or _DEFAULT_MODEL) as engine,
        ):
            yield engine
    elif (Path(directory) / MANIFEST).exists():
        with Engine.open(directory) as engine:
            if model is not None and read_checkpoint_info(model).identity != engine.manifest.model_identity:
                raise MismatchError(
                    f"{directory}: made with model {engine.manifest.model_identity}, not with {model}; leave the "
                    "model out, or choose a new directory"
                )
            yield engine
    else:
        with Engine.create(directory, model=model or _DEFAULT_MODEL) as engine:
            yield engine


def _no_pair(found: Mined) -> str:
    text = (
        f"no pair among {len(found.photographs)} photographs: of {found.compared} pairs verified the best has "
        f"{found.most_inliers} inliers, {found.min_inliers} are asked for"
    )
    if found.duplicates:
        text += f"; {found.duplicates} near-duplicates were left out"
    if found.uneven:
        text += f"; of {found.uneven} pairs too few matches lie on one plane"
    return f"{text}. Add photographs that share a place, or ask for fewer inliers and look at the pairs"


def _relative(photo: str, folder: Path) -> str:
    full = Path(os.path.abspath(photo))
    return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else str(full)
