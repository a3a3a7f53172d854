"""The process that decodes: reads requests, answers with the pyramids of images, until its input ends.

A message is the length of its head (4 bytes, big-endian), a head in JSON, and as many bytes as the head's `bytes`
says. The first message holds the options; each further one an image, as a path or as the bytes of a file. An
answer holds sizes and the pixels of all levels, or `error`. No pickle, and nothing of the caller's program is
imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from delf_engine.config import ExtractionConfig, parse_config
from delf_engine.errors import ImageError
from delf_engine.extraction.preparation import Prepared, prepare
from delf_engine.pyramid import Level

__all__ = ["main", "pack", "read_message", "unpack", "write_message"]

_LENGTH = struct.Struct(">I")


def write_message(stream: IO[bytes], head: dict[str, Any], parts: Iterable[Any] = ()) -> None:
    """Write one message; `parts` are objects with the buffer protocol."""
    views = [memoryview(part).cast("B") for part in parts]
    text = json.dumps({**head, "bytes": sum(view.nbytes for view in views)}).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for view in views:
        stream.write(view)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], np.ndarray]:
    """Read one message: its head, and its (N,) uint8 bytes.

    Raises
    ------
    EOFError
        If the stream ends.
    """
    head = json.loads(_exactly(stream, _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]))
    return head, np.frombuffer(_exactly(stream, head["bytes"]), np.uint8)


def pack(prepared: Prepared) -> tuple[dict[str, Any], Sequence[np.ndarray]]:
    """Return the head and the parts of a pyramid's message."""
    head = {
        "image_size": prepared.image_size,
        "region_size": prepared.region_size,
        "offset": prepared.offset,
        "levels": [[level.scale, level.width, level.height] for level in prepared.levels],
    }
    return head, [np.ascontiguousarray(level) for level in prepared.pixels]


def unpack(head: dict[str, Any], data: np.ndarray) -> Prepared:
    """Return the pyramid of a message; its pixels are views of `data`."""
    levels = tuple(Level(scale, width, height) for scale, width, height in head["levels"])
    ends = np.cumsum([3 * level.width * level.height for level in levels])
    pixels = tuple(
        data[end - 3 * level.width * level.height : end].reshape(level.height, level.width, 3)
        for level, end in zip(levels, ends, strict=True)
    )
    image_size, region_size, offset = (tuple(head[key]) for key in ("image_size", "region_size", "offset"))
    return Prepared(image_size, region_size, offset, levels, pixels)


def main() -> None:
    """Answer requests on standard input until it ends, or nobody takes the answers."""
    try:
        _serve()
    except (BrokenPipeError, EOFError):
        os._exit(0)


def _give_way() -> None:
    """Run when the network leaves a core idle: it takes most of the time, and waits for its slowest core."""
    os.nice(19)
    with contextlib.suppress(OSError):  # Linux shares out cores by session first, and this process has its own
        Path("/proc/self/autogroup").write_text("19")


def _serve() -> None:
    import cv2
    from PIL import Image

    _give_way()
    cv2.setNumThreads(1)  # there are as many processes as cores to use
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    options, _ = read_message(requests)
    config = parse_config(ExtractionConfig, options["config"], where="options of the decoding process")
    Image.MAX_IMAGE_PIXELS = options["pillow_limit"]
    while True:
        request, data = read_message(requests)
        source = data.tobytes() if request["path"] is None else request["path"]
        try:
            prepared = prepare(source, config, stride=options["stride"], max_pixels=options["max_pixels"])
        except ImageError as error:
            write_message(answers, {"error": error.reason})
        else:
            write_message(answers, *pack(prepared))


def _exactly(stream: IO[bytes], count: int) -> bytearray:
    """Return the next `count` bytes, in memory that may be written to, as torch wants it."""
    buffer = bytearray(count)
    view, done = memoryview(buffer), 0
    while done < count:
        got = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError
        done += got
    return buffer
