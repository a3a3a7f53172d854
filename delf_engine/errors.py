"""One exception type for each kind of failure.

Every message says what was wrong, where, and what to do. All types derive from `DelfEngineError`, so one
`except` catches everything this package raises on purpose; anything else that escapes is a bug.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DelfEngineError",
    "DelfEngineWarning",
    "FeatureError",
    "FormatError",
    "ImageError",
    "LockedError",
    "MismatchError",
    "ProcessDiedError",
    "UnknownIdError",
]


class DelfEngineError(Exception):
    """Base class of every error this package raises on purpose."""


class ImageError(DelfEngineError):
    """An image could not be read: missing, damaged, not an image, or too large.

    Parameters
    ----------
    source : str
        Name of the image: its path, or a description such as ``<bytes>``.
    reason : str
        What is wrong with it.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class FeatureError(DelfEngineError):
    """Arrays that are not valid local features: wrong shape, NaN, not normalised, wrong dimension."""


class ConfigError(DelfEngineError):
    """A profile or option that does not exist, has the wrong type, or is out of range."""


class CheckpointError(DelfEngineError):
    """A model checkpoint that is missing, damaged, or of an architecture this version does not know."""


class FormatError(DelfEngineError):
    """A file or directory on disk that is damaged, of another format version, or not ours."""


class MismatchError(DelfEngineError):
    """Two things that do not belong together, such as an index and features of different models."""


class LockedError(DelfEngineError):
    """Another process is writing to the same store, index or engine."""


class ProcessDiedError(DelfEngineError):
    """A worker process died of what it was given: a library crashed, or memory ran out."""


class UnknownIdError(DelfEngineError):
    """An image id that the store, index or engine does not hold."""


class DataError(DelfEngineError):
    """A data set that cannot be used: empty folder, too few photographs, wrong ground truth."""


class DelfEngineWarning(UserWarning):
    """Something was left out and the work went on, such as one unreadable image of a batch."""
