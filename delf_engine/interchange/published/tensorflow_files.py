"""TensorFlow checkpoints (tensor bundles) and the graph of objects in them, read without TensorFlow.

``PREFIX.index`` is a table of name to ``BundleEntryProto``, ``PREFIX.data-00000-of-00001`` the bytes of all
tensors. The same files are the variables of a SavedModel. Reference: tensorflow/core/util/tensor_bundle.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import FormatError
from delf_engine.interchange.messages import (
    BundleEntryProto,
    BundleHeaderProto,
    TrackableObjectGraph,
    parse_message,
)
from delf_engine.interchange.published.sstable import crc32c, mask, read_table, read_varint
from delf_engine.support.files import system_errors

__all__ = ["OBJECT_GRAPH", "ObjectGraph", "TensorBundle", "bundle_prefix"]

#: Name of the tensor that holds the graph of objects.
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # of types.proto, what weights can be
_STRING = 7


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


class TensorBundle(Mapping[str, npt.NDArray[Any]]):
    """A checkpoint's tensors by name, each read when it is asked for.

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
        with system_errors(f"{self._where}: cannot be read"):
            data = Path(self._where).read_bytes()
        table = read_table(data, self._where)
        if b"" not in table:
            raise FormatError(f"{self._where}: a table, but not of a checkpoint: its header is missing")
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

        Raises
        ------
        FormatError
            If it is missing, is partitioned, not of numbers, or its bytes do not have their checksum.
        """
        entry = self._known(name)
        shape = tuple(dim.size for dim in entry.shape.dim)
        if entry.slices:
            raise FormatError(f"{self._where}: {name} is stored in partitions; save the model without them")
        if entry.dtype not in _TYPES:
            raise FormatError(
                f"{self._where}: {name} is of TensorFlow type {entry.dtype}, not of floats or integers"
            )
        dtype = np.dtype(_TYPES[entry.dtype])
        if min(shape, default=0) < 0 or entry.size != math.prod(shape) * dtype.itemsize:
            raise FormatError(f"{self._where}: {name} states shape {shape} and {entry.size} bytes")
        data = self._read(name, entry)
        if mask(crc32c(data)) != entry.crc32c:
            raise FormatError(f"{self._data_file(entry)}: damaged: the checksum of {name} is wrong")
        return np.frombuffer(data, dtype).reshape(shape)

    def text(self, name: str) -> bytes:
        """Read a tensor of one string of bytes.

        Raises
        ------
        FormatError
            As of numbers.
        """
        entry = self._known(name)
        if entry.dtype != _STRING or entry.shape.dim:
            raise FormatError(f"{self._where}: {name} is not one string")
        data = self._read(name, entry)
        length, at = read_varint(data, 0, f"{self._where}: {name}")
        # The checksum runs over the length as a number of 4 bytes, its own stored checksum, and the text.
        crc = crc32c(struct.pack("<I", length & 0xFFFFFFFF))
        crc = crc32c(data[at:], crc)
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

    Parameters
    ----------
    data : bytes
        The tensor `OBJECT_GRAPH`.
    where : str
        Names it in errors.

    Raises
    ------
    FormatError
        If it is not such a message, or refers to objects that it does not have.
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
            if all(name in children for name in wanted):
                return at
            new = [child for child in children.values() if child not in seen]
            seen.update(new)
            queue += new
        return None

    def child(self, node: int, path: str) -> int | None:
        """Return the object that a path such as ``backbone/conv1`` leads to from `node`, or None."""
        for name in path.split("/"):
            follow = self._children[node].get(name)
            if follow is None:
                return None
            node = follow
        return node

    def key(self, node: int, path: str) -> str | None:
        """Return the name under which the variable at a path is stored, or None if there is no such variable."""
        found = self.child(node, path)
        return None if found is None else self._tensors[found].get("VARIABLE_VALUE")
