"""The feature store: local features on disk, one value an image."""

from __future__ import annotations

from delf_engine.storage.revision import Changes, Revision
from delf_engine.storage.store import FeatureStore, StoreInfo

__all__ = ["Changes", "FeatureStore", "Revision", "StoreInfo"]
