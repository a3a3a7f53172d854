"""How an index catches up with the feature store, which is the truth.

The index notes the revision of the store that it holds. Where the store is still in that state there is nothing to
do; where it has gone on from there, what was put since is looked up, and all ids are compared only if images were
removed. An index whose revision is of a history that the store never had, such as after a backup of one of the two
was restored, is built again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from delf_engine.errors import DelfEngineWarning, FormatError
from delf_engine.index import AnyIndex
from delf_engine.storage import FeatureStore, Revision

_BATCH = 256
_SAVE = 4096  # images between two saves


def catch_up(
    store: FeatureStore,
    index: AnyIndex,
    since: Revision | None,
    *,
    save: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Revision:
    """Bring an index to what the store holds, in its order; they differ after a crash, or while another adds.

    The store is open for writing, or pinned: it does not change meanwhile. An image whose stored features are
    damaged is left out with a `DelfEngineWarning`. `since` is the revision that the index holds; None: not known,
    all ids are compared. `save` is called every 4096 images that are added, to save the index without a revision:
    memory stays small, and a crash costs no more. `progress` is called with (images added, images to add).
    Returned is the revision that the index holds now.
    """
    return _Replay(store, index, save, progress).run(since)


class _Replay:
    """Repeats on an index what has happened to the store."""

    def __init__(
        self,
        store: FeatureStore,
        index: AnyIndex,
        save: Callable[[], None] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._store, self._index, self._save, self._progress = store, index, save, progress
        self._unsaved = 0

    def run(self, since: Revision | None) -> Revision:
        index, changes = self._index, self._store.changes(since)
        doubtful = index.ids() if changes.foreign else changes.put or []
        stale = [image_id for image_id in doubtful if image_id in index]
        if stale:
            index.remove(stale)
        put = changes.put
        if put is None or index.damaged or len(index) + len(put) != changes.images:
            self._compare()
        else:
            self._add(put)
        return changes.revision

    def _compare(self) -> None:
        """Compare all ids; what stands behind the first difference is indexed again, so that the order holds.

        Segments are smaller the later they are: that is rarely much more than what was lost.
        """
        stored, held = self._store.ids(), self._index.ids()
        if stored == held:
            return
        there = set(stored)
        gone = [image_id for image_id in held if image_id not in there]
        if gone:
            self._index.remove(gone)
        kept = [image_id for image_id in held if image_id in there]
        right = 0
        for place, image_id in enumerate(stored):
            if right < len(kept) and kept[right] == image_id:
                right += 1
            elif image_id in self._index or self._is_readable(image_id):
                if kept[right:]:
                    self._index.remove(kept[right:])
                self._add(stored[place:])
                return

    def _is_readable(self, image_id: str) -> bool:
        try:
            self._store.get(image_id)
        except FormatError as error:
            message = f"{error}; it cannot be found by searches until it is replaced or removed"
            warnings.warn(message, DelfEngineWarning, stacklevel=2)
            return False
        return True

    def _add(self, ids: Sequence[str]) -> None:
        """Index images by their stored features."""
        for start in range(0, len(ids), _BATCH):
            part = ids[start : start + _BATCH]
            try:
                self._index.add(part, self._store.get_many(part))
            except FormatError:
                for image_id in filter(self._is_readable, part):
                    self._index.add([image_id], [self._store.get(image_id)])
            self._unsaved += len(part)
            if self._save is not None and self._unsaved >= _SAVE:
                self._save()
                self._unsaved = 0
            if self._progress is not None:
                self._progress(min(start + _BATCH, len(ids)), len(ids))
