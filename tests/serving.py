"""What the tests of the server share: waiting for a job, and decoders that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from delf_engine.serve import decoding

Client = Callable[..., TestClient]


def ended(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
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
