"""Adding images to an engine, batch by batch."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from delf_engine.engine.file_ids import file_id
from delf_engine.engine.manifest import write_manifest
from delf_engine.engine.results import AddReport
from delf_engine.engine.state import EngineState
from delf_engine.errors import ConfigError, ImageError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource, find_images, source_name
from delf_engine.support.threads import in_threads, uninterrupted, usable_cores

_COMMIT = 32  # images a transaction: what a kill can cost
_SAVE = 4096  # images between two saves of the index: what opening after a kill must repeat


def add_images(
    state: EngineState,
    images: Iterable[tuple[str, ImageSource]],
    *,
    replace: bool,
    progress: Callable[[int, int], None] | None,
    **extraction: Any,
) -> AddReport:
    """Extract, commit and index images given as (id, source); see `Engine.add` and `Engine.replace`.

    `extraction` holds further options of `Extractor.extract_many`.
    """
    named = list(images)
    report = AddReport()
    todo: dict[str, ImageSource] = {}
    there: set[str] = set()
    for image_id, image in named:
        known = image_id not in todo and image_id in state.store
        if image_id in todo or (known and not replace):
            report.skipped.append(image_id)
            continue
        if known:
            there.add(image_id)
        todo[image_id] = image
    if not todo:
        return report

    _keep_precision(state)
    waiting = deque(todo)  # results and errors come in the order of the sources, so the ids can follow along

    def next_id() -> str:
        image_id = waiting.popleft()
        if progress:
            progress(len(named) - len(waiting), len(named))
        return image_id

    def failed(_: ImageSource, error: ImageError) -> None:
        report.failed.append((next_id(), error.reason))

    stream = state.extractor.extract_many(todo.values(), on_error=failed, **extraction)
    with _Writer(state, report, there) as writer, closing(stream):
        for _, features in stream:
            image_id = next_id()
            writer.put(image_id, features, todo[image_id])
    return report


def add_features(state: EngineState, items: Iterable[tuple[str, LocalFeatures]], *, replace: bool) -> AddReport:
    """Commit and index features given as (id, features); see `Engine.add_features`."""
    items = list(items)
    there = {image_id for image_id, _ in items if image_id in state.store}
    written = state.commit(items, replace=replace)
    state.save()
    fresh = set(written)
    return AddReport(
        added=[image_id for image_id in written if image_id not in there],
        skipped=[image_id for image_id, _ in items if image_id not in fresh],
        replaced=[image_id for image_id in written if image_id in there],
    )


class _Writer:
    """Commits batches; on a GPU behind the back of extraction, one at a time: a slow disk makes extraction wait.

    On a CPU both would be in each other's way. On leaving, also when interrupted, what has been extracted is
    committed and the index saved. Images that are `there` already are replaced.
    """

    def __init__(self, state: EngineState, report: AddReport, there: set[str]) -> None:
        self._state, self._report, self._there = state, report, there
        self._batch: list[tuple[str, LocalFeatures]] = []
        self._sources: dict[str, ImageSource] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[None] | None = None
        self._unsaved = 0

    def put(self, image_id: str, features: LocalFeatures, source: ImageSource) -> None:
        self._sources[image_id] = source
        self._batch.append((image_id, features))
        if len(self._batch) == _COMMIT:
            self._wait()
            batch, self._batch = self._batch, []
            if self._state.extractor.on_gpu:
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
            with uninterrupted():
                self._state.save()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()  # interrupted here, or failed: still there for `__exit__`
            self._pending = None

    @uninterrupted()
    def _commit(self, batch: list[tuple[str, LocalFeatures]]) -> None:
        written = self._state.commit(batch, replace=bool(self._there))
        sources = {image_id: self._sources.pop(image_id) for image_id, _ in batch}
        if self._state.fine.store is not None:
            self._keep_fine({image_id: sources[image_id] for image_id in written})
        self._report.added.extend(image_id for image_id in written if image_id not in self._there)
        self._report.replaced.extend(image_id for image_id in written if image_id in self._there)
        self._unsaved += len(written)
        if self._unsaved >= _SAVE:
            self._state.save()
            self._unsaved = 0

    def _keep_fine(self, sources: dict[str, ImageSource]) -> None:
        """Extract and keep fine features of images that are committed; OpenCV works beside Python's lock."""
        fine, ids = self._state.fine, list(sources)
        found = in_threads(lambda number: fine.extracted(sources[ids[number]]), len(ids), usable_cores())
        fine.put((image_id, own) for image_id, own in zip(ids, found, strict=True) if own is not None)


def _keep_precision(state: EngineState) -> None:
    """Write down what "auto" came to on this machine: the features of one engine are all made alike."""
    profile = state.manifest.profile
    if profile.extraction.precision == "auto":
        kept = profile.model_copy(update={"extraction": state.extractor.config})
        state.manifest = state.manifest.model_copy(update={"profile": kept})
        write_manifest(state.directory, state.manifest)


def named_images(
    images: ImageSource | Iterable[ImageSource], ids: Sequence[str] | None, root: str | None
) -> Iterator[tuple[str, ImageSource]]:
    """Yield each image with its id: the one given for it, or that of its file; folders are expanded."""
    sources: list[ImageSource] = [images] if is_one_image(images) else list(images)  # type: ignore[list-item, arg-type]
    if ids is not None:
        if len(ids) != len(sources):
            raise ConfigError(f"{len(ids)} ids were given for {len(sources)} images")
        if len(set(ids)) < len(ids):
            raise ConfigError(f"{max(ids, key=Counter(ids).__getitem__)!r} is the id of more than one image")
        yield from zip(ids, sources, strict=True)
        return
    for source in sources:
        if not isinstance(source, (str, os.PathLike)):
            raise ConfigError(f"{source_name(source)}: an image that is not a file needs an id (ids=...)")
        expanded = [os.fspath(source)]
        with suppress(OSError):
            if Path(source).is_dir():
                expanded = find_images([source])
        yield from ((file_id(path, root), path) for path in expanded)


def is_one_image(images: Any) -> bool:
    """Whether this is one image rather than an iterable of them."""
    return isinstance(images, (str, os.PathLike, bytes)) or hasattr(images, "getbands") or hasattr(images, "dtype")
