"""LevelDB tables as TensorFlow's checkpoints use them for their index.

A table is blocks, then an index block of (last key, handle of a block), then a footer of 48 bytes: the handles
of the meta-index and the index (offset and size as varints), zeros, and a magic number. A block is entries with
shared key prefixes, the offsets where a key stands in full, their count; behind it one byte for the compression
and a masked CRC-32C of both. Reference: leveldb, doc/table_format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit

from delf_engine.errors import FormatError

__all__ = ["crc32c", "mask", "read_table", "read_varint"]

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5  # compression, CRC
_POLYNOMIAL = 0x82F63B78  # of CRC-32C (Castagnoli), bits reversed


def read_table(data: bytes, where: str) -> dict[bytes, bytes]:
    """Read all entries of an uncompressed table, in their order.

    Raises
    ------
    FormatError
        If it is no table, is damaged, or is compressed.
    """
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise FormatError(f"{where}: not the index of a TensorFlow checkpoint (the magic number is not there)")
    footer = data[-_FOOTER:]
    meta, at = _handle(footer, 0, where)
    index, _ = _handle(footer, at, where)
    _block(data, meta, where)  # holds nothing that is needed, but its damage is damage
    entries: dict[bytes, bytes] = {}
    for _, value in _entries(_block(data, index, where), where):
        handle, _ = _handle(value, 0, where)
        entries.update(_entries(_block(data, handle, where), where))
    return entries


def read_varint(data: bytes, start: int, where: str) -> tuple[int, int]:
    """Read a number of 7 bits a byte, the lowest first; return it and the offset behind it.

    Raises
    ------
    FormatError
        If `data` ends within it, or it has more than 64 bits.
    """
    value = 0
    for shift, byte in enumerate(data[start : start + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, start + shift + 1
    raise FormatError(f"{where}: damaged: no number ends where one begins, at byte {start}")


def crc32c(data: bytes, start: int = 0) -> int:
    """Return the CRC-32C of bytes, going on from the CRC `start` of the bytes before them."""
    values = np.frombuffer(data, np.uint8)
    return int(_update(values, _crc_table(), np.uint32(start ^ 0xFFFFFFFF))) ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """Return a CRC as files store it: rotated and shifted, so that a CRC of CRCs stays a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _handle(data: bytes, at: int, where: str) -> tuple[tuple[int, int], int]:
    offset, at = read_varint(data, at, where)
    size, at = read_varint(data, at, where)
    return (offset, size), at


def _block(data: bytes, handle: tuple[int, int], where: str) -> bytes:
    offset, size = handle
    end = offset + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise FormatError(f"{where}: damaged: a block reaches beyond the end of the file")
    stored = struct.unpack("<I", data[end + 1 : end + _TRAILER])[0]
    if mask(crc32c(data[offset : end + 1])) != stored:
        raise FormatError(f"{where}: damaged: the checksum of the block at byte {offset} is wrong")
    if data[end] != 0:
        raise FormatError(f"{where}: block at byte {offset} is compressed; TensorFlow writes checkpoints without")
    return data[offset:end]


def _entries(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    restarts = struct.unpack("<I", block[-4:])[0] if len(block) >= 4 else -1
    end = len(block) - 4 * (restarts + 1)
    if restarts < 0 or end < 0:
        raise FormatError(f"{where}: damaged: a block is too short")
    key, at = b"", 0
    while at < end:
        shared, at = read_varint(block, at, where)
        rest, at = read_varint(block, at, where)
        size, at = read_varint(block, at, where)
        if shared > len(key) or at + rest + size > end:
            raise FormatError(f"{where}: damaged: an entry reaches beyond its block")
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + size]
        at += rest + size


@cache
def _crc_table() -> npt.NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


@njit(cache=True, nogil=True)
def _update(data, table, crc):  # type: ignore[no-untyped-def]
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> np.uint32(8))
    return crc
