"""What a feature store says about itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from delf_engine.storage.codec import Codec

__all__ = ["StoreInfo"]


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes
    ----------
    count : int
        Images.
    bytes : int
        Size of the store's file.
    dim : int
        Descriptor dimension D.
    codec : "float32", "float16" or "uint8"
        How descriptors are kept.
    model : str
        Name and hash of the model that made the features, as given on creation.
    version : int
        Of the format on disk.
    """

    count: int
    bytes: int
    dim: int
    codec: Codec
    model: str
    version: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON."""
        return asdict(self)
