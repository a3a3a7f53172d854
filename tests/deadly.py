"""A decoder that brings its process down, as a library with a bug does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from delf_engine.extraction import decoding


def prepared(source: Any, *options: Any) -> Any:
    """Die of a file whose name begins with "deadly", and note it in that file; else decode."""
    if isinstance(source, str) and Path(source).name.startswith("deadly"):
        with open(source, "a") as file:
            file.write("died\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return decoding._prepared(source, *options)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes decode with `prepared`."""
    monkeypatch.setattr(decoding, "_prepared", prepared)
