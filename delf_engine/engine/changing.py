"""Changing an engine: adding, replacing and removing images, and merging its index.

The feature store is the truth and is changed first, in one transaction a batch; the index follows and is saved
with the mark of the state of the store that it has followed to. So after a crash at any moment the index can tell
what it has missed, and is brought up to the store on opening.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from delf_engine.config import Profile
from delf_engine.engine.adding import add_images
from delf_engine.engine.base import EngineBase
from delf_engine.engine.parts import named_images
from delf_engine.engine.reindexing import reindex
from delf_engine.engine.results import AddReport
from delf_engine.errors import UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.images import ImageSource
from delf_engine.index import IndexKind, Vocabulary

__all__ = ["ChangingEngine", "Progress"]

Progress = Callable[[int, int], None]


class ChangingEngine(EngineBase):
    """What changes an engine that is open for writing."""

    def add(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        ids: Sequence[str] | None = None,
        replace: bool = False,
        workers: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Extract and add images; those whose id is there already are skipped, or replaced.

        Committed every 32 images: whatever interrupts it, what was committed stays, and calling it again
        with the same images goes on from there.

        Parameters
        ----------
        images : image, folder, or iterable of them
            Paths (folders are searched for images), bytes, PIL images or RGB arrays.
        ids : sequence of str or None
            One for each image, needed for images that are not files; None: the paths as given.
        replace : bool
            Extract images again whose id is there already; see `replace`. After an interruption all of them are
            extracted once more.
        workers, batch : int or None
            Decoding processes, and images that go through the network together; see `Extractor.extract_many`.
        progress : callable or None
            Called with (done, total).

        Returns
        -------
        AddReport
            An image that cannot be read is reported there, and the rest goes on.

        Raises
        ------
        DataError
            If a folder holds no image.
        LockedError
            If the engine was opened read-only.
        ConfigError
            If `ids` does not fit `images`.
        """
        self._writable()
        named = named_images(images, ids)
        return add_images(self, named, replace=replace, workers=workers, batch=batch, progress=progress)

    def replace(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        ids: Sequence[str] | None = None,
        workers: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Extract images again that are there, such as photographs that were edited, and replace their features.

        They become the last in the order of insertion, in store and index alike. Committed every 32 images, each
        with its old features or its new ones whatever interrupts it.

        Parameters
        ----------
        images, ids, workers, batch, progress
            As in `add`.

        Returns
        -------
        AddReport
            An image that cannot be read is reported there and keeps its features.

        Raises
        ------
        UnknownIdError
            If one is not there; then nothing is replaced.
        DataError, LockedError, ConfigError
            As `add`.
        """
        self._writable()
        named = list(named_images(images, ids))
        self._all_there([image_id for image_id, _ in named], "replaced")
        return add_images(self, named, replace=True, workers=workers, batch=batch, progress=progress)

    def add_features(self, items: Iterable[tuple[str, LocalFeatures]], *, replace: bool = False) -> AddReport:
        """Add features that were extracted elsewhere by the same model, as (id, features).

        Parameters
        ----------
        items : iterable of (id, LocalFeatures)
        replace : bool
            Replace those whose id is there already, as `replace` does; of an id that occurs twice the last
            counts. Otherwise they are skipped.

        Raises
        ------
        MismatchError
            If descriptors have another dimension.
        LockedError
            If the engine was opened read-only.
        """
        self._writable()
        items = list(items)
        there = {image_id for image_id, _ in items if image_id in self.store}
        written = self.commit(items, replace=replace)
        self.save()
        fresh = set(written)
        return AddReport(
            added=[image_id for image_id in written if image_id not in there],
            skipped=[image_id for image_id, _ in items if image_id not in fresh],
            replaced=[image_id for image_id in written if image_id in there],
        )

    def commit(self, items: Iterable[tuple[str, LocalFeatures]], *, replace: bool = False) -> list[str]:
        """Write features in one transaction and index them; return the ids that were written.

        Those that are there already are left alone, or with `replace` become the last with their new features. The
        index is on disk after the next `save`; `add`, `replace` and `add_features` do both.
        """
        self._catch_up()
        written = self.store.put_many(items, replace="last" if replace else False)
        # As stored, not as given: an index rebuilt from the store must be the same to the bit.
        features = self.store.get_many(written)
        if known := [image_id for image_id in written if image_id in self.index]:
            self.index.remove(known)
        self.index.add(written, features)
        self._mark = self.store.revision()
        return written

    def remove(self, ids: str | Iterable[str]) -> None:
        """Remove images.

        Raises
        ------
        UnknownIdError
            If one is not there; then nothing is removed.
        LockedError
            If the engine was opened read-only.
        """
        self._writable()
        wanted = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
        self._all_there(wanted, "removed")
        self._catch_up()
        self.store.remove(wanted)
        self.index.remove([image_id for image_id in wanted if image_id in self.index])
        self._mark = self.store.revision()
        self.save()

    def compact(self) -> None:
        """Merge the segments of the index into one without removed images, on disk and at once.

        Searches give the same results, sooner where many images were removed. The file of the feature store keeps
        its size: it gives the space of removed images to new ones.

        Raises
        ------
        FormatError
            If it cannot be written, for instance because the disk is full; the index is as before. Old and new
            segments take space until it is done.
        LockedError
            If the engine was opened read-only.
        """
        self._writable()
        self._catch_up()
        self.index.compact()
        self.save()

    def reindex(
        self,
        index: IndexKind | None = None,
        *,
        codebook: Vocabulary | str | os.PathLike[str] | None = None,
        profile: str | os.PathLike[str] | Profile | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Make the index anew from the stored features: of another kind, with other words or other options.

        The old index is used until the new one is complete, also by other processes, and stays if this fails or is
        interrupted.

        Parameters
        ----------
        index : str or None
            One of `delf_engine.index.KINDS`; None: the kind that the engine has.
        codebook : Codebook, Mixture, path or None
            Its words. None: those that the engine has, or those that come with the checkpoint.
        profile : str, path, Profile or None
            Take the options of indexes from this profile; None: they stay.
        progress : callable or None
            Called with (images done, images).

        Raises
        ------
        ConfigError
            If there is no such kind, or words or options do not go with it.
        MismatchError
            If the words have another dimension.
        FormatError
            If it cannot be written, for instance because the disk is full.
        LockedError
            If the engine was opened read-only.
        """
        self._writable()
        reindex(self, index, codebook, profile, progress)

    def _all_there(self, ids: Sequence[str], done: str) -> None:
        missing = [image_id for image_id in ids if image_id not in self.store]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UnknownIdError(f"{self.directory}: no image {missing[0]!r}{more}; nothing {done}")
