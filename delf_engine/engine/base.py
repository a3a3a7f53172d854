"""What an engine is made of: directory, feature store, an index that follows the store, and extractor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from delf_engine.engine.following import follow_store, noted_mark
from delf_engine.engine.manifest import Manifest
from delf_engine.engine.parts import calibration_of
from delf_engine.errors import ConfigError, LockedError, MismatchError
from delf_engine.features import LocalFeatures
from delf_engine.images import Box, ImageSource
from delf_engine.index import AnyIndex
from delf_engine.model import read_checkpoint_info
from delf_engine.storage import FeatureStore, Revision
from delf_engine.verification import Calibration

if TYPE_CHECKING:
    from delf_engine.extraction import Extractor

__all__ = ["EngineBase", "Query"]

Query: TypeAlias = ImageSource | LocalFeatures


class EngineBase:
    """The parts of an open engine, and reading from them."""

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        store: FeatureStore,
        index: AnyIndex,
        readonly: bool,
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.store = store
        self.index = index
        self.readonly = readonly
        self._extractor: Extractor | None = None
        self._calibration: tuple[Calibration | None] | None = None  # read once, there or not
        self._mark = self._followed(noted_mark(index))  # the state that the index has followed to
        if not readonly:
            self._mark = store.revision()
            self.save()

    def close(self) -> None:
        """Close the store and let go of its lock. Closing twice is harmless."""
        self.store.close()

    @property
    def extractor(self) -> Extractor:
        """The extractor of the engine's model and profile, loaded on first use.

        Raises
        ------
        CheckpointError
            If the checkpoint is missing or damaged.
        MismatchError
            If it is not the one that the engine was made with.
        """
        if self._extractor is None:
            from delf_engine.extraction import Extractor

            found = read_checkpoint_info(self.manifest.model).identity
            if found != self.manifest.model_identity:
                raise MismatchError(
                    f"{self.directory}: made with model {self.manifest.model_identity}, but {self.manifest.model} "
                    f"is now {found}; its features do not fit. Use the old checkpoint or make a new engine"
                )
            self._extractor = Extractor.from_pretrained(
                self.manifest.model, config=self.manifest.profile.extraction
            )
        return self._extractor

    @property
    def calibration(self) -> Calibration | None:
        """What gives verifications their probability; None if the model has none that holds for the profile."""
        if self._calibration is None:
            found = calibration_of(self.manifest.model, self.manifest.profile, self.manifest.model_identity)
            self._calibration = (found,)
        return self._calibration[0]

    def get(self, image_id: str) -> LocalFeatures:
        """Return the features of an image.

        Raises
        ------
        UnknownIdError
            If it is not there.
        """
        return self.store.get(image_id)

    def ids(self) -> list[str]:
        """Return all image ids, in the order of insertion."""
        return self.store.ids()

    def __len__(self) -> int:
        return len(self.store)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.store

    def features_of(self, query: Query, box: Box | None = None) -> LocalFeatures:
        """Return the features of a query: as given, those of an id of the engine, or extracted from an image."""
        if isinstance(query, LocalFeatures):
            if box is not None:
                raise ConfigError("a box goes with an image; features were given")
            return query
        if box is None and isinstance(query, str) and query in self.store:
            return self.store.get(query)
        return self.extractor(query, box=box)

    def save(self) -> None:
        """Write what is new in the index, and which state of the store it has followed to."""
        self._save(self._mark)

    def use(self, manifest: Manifest, index: AnyIndex, mark: Revision | None) -> None:
        """Go on with another index, which has followed the store to `mark`."""
        self.manifest, self.index, self._mark = manifest, index, mark

    def _save(self, mark: Revision | None) -> None:
        self.index.mark = None if mark is None else mark.to_dict()
        # The lock of the store keeps others away: what is there is ours, or damaged.
        self.index.save(self.directory / self.manifest.index_folder, overwrite=True)

    def _catch_up(self) -> None:
        """Bring the index to the store, in case a change of both was interrupted half-way."""
        if self.store.revision() != self._mark:
            self._mark = self._followed(self._mark)

    def _followed(self, since: Revision | None) -> Revision | None:
        save = None if self.readonly else lambda: self._save(None)
        return follow_store(self.store, self.index, since, save=save)

    def _writable(self) -> None:
        if self.readonly:
            raise LockedError(f"{self.directory}: opened read-only; open it without readonly=True to change it")
