"""What the tests of the server share: processes of it, waiting for a job, decoders that die, a bomb."""

from __future__ import annotations

import os
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from delf_engine.serve import decoding
from forkserver import Child

Client = Callable[..., TestClient]
SERVER = """
import sys
from delf_engine.cli import main
sys.stderr = sys.stdout
sys.stdout.reconfigure(line_buffering=True)
main()
"""


@contextmanager
def started(directory: Path, *options: object) -> Iterator[tuple[Child, str]]:
    """Start a server as a process and yield it with its address; wait with `ready`."""
    process = Child(SERVER, "serve", directory, "--port", 0, *options)
    try:
        address = next(line for line in process.stdout if line.startswith("http://"))  # which port is free
        yield process, address.rstrip("/\n")
    finally:
        process.kill()
        process.communicate()


def ready(process: Child, at: str) -> None:
    """Wait until a server has warmed up."""
    until = time.monotonic() + 120
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{at}/readyz").status_code == 200:
                return
        assert time.monotonic() < until
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)


def png(width: int, height: int, pixels: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels, perhaps fewer than it says, with chunks before them."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), *more, (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def ended(client: TestClient | httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """Wait for a job and return it."""
    until = time.monotonic() + 60
    while job["state"] in ("queued", "running"):
        assert time.monotonic() < until, job
        time.sleep(0.05)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    return job


def deadly(source: bytes | str, max_pixels: int) -> Any:
    """Die of what begins with "deadly", as a library with a bug does."""
    data = Path(source).read_bytes() if isinstance(source, str) else source
    if data.startswith(b"deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    return decoding.load_image(data, max_pixels=max_pixels)


def deadly_problem(path: str, max_pixels: int) -> str | None:
    deadly(path, max_pixels)
    return None


def endless_pixels(source: bytes, max_pixels: int) -> Any:
    signal.alarm(1)
    signal.pause()
