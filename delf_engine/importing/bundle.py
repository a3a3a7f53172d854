"""TensorFlow checkpoints (tensor bundles), read without TensorFlow.

``PREFIX.index`` is a table of name to ``BundleEntryProto``, ``PREFIX.data-00000-of-00001`` the bytes of all
tensors. The same two files are the variables of a SavedModel. Reference: tensorflow/core/protobuf/
tensor_bundle.proto, trackable_object_graph.proto and tensorflow/core/util/tensor_bundle.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.importing.crc32c import crc32c, mask
from delf_engine.importing.sstable import read_table
from delf_engine.wire import read_fields, read_varint

__all__ = ["TensorBundle", "bundle_prefix"]

_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # of types.proto, what weights can be
_STRING = 7


@dataclass(frozen=True)
class _Entry:
    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    sliced: bool = False


def bundle_prefix(source: str | os.PathLike[str]) -> Path:
    """Return the prefix of a checkpoint's files, given a SavedModel's folder, an index file or itself.

    Raises
    ------
    FormatError
        If there is none.
    """
    path = Path(source)
    candidates = [path / "variables" / "variables", path / "variables", path]
    if path.suffix == ".index":
        candidates.append(path.with_suffix(""))
    for prefix in candidates:
        if Path(f"{prefix}.index").is_file():
            return prefix
    raise FormatError(
        f"{path}: no TensorFlow model here: neither a SavedModel's folder (with variables/variables.index) nor "
        "the prefix of a checkpoint (PREFIX.index)"
    )


class TensorBundle:
    """A checkpoint's tensors by name.

    Parameters
    ----------
    prefix : path
        Of the files, see `bundle_prefix`.

    Raises
    ------
    FormatError
        If the index cannot be read, is damaged, or of a big-endian machine.
    """

    def __init__(self, prefix: str | os.PathLike[str]) -> None:
        self.prefix = Path(prefix)
        self._where = f"{prefix}.index"
        try:
            data = Path(self._where).read_bytes()
        except OSError as error:
            raise FormatError(f"{self._where}: cannot be read: {error.strerror}") from error
        table = read_table(data, self._where)
        header = table.pop(b"", None)
        if header is None:
            raise FormatError(f"{self._where}: a table, but not of a checkpoint: its header is missing")
        fields = dict(read_fields(header, self._where))
        self._shards = _number(fields.get(1, 0), self._where)
        if fields.get(2, 0) != 0:
            raise FormatError(f"{self._where}: written on a big-endian machine; only little-endian is read")
        self._entries = {
            key.decode("utf-8", "replace"): _entry(value, f"{self._where}: {key!r}")
            for key, value in table.items()
        }

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the index."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """Read one tensor of numbers.

        Raises
        ------
        FormatError
            If it is missing, is partitioned, not of numbers, or its bytes do not have their checksum.
        """
        entry = self._known(name)
        if entry.sliced:
            raise FormatError(f"{self._where}: {name} is stored in partitions; save the model without them")
        if entry.dtype not in _TYPES:
            raise FormatError(
                f"{self._where}: {name} is of TensorFlow type {entry.dtype}, not of floats or integers"
            )
        dtype = np.dtype(_TYPES[entry.dtype])
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise FormatError(f"{self._where}: {name} states shape {entry.shape} and {entry.size} bytes")
        data = self._read(name, entry)
        if mask(crc32c(data)) != entry.crc:
            raise FormatError(f"{self._data_file(entry)}: damaged: the checksum of {name} is wrong")
        return np.frombuffer(data, dtype).reshape(entry.shape)

    def text(self, name: str) -> bytes:
        """Read a tensor of one string of bytes.

        Raises
        ------
        FormatError
            As `tensor`.
        """
        entry = self._known(name)
        if entry.dtype != _STRING or math.prod(entry.shape) != 1:
            raise FormatError(f"{self._where}: {name} is not one string")
        data = self._read(name, entry)
        length, at = read_varint(data, 0, f"{self._where}: {name}")
        # The checksum runs over the length as a number of 4 bytes, its own stored checksum, and the text.
        crc = crc32c(struct.pack("<I", length & 0xFFFFFFFF))
        crc = crc32c(data[at:], crc)
        if length != len(data) - at - 4 or mask(crc) != entry.crc:
            raise FormatError(f"{self._data_file(entry)}: damaged: {name} does not have its length and checksum")
        return data[at + 4 :]

    def _known(self, name: str) -> _Entry:
        if name not in self._entries:
            raise FormatError(f"{self._where}: has no variable {name}")
        return self._entries[name]

    def _data_file(self, entry: _Entry) -> str:
        return f"{self.prefix}.data-{entry.shard:05d}-of-{self._shards:05d}"

    def _read(self, name: str, entry: _Entry) -> bytes:
        path = self._data_file(entry)
        try:
            with open(path, "rb") as file:
                if entry.offset + entry.size > os.fstat(file.fileno()).st_size:
                    raise FormatError(f"{path}: cut off: {name} should end at byte {entry.offset + entry.size}")
                file.seek(entry.offset)
                return file.read(entry.size)
        except OSError as error:
            raise FormatError(f"{path}: cannot be read: {error.strerror}") from error


def _entry(data: bytes, where: str) -> _Entry:
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for field, value in read_fields(data, where):
        if field == 2:
            shape = _shape(value, where)
        elif field == 7:
            sliced = True
        elif field in numbers:
            numbers[field] = _number(value, where)
    return _Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6], sliced)


def _shape(data: int | bytes, where: str) -> tuple[int, ...]:
    """Read ``TensorShapeProto {repeated Dim {int64 size = 1} dim = 2}``."""
    dims = []
    for field, dim in read_fields(_bytes(data, where), where):
        if field == 2:
            sizes = [_number(size, where) for inner, size in read_fields(_bytes(dim, where), where) if inner == 1]
            dims.append(sizes[-1] if sizes else 0)
    return tuple(dims)


def _number(value: int | bytes, where: str) -> int:
    if isinstance(value, bytes) or value >= 1 << 63:
        raise FormatError(f"{where}: damaged: a number is not one, or negative")
    return value


def _bytes(value: int | bytes, where: str) -> bytes:
    if isinstance(value, int):
        raise FormatError(f"{where}: damaged: a message is a number")
    return value
