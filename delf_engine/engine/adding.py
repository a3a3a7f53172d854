"""Adding images to an engine, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING

from delf_engine.engine.manifest import write_manifest
from delf_engine.engine.results import AddReport
from delf_engine.errors import ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource

if TYPE_CHECKING:
    from delf_engine.engine.changing import ChangingEngine

__all__ = ["add_images"]

_COMMIT = 32  # images a transaction: what a kill can cost
_SAVE = 4096  # images between two saves of the index: what opening after a kill must repeat


def add_images(
    engine: ChangingEngine,
    images: Iterable[tuple[str, ImageSource]],
    *,
    replace: bool,
    workers: int | None,
    batch: int | None,
    progress: Callable[[int, int], None] | None,
) -> AddReport:
    """Extract, commit and index images given as (id, source); see `Engine.add` and `Engine.replace`."""
    report = AddReport()
    named = list(images)
    todo: dict[str, ImageSource] = {}
    for image_id, image in named:
        if image_id in todo or (image_id in engine.store and not replace):
            report.skipped.append(image_id)
        else:
            todo[image_id] = image
    if not todo:
        return report

    import numba  # noqa: F401  now, since an import that is interrupted half-way cannot be taken up again

    _keep_precision(engine)
    waiting = deque(todo)  # results and errors come in the order of the sources, so the ids can follow along

    def next_id() -> str:
        image_id = waiting.popleft()
        if progress:
            progress(len(named) - len(waiting), len(named))
        return image_id

    def failed(_: ImageSource, error: ImageError) -> None:
        report.failed.append((next_id(), error.reason))

    stream = engine.extractor.extract_many(todo.values(), workers=workers, batch=batch, on_error=failed)
    with _Writer(engine, report, replace) as writer, closing(stream):
        for _, features in stream:
            writer.put(next_id(), features)
    return report


class _Writer:
    """Commits batches; on a GPU behind the back of extraction, one at a time: a slow disk makes extraction wait.

    On a CPU both would be in each other's way. On leaving, also when interrupted, what has been extracted is
    committed and the index saved.
    """

    def __init__(self, engine: ChangingEngine, report: AddReport, replace: bool) -> None:
        self._engine, self._report = engine, report
        self._options = {"replace": True} if replace else {}
        self._batch: list[tuple[str, LocalFeatures]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[None] | None = None
        self._unsaved = 0

    def put(self, image_id: str, features: LocalFeatures) -> None:
        self._batch.append((image_id, features))
        if len(self._batch) == _COMMIT:
            self._wait()
            batch, self._batch = self._batch, []
            if self._engine.extractor.on_gpu:
                self._pending = self._thread.submit(self._commit, batch)
            else:
                self._commit(batch)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._wait()
            self._commit(self._batch)
        finally:
            self._thread.shutdown()
            self._engine.save()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()  # interrupted here, or failed: still there for `__exit__`
            self._pending = None

    def _commit(self, batch: list[tuple[str, LocalFeatures]]) -> None:
        there = {image_id for image_id, _ in batch if image_id in self._engine.store}
        written = self._engine.commit(batch, **self._options)
        self._report.added.extend(image_id for image_id in written if image_id not in there)
        self._report.replaced.extend(image_id for image_id in written if image_id in there)
        self._unsaved += len(written)
        if self._unsaved >= _SAVE:
            self._engine.save()
            self._unsaved = 0


def _keep_precision(engine: ChangingEngine) -> None:
    """Write down what "auto" came to on this machine: the features of one engine are all made alike."""
    profile = engine.manifest.profile
    if profile.extraction.precision == "auto":
        kept = profile.model_copy(update={"extraction": engine.extractor.config})
        engine.manifest = engine.manifest.model_copy(update={"profile": kept})
        write_manifest(engine.directory, engine.manifest)
