"""Writes TensorFlow checkpoints byte by byte, as their documentation has them, without the code under test."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TYPES = {np.dtype("f4"): 1, np.dtype("f8"): 2, np.dtype("i4"): 3, np.dtype("i8"): 9, np.dtype("f2"): 19}
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def oracle_crc(data: bytes) -> int:
    """CRC-32C bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value % 128 + 128])
        value //= 128
    return out + bytes([value])


def field(which: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer: varint or length-delimited."""
    if isinstance(value, int):
        return number(which * 8) + number(value)
    return number(which * 8 + 2) + number(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    """A block of a table: shared prefixes, restart points, their number."""
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += number(shared) + number(len(key) - shared) + number(len(value)) + key[shared:] + value
        last = key
    return (
        out + b"".join(struct.pack("<I", at) for at in restarts or [0]) + struct.pack("<I", len(restarts or [0]))
    )


def table(entries: Mapping[bytes, bytes], *, per_block: int = 7, compression: int = 0) -> bytes:
    """A LevelDB table of several blocks."""
    data, index = b"", []

    def put(content: bytes) -> bytes:
        nonlocal data
        handle = number(len(data)) + number(len(content))
        sealed = content + bytes([compression])
        data += sealed + struct.pack("<I", masked(oracle_crc(sealed)))
        return handle

    items = sorted(entries.items())
    for i in range(0, len(items), per_block):
        part = items[i : i + per_block]
        index.append((part[-1][0], put(block(part))))
    footer = put(block([])) + put(block(index, 1))
    return data + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def header(shards: int = 1, endianness: int = 0) -> bytes:
    big = field(2, endianness) if endianness else b""
    return field(1, shards) + big + field(3, field(1, 1))


def entry(kind: int, shape: tuple[int, ...], offset: int, size: int, crc: int, extra: bytes = b"") -> bytes:
    dims = b"".join(field(2, field(1, n) if n else b"") for n in shape)
    out = field(1, kind) + field(2, dims)
    out += (field(4, offset) if offset else b"") + (field(5, size) if size else b"")
    return out + number(6 * 8 + 5) + struct.pack("<I", crc) + extra


def text_bytes(text: bytes) -> tuple[bytes, int]:
    """A tensor of one string, and its checksum."""
    lengths = struct.pack("<I", len(text))
    check = struct.pack("<I", masked(oracle_crc(lengths)))
    return number(len(text)) + check + text, masked(oracle_crc(lengths + check + text))


def write_bundle(
    prefix: Path, tensors: Mapping[str, npt.NDArray[Any] | bytes], crc: Any = oracle_crc, **options: Any
) -> Path:
    """Write ``prefix.index`` and ``prefix.data-00000-of-00001``; `crc` may be a faster one for large tensors."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    entries = {b"": header()}
    offset = 0
    with open(f"{prefix}.data-00000-of-00001", "wb") as file:
        for name, value in sorted(tensors.items()):
            if isinstance(value, bytes):
                data, check = text_bytes(value)
                entries[name.encode()] = entry(7, (), offset, len(data), check)
            else:
                data = np.ascontiguousarray(value).tobytes()
                kind = TYPES[value.dtype]
                entries[name.encode()] = entry(kind, value.shape, offset, len(data), masked(crc(data)))
            offset += file.write(data)
    Path(f"{prefix}.index").write_bytes(table(entries, **options))
    return prefix


def object_graph(paths: Mapping[str, str | None]) -> bytes:
    """A graph of objects from attribute paths to names of tensors; None: an object without a variable."""
    children: list[dict[str, int]] = [{}]
    keys: dict[int, str] = {}
    for path, key in paths.items():
        at = 0
        for part in path.split("/"):
            if part not in children[at]:
                children[at][part] = len(children)
                children.append({})
            at = children[at][part]
        if key is not None:
            keys[at] = key
    out = b""
    for i, names in enumerate(children):
        body = b"".join(
            field(1, (field(1, child) if child else b"") + field(2, name.encode()))
            for name, child in names.items()
        )
        if i in keys:
            body += field(2, field(1, b"VARIABLE_VALUE") + field(2, b"any/name") + field(3, keys[i].encode()))
        out += field(1, body)
    return out
