"""`Maintained`: what every index over a `Collection` does alike, whatever it keeps of an image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from delf_engine.errors import UnknownIdError
from delf_engine.features import LocalFeatures
from delf_engine.index import disk
from delf_engine.index.collection import Collection
from delf_engine.index.contract import check_batch

__all__ = ["Maintained", "check_index", "has_index"]


class Maintained:
    """Base of the indexes: replacing, merging, the order of insertion, and what a caller notes of its state."""

    _collection: Collection

    def replace(self, ids: Sequence[str], features: Sequence[LocalFeatures], **options: Any) -> list[str]:
        """Give images that are there new features.

        They become the last in the order of insertion, in the order given, as if removed and added again: found
        with their new features at once, and on disk after the next `save`.

        Parameters
        ----------
        ids : sequence of str
            One that occurs twice counts the first time.
        features : sequence of LocalFeatures
            One for each id.
        **options
            As `add` takes them.

        Returns
        -------
        list of str
            The ids in their new order.

        Raises
        ------
        UnknownIdError
            If one is not in the index.
        ConfigError, FeatureError, MismatchError
            As `add`. Whatever is raised, the index is as it was before.
        """
        index: Any = self
        ids, features = list(ids) if not isinstance(ids, str) else ids, list(features)
        names = list(check_batch(ids, features, index.dim))
        for image_id in names:
            if image_id not in index:
                raise UnknownIdError(f"the index holds no image {image_id!r}; add it instead of replacing it")
        with ExitStack() as undo:
            undo.callback(self._collection.restore, self._collection.state())
            index.remove(names)
            index.add(ids, features, **options)
            undo.pop_all()
        return names

    def compact(self) -> None:
        """Let the next `save` merge all segments into one without removed images.

        It is written straight to disk beside the old segments, which are deleted once the new one is complete:
        until then both take space. Results of searches stay the same.
        """
        self._collection.compact()

    def reorder(self, ids: Sequence[str]) -> None:
        """Put the images into another order of insertion, by which equal scores are ranked.

        Raises
        ------
        ConfigError
            If `ids` does not name each image once.
        """
        self._collection.reorder(ids)
        self._changed()

    @property
    def mark(self) -> dict[str, Any] | None:
        """A note of the caller, of plain JSON values, that is saved and loaded with the index.

        An engine notes which state of its feature store the index has followed to.
        """
        return self._collection.mark

    @mark.setter
    def mark(self, values: dict[str, Any] | None) -> None:
        self._collection.mark = values

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the damaged segments that the index was loaded without; the next `save` deletes them."""
        return self._collection.damaged

    def _changed(self) -> None:
        """Forget what was derived from the images that were there, and from their order."""


def check_index(directory: str | os.PathLike[str]) -> Iterator[tuple[Path, str | None]]:
    """Compare every file of a saved index of any kind with its size and checksum.

    Parameters
    ----------
    directory : path

    Yields
    ------
    path : Path
    problem : str or None
        What is wrong with it; None: nothing.

    Raises
    ------
    FormatError
        If there is no index, or its manifest is damaged.
    """
    return disk.scrub(Path(directory))


def has_index(directory: str | os.PathLike[str]) -> bool:
    """Whether an index of any kind was saved here and its manifest is whole; its segments are not looked at."""
    return disk.has_manifest(Path(directory))
