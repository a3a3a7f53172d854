"""From a folder of photographs to a file of mined pairs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from delf_engine.engine import Engine
from delf_engine.engine.working import working_engine
from delf_engine.errors import DataError
from delf_engine.images import find_images
from delf_engine.mining.mine import Mined, Progress, mine_pairs
from delf_engine.support.files import check_target, replacing, system_errors
from delf_engine.training.sources.mined import MinedPair


def mine_folder(
    photos: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    engine: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    per_photo: int = 20,
    max_pairs: int = 1000,
    keep_duplicates: bool = False,
    max_pixels: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    on_error: Callable[[str, str], None] = lambda *_: None,
    progress: Progress = lambda *_: None,
) -> Mined:
    """Mine pairs among photographs and write them as JSON lines (`delf_engine.training.sources.mined`).

    A photograph below the folder of `out` is named relative to it, any other in full. `engine` is the directory of
    an engine to keep: what an earlier, interrupted call or `Engine.add` has extracted from the same paths is taken
    from there; None: a temporary one. `model` None is that of the engine if there is one, else the default.
    `on_error` is called with path and reason of each photograph that cannot be read; all else is as of
    `mine.mine_pairs`.

    A `DataError` if there are fewer than 2 readable photographs, or no pair is found; a `FormatError` if `out`
    cannot be written, found out before the work begins; a `MismatchError` if the engine was made with another
    model; others as of `Engine.create`, `Engine.open` and `mine.mine_pairs`.
    """
    files = find_images(photos)
    target = Path(out)
    check_target(target)
    with working_engine(engine, model, fine=True) as opened:
        added = opened.add(files, max_pixels=max_pixels, progress=partial(progress, "extracting"))
        for name, reason in added.failed:
            on_error(name, reason)
        readable = list(dict.fromkeys(opened.state.id_of(file) for file in files if file in opened))
        if len(readable) < 2:
            raise DataError(f"pairs need 2 photographs at least: {len(readable)} of {len(files)} can be read")
        found = mine_pairs(
            opened,
            readable,
            per_photo=per_photo,
            max_pairs=max_pairs,
            keep_duplicates=keep_duplicates,
            seed=seed,
            workers=workers,
            progress=progress,
        )
        found = _by_path(found, opened)
    if not found.pairs:
        raise DataError(
            f"no pair among {len(found.photographs)} photographs: of {found.compared} pairs verified "
            f"{found.proposed} have matches enough to train on, of which {found.same} show the same place"
            f"{found.left_out}. Add photographs that share a place"
        )
    write_pairs(out, found.pairs, found.alike)
    return found


def _by_path(found: Mined, engine: Engine) -> Mined:
    """Name photographs by where they are, not by their ids."""
    pairs = tuple(replace(pair, a=engine.path_of(pair.a), b=engine.path_of(pair.b)) for pair in found.pairs)
    alike = tuple((engine.path_of(a), engine.path_of(b)) for a, b in found.alike)
    return replace(found, pairs=pairs, alike=alike, photographs=tuple(map(engine.path_of, found.photographs)))


def write_pairs(
    path: str | os.PathLike[str], pairs: Sequence[MinedPair], alike: Sequence[tuple[str, str]] = ()
) -> None:
    """Write pairs, and pairs that only look alike, as JSON lines, in place of the file at once or not at all.

    `training.sources.mined` reads them. A `FormatError` if the file cannot be written.
    """
    target = Path(path)
    folder = Path(os.path.abspath(target)).parent

    def named(photo: str) -> str:
        full = Path(os.path.abspath(photo))
        return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else str(full)

    lines: list[dict[str, Any]] = [
        {"a": named(p.a), "b": named(p.b), "homography": p.homography.tolist(), "points": p.points.tolist()}
        for p in pairs
    ]
    lines += [{"a": named(a), "b": named(b), "same": False} for a, b in alike]
    with system_errors(f"{target}: cannot be written"), replacing(target) as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
