"""What an open engine is made of: directory, feature store, an index that holds what the store does, extractor.

The feature store is the truth and is changed first, in one transaction a batch; the index follows and is saved
with the revision of the store that it holds. So after a crash at any moment the index can tell what it has missed,
and catches up with the store on opening.

What was opened to read is a snapshot: the store is pinned, the index holds the same revision. It never changes;
`EngineState.newer` gives another one, and searches that are at work go on with the one they have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from delf_engine.engine.catch_up import catch_up
from delf_engine.engine.directory import FEATURES, open_index, remove_unused
from delf_engine.engine.file_ids import file_id, file_of, kept_root, root_of
from delf_engine.engine.fine import FineSource
from delf_engine.engine.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from delf_engine.engine.pairs import calibration_of
from delf_engine.engine.views import View
from delf_engine.errors import ConfigError, LockedError, MismatchError, UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.index import AnyIndex, Codebook, saved_mark
from delf_engine.index.vectors import kept_vector
from delf_engine.reranking import RerankOptions
from delf_engine.storage import FeatureStore, Revision
from delf_engine.storage.codec import as_stored
from delf_engine.support.files import system_errors
from delf_engine.verification import Calibration, load_calibration

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

#: Of the engine's own calibration, in its directory.
CALIBRATION = "calibration.json"

#: An image, an id of the engine, or features.
Query: TypeAlias = ImageSource | LocalFeatures


class EngineState:
    """An open engine; what it answers and how it is changed are functions of this."""

    def __init__(
        self, directory: Path, manifest: Manifest, store: FeatureStore, index: AnyIndex, *, readonly: bool
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.store = store
        self.index = index
        self.readonly = readonly
        self._process = os.getpid()
        self._seen: tuple[int, ...] = ()  # signature of the manifest
        self.root = root_of(directory, manifest.root)
        noted = None if index.mark is None else Revision.from_dict(index.mark)
        self._revision = self._caught_up(noted)  # of the store: the one that the index holds
        if not readonly:
            self.save()
        index.mark = self._revision.to_dict()
        index.flush()
        self.fine = FineSource(directory, manifest.profile, readonly=readonly)  # last: it is opened

    @classmethod
    def open(
        cls, directory: Path, *, readonly: bool, check: bool | None = None, before: EngineState | None = None
    ) -> EngineState:
        """Open an engine that exists; see `Engine.open`. What is still right of a state `before` is kept."""
        seen, manifest = _signature(directory), read_manifest(directory)
        with ExitStack() as undo:
            store = undo.enter_context(FeatureStore.open(directory / FEATURES, readonly=readonly))
            if store.model != manifest.model_identity or store.dim != manifest.dim:
                raise MismatchError(
                    f"{directory}: the store holds {store.dim}-D features of {store.model}, the engine is for "
                    f"{manifest.dim}-D features of {manifest.model_identity}"
                )
            if not readonly:  # others have no way to change it from here on
                manifest = read_manifest(directory)
                remove_unused(directory, manifest)
            if before is not None and before._leads_to(manifest):
                index = before.index.copy()
                index.mark = before._revision.to_dict()
            else:
                manifest, index = open_index(
                    directory, manifest, check, None if before is None else before.index.encoder
                )
            if readonly:
                store.pin()  # now: an index is never ahead of its store
            state = cls(directory, manifest, store, index, readonly=readonly)
            undo.pop_all()
        state._seen = seen
        if before is not None:
            before.lend_extractor(state)
            state.fine.go_on(before.fine)
        return state

    def newer(self) -> EngineState:
        """Return the state to go on with: this one, or another if a reader is behind, or in a forked child."""
        if self.is_inherited:
            self.store.revision()  # an error if it is closed
            self.index.flush()
        elif not self.readonly or not (self.store.has_gone_on() or self._seen != _signature(self.directory)):
            return self
        after = EngineState.open(self.directory, readonly=True, before=self)
        if self.root != root_of(self.directory, self.manifest.root):
            after.root = self.root  # as `use_root` has said
        return after

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child of the process that has opened the engine."""
        return self._process != os.getpid()

    def _leads_to(self, manifest: Manifest) -> bool:
        """Whether to go on from the index in memory takes less than from the one on disk."""
        mine = self.manifest
        if (mine.index_folder, mine.codebook) != (manifest.index_folder, manifest.codebook):
            return False
        mark = saved_mark(self.directory / manifest.index_folder)
        return mark is None or Revision.from_dict(mark).commit <= self._revision.commit

    def lend_extractor(self, to: EngineState) -> None:
        """Let another state of the engine use the extractor, if it is loaded here and right there."""
        mine, theirs = (
            (one.manifest.model, one.manifest.model_identity, one.manifest.profile.extraction)
            for one in (self, to)
        )
        if mine == theirs and self.has_extractor:
            to.extractor = self.extractor

    @property
    def has_extractor(self) -> bool:
        """Whether the model is loaded."""
        return "extractor" in vars(self)

    def share_card(self) -> None:
        """Let the GPU of the model find visual words, too, if it is loaded on one."""
        if isinstance(self.index.encoder, Codebook) and self.has_extractor and self.extractor.on_gpu:
            self.index.encoder.use(str(self.extractor.device))

    def close(self) -> None:
        """Close the stores and let go of their locks. Closing twice is harmless."""
        self.fine.close()
        self.store.close()

    @cached_property
    def extractor(self) -> Extractor:
        """The extractor of the engine's model and profile, loaded on first use; see `Engine.extractor`."""
        return load_extractor(self.manifest, self.directory)

    @cached_property
    def calibration(self) -> Calibration | None:
        """What gives verifications their probability, if anything does; see `Engine.calibration`."""
        manifest, own = self.manifest, self.directory / CALIBRATION
        if self.has_own_calibration:
            return load_calibration(own, profile=manifest.profile, identity=manifest.model_identity)
        return calibration_of(manifest.model, manifest.profile, manifest.model_identity)

    @property
    def has_own_calibration(self) -> bool:
        """Whether the engine has a calibration of its own."""
        return (self.directory / CALIBRATION).exists()

    def use_calibration(self, calibration: Calibration | None) -> None:
        """Keep a calibration of the engine's own, or forget it; see `Engine.use_calibration`."""
        manifest, own = self.manifest, self.directory / CALIBRATION
        if calibration is None:
            with system_errors(f"{own}: cannot be deleted"):
                own.unlink(missing_ok=True)
        elif not calibration.holds_for(profile=manifest.profile, checkpoint=manifest.model_identity):
            raise MismatchError(
                f"{self.directory}: the calibration was fitted for {calibration.checkpoint} and the profile "
                f"{calibration.profile}, the engine has {manifest.model_identity} and {manifest.profile.name}"
            )
        else:
            calibration.save(own)
        vars(self).pop("calibration", None)
        write_manifest(self.directory, manifest)  # by which readers see that they are behind

    def rerank_options(self, **given: Any) -> RerankOptions:
        """Return the options of the profile, with the model's calibration, but for those given."""
        return RerankOptions.of(self.manifest.profile, calibration=self.calibration, **given)

    def features_of(self, query: Query, box: Box | None = None) -> LocalFeatures:
        """Return the features of a query: as given, those of an id of the engine, or extracted from an image."""
        if isinstance(query, LocalFeatures):
            if box is not None:
                raise ConfigError("a box goes with an image; features were given")
            return query
        if isinstance(query, (str, os.PathLike)):
            image_id = self.id_of(query)
            if image_id in self.store:
                return self.store.get(image_id) if box is None else self.extractor(self.path_of(image_id), box=box)
        return self.extractor(query, box=box)

    def fine_of(self, query: Query) -> LocalFeatures | None:
        """Return the fine features of a query; None if its photograph cannot be read and they are not stored."""
        if isinstance(query, LocalFeatures):
            return None
        if isinstance(query, (str, os.PathLike)) and self.id_of(query) in self.store:
            return self.fine.get(self.id_of(query), self.path_of(query))
        return self.fine.extracted(query)

    def view_of(self, query: Query, box: Box | None = None, *, fine: bool = True) -> View:
        """Return a query with its fine features, if wanted and its photograph can be read or they are stored."""
        features = self.features_of(query, box)
        if isinstance(query, LocalFeatures):
            return View(features)
        image: ImageSource = self.path_of(query) if isinstance(query, (str, os.PathLike)) else query

        def turned(rotation: int) -> LocalFeatures:
            return self.extractor(image, box=box, rotation=rotation)

        details = None
        if fine:
            details = self.fine_of(query) if box is None else self.fine.extracted(image, box)
        gone = isinstance(image, (str, os.PathLike)) and not os.path.isfile(image)  # an id whose file is elsewhere
        return View(features, details, None if gone else turned)

    def id_of(self, name: str | os.PathLike[str]) -> str:
        """Return the id that is meant: as given if it is one, or that of a file, however its path is written."""
        given = os.fspath(name)
        if given in self.store:
            return given
        found = file_id(given, self.root) if given else given
        return found if found in self.store else given

    def store_info(self) -> dict[str, Any]:
        """Return what the store holds, as plain Python values."""
        return self.store.info().to_dict()

    def known(self, ids: Iterable[str]) -> set[str]:
        """Return those that are ids of images, as they are written."""
        return {image_id for image_id in ids if image_id in self.store}

    def page(self, offset: int, limit: int) -> list[str]:
        """Return some ids, in the order of insertion."""
        return self.store.ids()[offset : offset + limit]

    def path_of(self, name: str | os.PathLike[str]) -> str:
        """Return where the file of an image is, given by its id; what is no id is a path already."""
        image_id = self.id_of(name)
        return file_of(image_id, self.root, self.directory) if image_id in self.store else image_id

    def use_root(self, root: str | os.PathLike[str]) -> None:
        """Look for files from another root on, which a writer keeps."""
        self.root = os.path.abspath(root)
        kept = kept_root(self.directory, root)
        if not self.readonly and kept != self.manifest.root:
            self.manifest = self.manifest.model_copy(update={"root": kept})
            write_manifest(self.directory, self.manifest)

    def check_writable(self) -> None:
        """Raise `LockedError` if the engine was opened read-only."""
        if self.readonly:
            raise LockedError(f"{self.directory}: opened read-only; open it without readonly=True to change it")

    def check_known(self, ids: Sequence[str], done: str) -> None:
        """Raise `UnknownIdError`, which says that nothing was `done`, unless all images are there."""
        missing = [image_id for image_id in ids if image_id not in self.store]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UnknownIdError(f"{self.directory}: no image {missing[0]!r}{more}; nothing {done}")

    def commit(self, items: Iterable[tuple[str, LocalFeatures]], *, replace: bool = False) -> list[str]:
        """Write features in one transaction and index them; return the ids that were written.

        Those that are there already are left alone, or with `replace` become the last with their new features; of
        an id that occurs twice the first counts then, or with `replace` the last. The index is on disk after the
        next `save`.
        """
        batch: dict[str, LocalFeatures] = {}
        for image_id, features in items:
            if replace:
                batch.pop(image_id, None)
            batch.setdefault(image_id, features)
        for image_id, features in batch.items():  # before the store, which takes vectors of any length, is written
            if self.index.vectors and isinstance(features, LocalFeatures):
                kept_vector(features, self.index.vectors, image_id)
        self.catch_up()
        self.fine.forget(image_id for image_id in batch if replace or image_id not in self.store)
        written = self.store.put_many(batch.items(), replace=replace)
        if known := [image_id for image_id in written if replace and image_id in self.index]:
            self.index.remove(known)
        # As stored, not as given: an index rebuilt from the store must be the same to the bit.
        stored = [as_stored(batch[image_id], self.store.codec) for image_id in written]
        self.share_card()
        self.index.add(written, stored)
        self._revision = self.store.revision()
        return written

    def remove(self, ids: Sequence[str]) -> None:
        """Remove images from store and index."""
        self.catch_up()
        self.fine.forget(ids)
        self.store.remove(ids)
        self.index.remove([image_id for image_id in ids if image_id in self.index])
        self._revision = self.store.revision()
        self.save()

    def catch_up(self) -> None:
        """Bring the index to the store, in case a change of both was interrupted half-way."""
        if self.store.revision() != self._revision:
            self._revision = self._caught_up(self._revision)

    def save(self) -> None:
        """Write what is new in the index, and which revision of the store it holds."""
        self._save(self._revision)

    def use(self, manifest: Manifest, index: AnyIndex, revision: Revision) -> None:
        """Go on with another index, which holds `revision` of the store."""
        self.manifest, self.index, self._revision = manifest, index, revision

    def _save(self, revision: Revision | None) -> None:
        self.index.mark = None if revision is None else revision.to_dict()
        # The lock of the store keeps others away: what is there is ours, or damaged.
        self.index.save(self.directory / self.manifest.index_folder, overwrite=True)

    def _caught_up(self, since: Revision | None) -> Revision:
        save = None if self.readonly else lambda: self._save(None)
        return catch_up(self.store, self.index, since, save=save)


def load_extractor(manifest: Manifest, where: object) -> Extractor:
    """Load the extractor that a manifest names; a `MismatchError` that names `where` if it is another one now."""
    from delf_engine.extraction import Extractor

    extractor = Extractor.from_pretrained(manifest.model, config=manifest.profile.extraction)
    found = None if extractor.info is None else extractor.info.identity
    if found != manifest.model_identity:
        raise MismatchError(
            f"{where}: made with model {manifest.model_identity}, but {manifest.model} is now "
            f"{found}; its features do not fit. Use the old checkpoint or make a new engine"
        )
    if manifest.global_head is None:
        extractor.global_head = None
    head = None if extractor.global_head is None else extractor.global_head.identity
    if head != manifest.global_head:
        raise MismatchError(
            f"{where}: made with the global head {manifest.global_head}, but beside {manifest.model} "
            f"lies {head or 'none'} now; its vectors do not fit. Use the old file or make a new engine"
        )
    return extractor


def _signature(directory: Path) -> tuple[int, ...]:
    """Return what changes when the manifest is replaced."""
    with suppress(OSError):  # that it is missing is said where it is read
        status = (directory / MANIFEST).stat()
        return status.st_ino, status.st_mtime_ns, status.st_size
    return ()
