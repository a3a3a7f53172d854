from __future__ import annotations

from collections.abc import Iterator

import pytest

from datasets.toys import serve_lettered, serve_toy, serve_tree
from delf_engine.datasets import KNOWN, Definition
from file_server import FileServer, serving


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer()) as running:
        yield running


@pytest.fixture
def toy(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setitem(KNOWN, "toy", serve_toy(server))
    return KNOWN["toy"]


@pytest.fixture
def letters(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setitem(KNOWN, "letters", serve_lettered(server))
    return KNOWN["letters"]


@pytest.fixture
def tree(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setitem(KNOWN, "tree", serve_tree(server))
    return KNOWN["tree"]
