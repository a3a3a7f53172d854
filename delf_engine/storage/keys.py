"""Image ids as LMDB keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from delf_engine.errors import ConfigError

__all__ = ["id_bytes", "key_of", "several"]

_LONGEST_KEY = 480  # LMDB's limit is 511 bytes


def several(ids: Iterable[str]) -> Iterable[str]:
    """Return `ids`; a single string, which is iterable too, is refused."""
    if isinstance(ids, str):
        raise ConfigError(f"expected several ids, got the single string {ids!r}; put it into a list")
    return ids


def id_bytes(image_id: str) -> bytes:
    """Return an image id as bytes, or raise `ConfigError` if it is empty or not a string."""
    if not isinstance(image_id, str) or not image_id:
        raise ConfigError(f"an image id must be a non-empty string, got {image_id!r}")
    return image_id.encode("utf-8", "surrogatepass")  # undecodable file names hold lone surrogates


def key_of(name: bytes) -> bytes:
    """Return the LMDB key of an id: itself, or its hash where it is too long for a key."""
    if len(name) <= _LONGEST_KEY:
        return b"\x00" + name
    return b"\x01" + hashlib.blake2b(name, digest_size=32).digest()
