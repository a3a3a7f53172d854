"""Features of a set on disk: extracted once for a system, continued where a run was stopped."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.revisited.stages import Stages
from benchmarks.systems import System
from delf_engine import LocalFeatures
from delf_engine.errors import DataError, FormatError, ImageError, MismatchError
from delf_engine.storage import FeatureStore

__all__ = ["FeatureFile", "Stores", "Views", "all_of", "extracted", "given", "key_of"]

_COMMIT = 32  # images: what a kill loses
_NAMED = 10

Box = Sequence[float]


@dataclass(frozen=True)
class Views:
    """Photographs, or boxes of them, by name.

    Attributes
    ----------
    title : str
        What they are, as progress shows it.
    paths : mapping of name to Path
    boxes : mapping of name to x0, y0, x1, y1, or None
        What is looked at; None: all of each photograph.
    """

    title: str
    paths: Mapping[str, Path]
    boxes: Mapping[str, Box] | None = None

    def ids(self) -> dict[str, str]:
        """Return the key of each view in a store: a photograph of another size is another one."""
        out = {}
        for name, path in self.paths.items():
            size = path.stat().st_size
            box = "" if self.boxes is None else " " + " ".join(f"{side:g}" for side in self.boxes[name])
            out[name] = f"{name}@{size}{box}"
        return out


class FeatureFile:
    """Features by name, in a store that may use other ids.

    Parameters
    ----------
    store : FeatureStore
    ids : mapping of name to str
        The id of each name in the store, in the order of the gallery.
    """

    def __init__(self, store: FeatureStore, ids: Mapping[str, str]) -> None:
        self.store = store
        self.ids = ids

    def get(self, name: str) -> LocalFeatures:
        """Return the features of one image."""
        return self.store.get(self.ids[name])

    def only(self, names: Iterable[str]) -> FeatureFile:
        """Return the features of some of the names, in their order."""
        return FeatureFile(self.store, {name: self.ids[name] for name in names})

    def batches(self, names: Sequence[str] | None = None, size: int = 256) -> Iterator[dict[str, LocalFeatures]]:
        """Yield all, or some, in order and in parts."""
        names = list(self.ids) if names is None else names
        for start in range(0, len(names), size):
            part = names[start : start + size]
            yield dict(zip(part, self.store.get_many([self.ids[name] for name in part]), strict=True))


class Stores(contextlib.ExitStack):
    """The stores of a run, each opened once and closed at its end."""

    def __init__(self, work: Path) -> None:
        super().__init__()
        self._work = work
        self._open: dict[Path, FeatureStore] = {}

    def of(self, system: System, what: str) -> FeatureStore:
        """Return the store for a system's features of `what`; made if need be."""
        path = self._work / "features" / f"{what}-{key_of(system.identity)}"
        if path not in self._open:
            self._open[path] = self.enter_context(_opened(path, system))
        return self._open[path]

    def given(self, path: Path, like: tuple[int, str] | None = None) -> FeatureStore:
        """Return a store of the user's own, for reading.

        Parameters
        ----------
        path : Path
        like : (int, str) or None
            Dimension and model of the features that these are searched with.

        Raises
        ------
        MismatchError
            If they cannot be compared with those: another dimension, or another model where both are named.
        """
        if path not in self._open:
            self._open[path] = self.enter_context(FeatureStore.open(path, readonly=True))
        store = self._open[path]
        if like is not None and store.dim != like[0]:
            raise MismatchError(f"{path}: holds {store.dim}-D descriptors, {like[0]}-D ones are needed")
        if like is not None and store.model and like[1] and store.model.split()[0] != like[1].split()[0]:
            raise MismatchError(
                f"{path}: holds features of {store.model.split()[0]}, they are to be compared with those of "
                f"{like[1].split()[0]}; extract both with the same model"
            )
        return store


def _opened(path: Path, system: System) -> FeatureStore:
    """Open a store, or create it: also one whose creation was cut off, which creating it again completes."""
    if (path / "data.mdb").is_file():
        try:
            return FeatureStore.open(path)
        except FormatError as error:
            try:
                return _created(path, system)
            except FormatError:
                raise error from None
    return _created(path, system)


def _created(path: Path, system: System) -> FeatureStore:
    codec = system.profile.storage.codec
    return FeatureStore.create(path, dim=system.dim, codec=codec, model=system.identity)


def extracted(
    stores: Stores, system: System, what: str, views: Views, stages: Stages
) -> tuple[FeatureFile, dict[str, str]]:
    """Extract the features of views that the store does not hold yet.

    Returns
    -------
    features : FeatureFile
        Of all views that could be read.
    failed : dict of name to str
        The others, and why.
    """
    store, ids = stores.of(system, what), views.ids()
    missing = [name for name in views.paths if ids[name] not in store]
    failed: dict[str, str] = {}
    key = f"{store.path.name} {views.title}"
    stage = f"{system.name}: features, {views.title}"
    with stages.stage(stage, key, len(ids), cached=len(ids) - len(missing)) as clock:
        batch: dict[str, LocalFeatures] = {}

        def commit() -> None:
            store.put_many(batch.items())
            clock.advance(len(batch))
            batch.clear()

        for name, features in _features(system, views, missing, failed):
            batch[ids[name]] = features
            if len(batch) >= _COMMIT:
                commit()
        commit()
    _tell(failed)
    return FeatureFile(store, {name: ids[name] for name in ids if name not in failed}), failed


def given(store: FeatureStore, names: Iterable[str]) -> FeatureFile:
    """Return features of a store by name; ids may be names, or paths of files of that name.

    Raises
    ------
    DataError
        If two ids are of one name.
    """
    wanted, by_name = dict.fromkeys(names), dict[str, str]()
    for image_id in store.ids():
        name = image_id if image_id in wanted else Path(image_id).stem
        if name in by_name:
            raise DataError(f"{store.path}: {by_name[name]!r} and {image_id!r} are both of image {name}")
        by_name[name] = image_id
    return FeatureFile(store, {name: by_name[name] for name in wanted if name in by_name})


def all_of(store: FeatureStore, *, prefix: str = "") -> FeatureFile:
    """Return everything that a store holds, by its ids behind a prefix."""
    return FeatureFile(store, {f"{prefix}{image_id}": image_id for image_id in store.ids()})


def key_of(*parts: str) -> str:
    """Return a short name for what depends on all of `parts`."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _features(
    system: System, views: Views, names: Sequence[str], failed: dict[str, str]
) -> Iterator[tuple[str, LocalFeatures]]:
    """Yield features in the order of `names`; what cannot be read goes into `failed`."""
    many: Any = getattr(system.extract, "extract_many", None)  # of our own extractor
    if views.boxes is None and many is not None:
        name_of = {views.paths[name]: name for name in names}

        def report(source: object, error: ImageError) -> None:
            failed[name_of[Path(str(source))]] = error.reason

        for source, features in many(list(name_of), on_error=report):
            yield name_of[Path(str(source))], features
        return
    for name in names:
        try:
            box = None if views.boxes is None else views.boxes[name]
            features = system.extract(views.paths[name], box=box)
        except ImageError as error:
            failed[name] = error.reason
        else:
            yield name, features


def _tell(failed: Mapping[str, str]) -> None:
    say: Callable[[str], None] = lambda text: Console(stderr=True).print(text, highlight=False, markup=False)  # noqa: E731
    for name, reason in list(failed.items())[:_NAMED]:
        say(f"cannot be read: {name}: {reason}")
    if len(failed) > _NAMED:
        say(f"and {len(failed) - _NAMED:,} more")
