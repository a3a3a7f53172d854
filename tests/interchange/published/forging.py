"""Files in TensorFlow's format with whatever a test wants; those that TensorFlow wrote are in ``data/``."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.interchange.messages import BundleEntryProto, BundleHeaderProto
from delf_engine.interchange.published.tensorflow_files import crc32c, mask

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
HEADER = BundleHeaderProto(num_shards=1).SerializeToString()
TYPES = {np.dtype("f4"): 1, np.dtype("i8"): 9}


def varint(*values: int) -> bytes:
    out = b""
    for value in values:
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        out += bytes([value])
    return out


def sealed(content: bytes, compression: int = 0) -> bytes:
    """A block with its checksum."""
    content += bytes([compression])
    return content + struct.pack("<I", mask(crc32c(content)))


def write_index(prefix: Path, entries: Mapping[bytes, bytes], *, compression: int = 0) -> None:
    """Write a table of one block, every key in full."""
    end = struct.pack("<II", 0, 1)
    body = b"".join(varint(0, len(key), len(value)) + key + value for key, value in sorted(entries.items()))
    data = sealed(body + end, compression)
    handle = varint(0, len(data) - 5)
    index = sealed(varint(0, 1, len(handle)) + b"\xff" + handle + end)
    handles = varint(len(data) + len(index), len(end)) + varint(len(data), len(index) - 5)
    table = data + index + sealed(end) + handles.ljust(40, b"\0") + MAGIC
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.index").write_bytes(table)


def entry(shape: tuple[int, ...] = (2,), **fields: Any) -> bytes:
    message = BundleEntryProto(**{"dtype": 1, "size": 8, **fields})
    for size in shape:
        message.shape.dim.add(size=size)
    data: bytes = message.SerializeToString()
    return data


def write_bundle(prefix: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a checkpoint of these tensors."""
    entries, data = {b"": HEADER}, bytearray()
    for name, value in tensors.items():
        content = value.tobytes()
        fields = {"dtype": TYPES[value.dtype], "offset": len(data), "size": len(content)}
        entries[name.encode()] = entry(value.shape, crc32c=mask(crc32c(content)), **fields)
        data += content
    write_index(prefix, entries)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
