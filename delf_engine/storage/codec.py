"""How the features of one image, and its id, become bytes and back.

A value is a header, the keypoints, scales and scores as exact float32, and the descriptors in one of three codecs:

========  =====  =========================================================================================
codec     bytes  Euclidean error of a decoded descriptor against the normalised original
========  =====  =========================================================================================
float32   4 D    none, bit for bit
float16   2 D    at most 2^-10 + 2^-23 sqrt(D)
uint8     D      at most sqrt(D) m / 127, m being the largest magnitude of the descriptor's components
========  =====  =========================================================================================

A global descriptor follows as exact float32.

``uint8`` divides a descriptor by m / 127, rounds, and adds 128. No scale is kept: descriptors have unit length,
so the direction is all there is. Both lossy codecs give back rows of unit length.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError, FormatError
from delf_engine.features import LocalFeatures

Codec = Literal["float32", "float16", "uint8"]
CODECS: tuple[Codec, ...] = get_args(Codec)

_MAGIC = b"DELF"
_VERSION = 1
_HEADER = struct.Struct("<4sBBHIIQQ")  # magic, version, codec, G, n, dim, width, height
_CHECKSUM = struct.Struct("<I4x")  # padded, so that the arrays behind it are aligned
_LONGEST_KEY = 480  # LMDB's limit is 511 bytes
_DTYPES: dict[Codec, str] = {"float32": "<f4", "float16": "<f2", "uint8": "u1"}


def encode(features: LocalFeatures, codec: Codec, key: bytes) -> bytes:
    """Return `features` as one value; its checksum covers `key` too, so values cannot be swapped unnoticed.

    A `FeatureError` if the image size does not fit 64 bits.
    """
    vector = np.empty(0, "<f4") if features.global_descriptor is None else features.global_descriptor
    counts = (len(vector), len(features), features.dim)
    try:
        header = _HEADER.pack(_MAGIC, _VERSION, CODECS.index(codec), *counts, *features.image_size)
    except struct.error as error:
        raise FeatureError(
            f"an image of size {features.image_size} with a global descriptor of {len(vector)} components cannot "
            f"be stored: {error}"
        ) from error
    payload = b"".join(
        (
            features.keypoints.astype("<f4", copy=False).tobytes(),
            features.scales.astype("<f4", copy=False).tobytes(),
            features.scores.astype("<f4", copy=False).tobytes(),
            _encoded(features.descriptors, codec).tobytes(),
            vector.astype("<f4", copy=False).tobytes(),
        )
    )
    return header + _CHECKSUM.pack(_crc(key, header, payload)) + payload


def decode(value: bytes, key: bytes, name: str) -> LocalFeatures:
    """Return the features that `value` holds.

    A `FormatError` if the value is damaged, cut short, not ours, or of another version; the message starts with
    `name`.
    """
    start = _HEADER.size + _CHECKSUM.size
    if len(value) < start or not value.startswith(_MAGIC):
        raise FormatError(f"{name}: the stored value is damaged: it does not start with the header of features")
    _, version, codec_index, length, n, dim, width, height = _HEADER.unpack_from(value)
    if version != _VERSION:
        raise FormatError(f"{name}: the stored value has version {version}, this version reads {_VERSION}")
    if _CHECKSUM.unpack_from(value, _HEADER.size)[0] != _crc(
        key, value[: _HEADER.size], memoryview(value)[start:]
    ):
        raise FormatError(f"{name}: the stored value is damaged: its checksum does not match; add the image again")
    codec = CODECS[codec_index]
    counts = (2 * n, n, n)
    numbers = np.frombuffer(value, "<f4", sum(counts), start)
    keypoints, scales, scores = np.split(numbers, np.cumsum(counts[:-1]))
    stored = np.frombuffer(value, _DTYPES[codec], n * dim, start + numbers.nbytes).reshape(n, dim)
    # Copied: behind 8-bit descriptors it is not aligned.
    vector = np.frombuffer(value, "<f4", length, len(value) - 4 * length).copy() if length else None
    return LocalFeatures(keypoints.reshape(n, 2), scales, scores, _decoded(stored, codec), (width, height), vector)


def as_stored(features: LocalFeatures, codec: Codec) -> LocalFeatures:
    """Return what `decode` gives back of what `encode` writes, to the bit."""
    stored = _decoded(_encoded(features.descriptors, codec), codec)
    return replace(features, descriptors=stored)


def _crc(key: bytes, header: bytes, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(header, zlib.crc32(key)))


def _encoded(descriptors: npt.NDArray[np.float32], codec: Codec) -> npt.NDArray[np.generic]:
    if codec != "uint8":
        return descriptors.astype(_DTYPES[codec], copy=False)
    largest = np.abs(descriptors).max(axis=1, keepdims=True)
    return (np.rint(descriptors * (127 / largest)) + 128).astype(np.uint8)


def _decoded(stored: npt.NDArray[np.generic], codec: Codec) -> npt.NDArray[np.float32]:
    values = stored.astype(np.float32, copy=False)
    if codec == "float32":
        return values
    if codec == "uint8":
        values = values - np.float32(128)
    norms = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
    return (values / norms[:, None]).astype(np.float32)


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
