"""Where re-ranking reads features from: anything that gives features for an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from delf_engine.errors import ConfigError, UnknownIdError
from delf_engine.features import LocalFeatures

__all__ = ["CachingReader", "FeatureSource", "Reader", "reader"]

Reader: TypeAlias = Callable[[str], LocalFeatures | None]

# About 3,000 images of 1000 x 40 floats.
_CACHE_BYTES = 1 << 29


class _Gets(Protocol):
    def get(self, image_id: str, /) -> Any: ...


#: A feature store, a mapping, or a function from id to features. An id it does not have: `UnknownIdError`,
#: `KeyError` or None.
FeatureSource: TypeAlias = Reader | Mapping[str, LocalFeatures] | _Gets


def reader(source: FeatureSource) -> Reader:
    """Return a function from id to features, or to None for an id that `source` does not have.

    Raises
    ------
    ConfigError
        If `source` is nothing that features can be read from, at once; or gives something else, on reading.
    """
    get: Any = source if callable(source) else getattr(source, "get", None)
    if get is None:
        raise ConfigError(
            f"features must be a store, a mapping or a function from id to features, got {type(source).__name__}"
        )

    def read(image_id: str) -> LocalFeatures | None:
        try:
            features = get(image_id)
        except (KeyError, UnknownIdError):
            return None
        if features is not None and not isinstance(features, LocalFeatures):
            raise ConfigError(f"the source of features gave {type(features).__name__} for {image_id!r}")
        return features

    return read


class CachingReader:
    """Reads each id about once: features are kept while a later call will want them, within a budget of memory.

    Parameters
    ----------
    read : Reader
    wanted : iterable of str
        Every id of every call to come.
    """

    def __init__(self, read: Reader, wanted: Iterable[str]) -> None:
        self._read = read
        self._to_come = Counter(wanted)
        self._kept: dict[str, LocalFeatures | None] = {}
        self._kept_bytes = 0

    def __call__(self, image_id: str) -> LocalFeatures | None:
        """Return the features of an image, or None."""
        known = image_id in self._kept
        features = self._kept[image_id] if known else self._read(image_id)
        size = _bytes(features)
        if self._to_come[image_id] > 1 and not known and self._kept_bytes + size <= _CACHE_BYTES:
            self._kept[image_id] = features
            self._kept_bytes += size
        self.release([image_id])
        return features

    def release(self, image_ids: Iterable[str]) -> None:
        """Count one call for each as made, or as one that will not be: nothing is kept for it."""
        for image_id in image_ids:
            self._to_come[image_id] -= 1
            if self._to_come[image_id] <= 0 and image_id in self._kept:
                features = self._kept.pop(image_id)
                self._kept_bytes -= _bytes(features)


def _bytes(features: LocalFeatures | None) -> int:
    return 0 if features is None else 4 * len(features) * (features.dim + 4)
