"""A server over an engine of a tiny model, asked without a socket."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import delf_engine as de
from delf_engine.serve import Settings, create_app, decoding
from delf_engine.serve.service import Service
from delf_engine.support.processes import ProcessPool
from helpers import image_bytes, random_photo
from serving import Client


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let servers be ready at once, as warming up takes seconds; but those that start after a call."""
    real = Service._warm
    monkeypatch.setattr(Service, "_warm", lambda self: setattr(self, "ready", True))
    return lambda: monkeypatch.setattr(Service, "_warm", real)


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(1, decoding._begin) as pool:
        yield pool


@pytest.fixture(autouse=True)
def one_decoder(pool: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one process decode for all servers, as a new one for each takes half a second."""
    monkeypatch.setattr(decoding, "ProcessPool", lambda *_: pool)
    monkeypatch.setattr(decoding.Decoders, "close", lambda _: None)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: list[str]) -> Path:
    """An engine of all photographs, which is copied."""
    folder = tmp_path_factory.mktemp("served")
    with de.Engine.create(folder / "e", model=tiny_model, root=Path(photos[0]).parent) as engine:
        engine.add(photos)
    return folder / "e"


@pytest.fixture
def directory(built: Path, tmp_path: Path, photos: list[str]) -> Path:
    """An engine whose ids are ``0.png`` to ``5.png``."""
    shutil.copytree(built, tmp_path / "e")
    with de.Engine.open(tmp_path / "e", root=Path(photos[0]).parent):
        pass
    return tmp_path / "e"


@pytest.fixture
def client(directory: Path) -> Iterator[Client]:
    """Start servers: of options beside the directory."""
    with ExitStack() as stack:

        def start(**options: Any) -> TestClient:
            token = options.pop("bearer", None)
            values = {"directory": directory, "threads": 2, "decoders": 1, **options}
            app = create_app(Settings(**values))
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            client = TestClient(app, "http://localhost", raise_server_exceptions=False, headers=headers)
            return stack.enter_context(client)

        yield start


@pytest.fixture
def photograph() -> bytes:
    """The bytes of a photograph that no engine holds."""
    return image_bytes(random_photo(np.random.default_rng(99), 160, 120))
