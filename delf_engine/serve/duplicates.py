"""The work of a job that looks for copies among the images of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delf_engine.copies import find_copies
from delf_engine.errors import LockedError
from delf_engine.serve.database import plain
from delf_engine.serve.jobs import Control, CopyPair, Failure, JobFailed
from delf_engine.serve.problems import readable
from delf_engine.serve.service import Service


def find_duplicates(service: Service, control: Control) -> dict[str, Any]:
    """Compare all images that have their file; nobody adds or removes meanwhile."""
    state = service.engine.state
    found_at = {state.path_of(each): plain(each) for each in state.store.ids()}
    ids = {path: each for path, each in found_at.items() if Path(path).is_file()}
    if not ids:
        raise JobFailed("no_files")
    with service.alone(control.check):
        try:
            found = find_copies(
                list(ids),
                engine=service.settings.directory,
                max_pixels=service.settings.max_pixels,
                progress=lambda _, done, total: control.progress(done, total),
            )
        except LockedError as error:
            raise JobFailed("locked") from error
    copies = [CopyPair(a=ids[each.a], b=ids[each.b], kind=each.kind, score=each.score) for each in found.copies]
    failed = [Failure(name=Path(ids[path]).name, reason=readable(why)) for path, why in found.failed]
    return {"copies": [each.model_dump() for each in copies], "failed": [each.model_dump() for each in failed]}
