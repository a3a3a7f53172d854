"""Fine features of an engine's images: kept in a second store if the engine was made so, else extracted on demand.

The store beside that of the features never decides what the engine holds. A record may be missing, never stale: it
is deleted before the features of its image change, and written after.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from delf_engine.config import FineConfig, Profile
from delf_engine.errors import FormatError, ImageError, MismatchError, UnknownIdError
from delf_engine.extraction.fine import FINE_DIM, fine_features
from delf_engine.features import LocalFeatures
from delf_engine.images import MAX_PIXELS, Box, ImageSource
from delf_engine.storage import FeatureStore
from delf_engine.storage.codec import Codec, as_stored, decode, encode

#: Folder of the store in an engine's directory.
FINE = "fine"

_CODEC: Codec = "uint8"
_KEPT = 200  # images in memory, 0.6 MB each


class FineSource:
    """Gives fine features of images by their id, the same bits whether they were stored or are extracted now.

    Without a directory there is no store.
    """

    def __init__(self, directory: Path | None, profile: Profile, *, readonly: bool = True) -> None:
        self._config = profile.fine
        self._max_pixels = profile.extraction.max_pixels or MAX_PIXELS
        self._encoded = lru_cache(_KEPT)(partial(_record, self._config, self._max_pixels))
        self.store: FeatureStore | None = None
        if directory is not None and (directory / FINE).is_dir():
            self.store = FeatureStore.open(directory / FINE, readonly=readonly)
            if self.store.model != _identity(self._config):
                found = self.store.model
                self.store.close()
                raise MismatchError(
                    f"{directory / FINE}: holds {found}, the profile's are {_identity(self._config)}"
                )
            if readonly:
                self.store.pin()

    def go_on(self, before: FineSource) -> None:
        """Keep what another has extracted on demand, if it did so with the same options."""
        if (self._config, self._max_pixels) == (before._config, before._max_pixels):
            self._encoded = before._encoded

    def extracted(self, image: ImageSource, box: Box | None = None) -> LocalFeatures | None:
        """Return the fine features of a photograph, as stored; None if it cannot be read."""
        try:
            return _extracted(self._config, self._max_pixels, image, box)
        except ImageError:
            return None

    def get(self, image_id: str, path: str) -> LocalFeatures | None:
        """Return those of an image of the engine; None if they are not stored and its file cannot be read."""
        if self.store is not None:
            with suppress(UnknownIdError, FormatError):  # missing, or damaged, as `check` says
                return self.store.get(image_id)
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        with suppress(ImageError):
            return decode(self._encoded(path, status.st_mtime_ns, status.st_size), b"", image_id)
        return None

    def put(self, items: Iterable[tuple[str, LocalFeatures]]) -> None:
        """Keep fine features of images whose features are stored already."""
        if self.store is not None:
            self.store.put_many(items, replace=True)

    def forget(self, ids: Iterable[str]) -> None:
        """Delete records before the features of their images change."""
        if self.store is not None:
            known = [image_id for image_id in ids if image_id in self.store]
            if known:
                self.store.remove(known)

    def close(self) -> None:
        """Close the store if there is one."""
        if self.store is not None:
            self.store.close()


def _record(config: FineConfig, max_pixels: int, path: str, *_: int) -> bytes:
    """Return the record of a file; a changed one has other numbers."""
    return encode(_extracted(config, max_pixels, path), _CODEC, b"")


def _extracted(config: FineConfig, max_pixels: int, image: ImageSource, box: Box | None = None) -> LocalFeatures:
    return as_stored(fine_features(image, config=config, box=box, max_pixels=max_pixels), _CODEC)


def create_fine_store(directory: Path, profile: Profile) -> None:
    """Make the empty store of fine features in an engine's directory."""
    FeatureStore.create(directory / FINE, dim=FINE_DIM, codec=_CODEC, model=_identity(profile.fine)).close()


def _identity(config: FineConfig) -> str:
    """Name the fine features by what they depend on, as the features are named by their model."""
    values = config.model_dump_json(include={"max_features", "min_image_size", "max_image_size", "contrast"})
    return f"rootsift@{hashlib.sha256(values.encode()).hexdigest()[:16]}"
