"""The work of jobs that add photographs: uploads, checked by a decoder first, and folders of the operator's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delf_engine.engine.file_ids import own_id
from delf_engine.errors import DataError, ProcessDiedError
from delf_engine.serve.database import plain
from delf_engine.serve.jobs import Added, Cancelled, Control, Failure, JobFailed
from delf_engine.serve.problems import readable
from delf_engine.serve.service import Service

#: Folder of what was uploaded to stay, in the server's.
PHOTOGRAPHS = "photographs"


def add_uploads(
    service: Service, control: Control, files: dict[Path, str], failed: list[Failure]
) -> dict[str, Any]:
    """Add uploaded files, given with the names of their client; delete those that are not added.

    `failed` holds those that were refused before.
    """
    added: list[Added] = []
    total = len(files) + len(failed)
    try:
        good = _good(service, control, files, failed)
        before = len(failed)
        with service.writing(control.check) as engine:
            ids = {own_id(path, engine.directory): path for path in good}
            try:
                report = engine.add(
                    list(ids.values()),
                    ids=list(ids),
                    max_pixels=service.settings.max_pixels,
                    progress=lambda done, _: control.progress(before + done, total),
                )
                failed += [Failure(name=files[ids[each]], reason=readable(why)) for each, why in report.failed]
            finally:  # however it ends, what is committed stays
                there = {each: path for each, path in ids.items() if each in engine}
                added = [Added(id=plain(each), name=files.pop(path)) for each, path in there.items()]
                service.database.keep_names({each.id: each.name for each in added})
    except Cancelled:
        pass
    finally:
        for path in files:  # those that are left
            path.unlink(missing_ok=True)
    return _report(added, failed)


def _good(service: Service, control: Control, files: dict[Path, str], failed: list[Failure]) -> list[Path]:
    """Return the files that can be decoded: what brings its process down must not get at the server's own."""
    good, total = [], len(files) + len(failed)
    for path, name in files.items():
        control.progress(len(failed), total)
        try:
            reason = service.decoders.problem(str(path))
        except ProcessDiedError:
            reason = "the decoder died of it"
        if reason is None:
            good.append(path)
        else:
            failed.append(Failure(name=name, reason=readable(reason)))
    return good


def add_folder(service: Service, control: Control, folder: Path) -> dict[str, Any]:
    """Add all photographs of a folder that the operator has named."""
    with service.writing(control.check) as engine:
        before = set(engine.ids())
        report = None
        try:
            report = engine.add(folder, max_pixels=service.settings.max_pixels, progress=control.progress)
        except DataError as error:
            raise JobFailed("empty_folder") from error
        except Cancelled:
            pass
        added = [_named(each) for each in engine.ids() if each not in before]
    if report is None:
        return _report(added, [])
    failed = [Failure(name=_named(each).name, reason=readable(why)) for each, why in report.failed]
    return _report(added, failed, [_named(each) for each in report.skipped])


def _named(image_id: str) -> Added:
    shown = plain(image_id)
    return Added(id=shown, name=Path(shown).name)


def _report(added: list[Added], failed: list[Failure], skipped: list[Added] | None = None) -> dict[str, Any]:
    parts = {"added": added, "failed": failed, "skipped": skipped or []}
    return {name: [each.model_dump() for each in found] for name, found in parts.items()}  # type: ignore[attr-defined]
