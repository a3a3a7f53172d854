"""CRC-32C (Castagnoli), the checksum of LevelDB tables and TensorFlow checkpoints."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["crc32c", "mask"]

_POLYNOMIAL = 0x82F63B78  # bits reversed
_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | npt.NDArray[np.uint8], start: int = 0) -> int:
    """Return the CRC-32C of bytes, going on from the CRC `start` of the bytes before them."""
    values = np.frombuffer(data, np.uint8)
    return int(_update(values, _table(), np.uint32(start ^ 0xFFFFFFFF))) ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """Return a CRC as files store it: rotated and shifted, so that a CRC of CRCs stays a good one."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


@cache
def _table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


@njit(cache=True, nogil=True)
def _update(data, table, crc):  # type: ignore[no-untyped-def]
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> np.uint32(8))
    return crc
