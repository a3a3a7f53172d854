"""TensorFlow checkpoints (tensor bundles) and the graph of objects in them, read without TensorFlow.

``PREFIX.index`` is a table of name to ``BundleEntryProto``, ``PREFIX.data-00000-of-00001`` the bytes of all
tensors. The same files are the variables of a SavedModel. Reference: tensorflow/core/util/tensor_bundle.

The table is LevelDB's: blocks, then an index block of (last key, handle of a block), then a footer of 48 bytes:
the handles of the meta-index and the index (offset and size as varints), zeros, and a magic number. A block is
entries with shared key prefixes, the offsets where a key stands in full, their count; behind it one byte for the
compression and a masked CRC-32C of both. Reference: leveldb, doc/table_format.md.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from delf_engine.errors import FormatError
from delf_engine.interchange.messages import (
    BundleEntryProto,
    BundleHeaderProto,
    TrackableObjectGraph,
    parse_message,
)
from delf_engine.support.files import system_errors

#: Name of the tensor that holds the graph of objects.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # of types.proto, what weights can be
_STRING = 7
_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5  # compression, CRC
_POLYNOMIAL = 0x82F63B78  # of CRC-32C (Castagnoli), bits reversed


def bundle_prefix(source: str | os.PathLike[str]) -> Path:
    """Return the prefix of a checkpoint's files, given a SavedModel's folder, an index file or itself.

    A `FormatError` if there is none.
    """
    path = Path(source)
    itself = path.with_suffix("") if path.suffix == ".index" else path
    for prefix in (path / "variables" / "variables", path / "variables", itself):
        if Path(f"{prefix}.index").is_file():
            return prefix
    raise FormatError(
        f"{path}: no TensorFlow model here: neither a SavedModel's folder (with variables/variables.index) nor "
        "the prefix of a checkpoint (PREFIX.index)"
    )


class TensorBundle(Mapping[str, npt.NDArray[Any]]):
    """A checkpoint's tensors by name, each read when it is asked for; `prefix` as of `bundle_prefix`.

    A `FormatError` if the index cannot be read, is damaged, or of a big-endian machine.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix, self._where = prefix, f"{prefix}.index"
        with system_errors(f"{self._where}: cannot be read"):
            data = Path(self._where).read_bytes()
        table = read_table(data, self._where)
        if b"" not in table:
            raise FormatError(f"{self._where}: not of a checkpoint: its header is missing")
        header = parse_message(BundleHeaderProto, table.pop(b""), self._where)
        self._shards = header.num_shards
        if header.endianness != 0:
            raise FormatError(f"{self._where}: written on a big-endian machine; only little-endian is read")
        self._entries = {
            key.decode("utf-8", "replace"): parse_message(BundleEntryProto, value, f"{self._where}: {key!r}")
            for key, value in table.items()
        }

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Read one tensor of numbers.

        A `FormatError` if it is missing, is partitioned, not of numbers, or its bytes do not have their checksum.
        """
        entry = self._known(name)
        shape = tuple(dim.size for dim in entry.shape.dim)
        if entry.slices:
            raise FormatError(f"{self._where}: {name} is stored in partitions; save the model without them")
        if entry.dtype not in _TYPES:
            raise FormatError(f"{self._where}: {name} is of type {entry.dtype}, not of floats or integers")
        dtype = np.dtype(_TYPES[entry.dtype])
        if min(shape, default=0) < 0 or entry.size != math.prod(shape) * dtype.itemsize:
            raise FormatError(f"{self._where}: {name} states shape {shape} and {entry.size} bytes")
        data = self._read(name, entry)
        if mask(crc32c(data)) != entry.crc32c:
            raise FormatError(f"{self._data_file(entry)}: damaged: the checksum of {name} is wrong")
        return np.frombuffer(data, dtype).reshape(shape)

    def text(self, name: str) -> bytes:
        """Read a tensor of one string of bytes; errors as of numbers."""
        entry = self._known(name)
        if entry.dtype != _STRING or entry.shape.dim:
            raise FormatError(f"{self._where}: {name} is not one string")
        data = self._read(name, entry)
        length, at = _varints(data, 0, 1, f"{self._where}: {name}")
        # The checksum runs over the length as a number of 4 bytes, its own stored checksum, and the text.
        crc = crc32c(struct.pack("<I", length & 0xFFFFFFFF) + data[at:])
        if length != len(data) - at - 4 or mask(crc) != entry.crc32c:
            raise FormatError(f"{self._data_file(entry)}: damaged: {name} does not have its length and checksum")
        return data[at + 4 :]

    def _known(self, name: str) -> Any:
        if name not in self._entries:
            raise FormatError(f"{self._where}: has no variable {name}")
        return self._entries[name]

    def _data_file(self, entry: Any) -> str:
        return f"{self.prefix}.data-{entry.shard_id:05d}-of-{self._shards:05d}"

    def _read(self, name: str, entry: Any) -> bytes:
        path = self._data_file(entry)
        with system_errors(f"{path}: cannot be read"), open(path, "rb") as file:
            end = entry.offset + entry.size
            if min(entry.offset, entry.size) < 0 or end > os.fstat(file.fileno()).st_size:
                raise FormatError(f"{path}: cut off: {name} should end at byte {end}")
            file.seek(entry.offset)
            return file.read(entry.size)


class ObjectGraph:
    """Objects of a TensorFlow 2 checkpoint by number: which Python attribute path leads to which stored tensor.

    The names of the tensors alone do not tell (a SavedModel may number them), the graph does; 0 is its root.
    `data` is the tensor `OBJECT_GRAPH`. A `FormatError`, which names `where`, if it is no such message, or refers
    to objects that it does not have.
    """

    def __init__(self, data: bytes, where: str) -> None:
        nodes = parse_message(TrackableObjectGraph, data, where).nodes
        self._children = [{child.local_name: child.node_id for child in node.children} for node in nodes]
        self._tensors = [{tensor.name: tensor.checkpoint_key for tensor in node.attributes} for node in nodes]
        if not all(0 <= child < len(nodes) for children in self._children for child in children.values()):
            raise FormatError(f"{where}: damaged: refers to an object that is not there")

    def find(self, wanted: Collection[str]) -> int | None:
        """Return the object nearest to the root that has all these children; None if there is none."""
        queue, seen = [0] if self._children else [], {0}
        while queue:
            at = queue.pop(0)
            children = self._children[at]
            if children.keys() >= set(wanted):
                return at
            new = [child for child in children.values() if child not in seen]
            seen.update(new)
            queue += new
        return None

    def child(self, node: int, path: str) -> int | None:
        """Return the object that a path such as ``backbone/conv1`` leads to from `node`, or None."""
        at: int | None = node
        for name in path.split("/"):
            at = None if at is None else self._children[at].get(name)
        return at

    def key(self, node: int, path: str) -> str | None:
        """Return the name under which the variable at a path is stored, or None if there is no such variable."""
        found = self.child(node, path)
        return None if found is None else self._tensors[found].get("VARIABLE_VALUE")


# ----------------------------------------------------------------------------------------- tables of LevelDB


def read_table(data: bytes, where: str) -> dict[bytes, bytes]:
    """Read all entries of an uncompressed table, in their order.

    A `FormatError` if it is no table, is damaged, or is compressed.
    """
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise FormatError(f"{where}: not the index of a TensorFlow checkpoint (the magic number is not there)")
    meta_start, meta_size, start, size, _ = _varints(data[-_FOOTER:], 0, 4, where)
    _block(data, meta_start, meta_size, where)  # holds nothing that is needed, but its damage is damage
    entries: dict[bytes, bytes] = {}
    for _, handle in _entries(_block(data, start, size, where), where):
        start, size, _ = _varints(handle, 0, 2, where)
        entries.update(_entries(_block(data, start, size, where), where))
    return entries


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes."""
    return int(_update(np.frombuffer(data, np.uint8), _crc_table(), np.uint32(0xFFFFFFFF))) ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """Return a CRC as files store it: rotated and shifted, so that a CRC of CRCs stays a good one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varints(data: bytes, at: int, count: int, where: str) -> tuple[int, ...]:
    """Read so many numbers of 7 bits a byte, the lowest first; return them and the offset behind the last."""
    numbers = []
    for _ in range(count):
        piece = data[at : at + 10]
        size = next((i for i, byte in enumerate(piece, 1) if byte < 0x80), 0)
        if not size:
            raise FormatError(f"{where}: damaged: no number ends where one begins, at byte {at}")
        numbers.append(sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(piece[:size])))
        at += size
    return (*numbers, at)


def _block(data: bytes, start: int, size: int, where: str) -> bytes:
    end = start + size
    if end + _TRAILER > len(data) - _FOOTER:
        raise FormatError(f"{where}: damaged: a block reaches beyond the end of the file")
    stored = struct.unpack("<I", data[end + 1 : end + _TRAILER])[0]
    if mask(crc32c(data[start : end + 1])) != stored:
        raise FormatError(f"{where}: damaged: the checksum of the block at byte {start} is wrong")
    if data[end] != 0:
        raise FormatError(f"{where}: block at byte {start} is compressed; TensorFlow writes checkpoints without")
    return data[start:end]


def _entries(block: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    restarts = struct.unpack("<I", block[-4:])[0] if len(block) >= 4 else -1
    end = len(block) - 4 * (restarts + 1)
    if restarts < 0 or end < 0:
        raise FormatError(f"{where}: damaged: a block is too short")
    key, at = b"", 0
    while at < end:
        shared, rest, size, at = _varints(block, at, 3, where)
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
