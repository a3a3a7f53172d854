"""Adding images to an engine, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from delf_engine.engine.manifest import write_manifest
from delf_engine.engine.results import AddReport
from delf_engine.errors import ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource

if TYPE_CHECKING:
    from delf_engine.engine.engine import Engine

__all__ = ["add_images"]

_COMMIT = 32  # images a transaction: what a kill can cost
_SAVE = 4096  # images between two saves of the index: what opening after a kill must repeat


def add_images(
    engine: Engine,
    images: Iterable[tuple[str, ImageSource]],
    *,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> AddReport:
    """Extract, commit and index images given as (id, source); see `Engine.add`."""
    report = AddReport()
    named = list(images)
    todo: dict[str, ImageSource] = {}
    for image_id, image in named:
        if image_id in engine.store or image_id in todo:
            report.skipped.append(image_id)
        else:
            todo[image_id] = image
    if not todo:
        return report

    _keep_precision(engine)
    waiting = deque(todo)  # results and errors come in the order of the sources, so the ids can follow along

    def next_id() -> str:
        image_id = waiting.popleft()
        if progress:
            progress(len(named) - len(waiting), len(named))
        return image_id

    def failed(_: ImageSource, error: ImageError) -> None:
        report.failed.append((next_id(), error.reason))

    batch: list[tuple[str, LocalFeatures]] = []
    stream = engine.extractor.extract_many(todo.values(), workers=workers, on_error=failed)
    saved = 0
    try:
        for _, features in stream:
            batch.append((next_id(), features))
            if len(batch) == _COMMIT:
                report.added.extend(engine.commit(batch))
                batch = []
            if len(report.added) - saved >= _SAVE:
                engine.save()
                saved = len(report.added)
    finally:  # also when interrupted: what is extracted is kept
        stream.close()
        report.added.extend(engine.commit(batch))
        engine.save()
    return report


def _keep_precision(engine: Engine) -> None:
    """Write down what "auto" came to on this machine: the features of one engine are all made alike."""
    profile = engine.manifest.profile
    if profile.extraction.precision == "auto":
        kept = profile.model_copy(update={"extraction": engine.extractor.config})
        engine.manifest = engine.manifest.model_copy(update={"profile": kept})
        write_manifest(engine.directory, engine.manifest)
