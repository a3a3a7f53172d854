from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from datasets.toys import serve_lettered, serve_toy, serve_tree
from delf_engine.datasets import KNOWN, Definition, getting
from file_server import FileServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(getting, "_RETRIES", 0)  # which wait
    with serving(FileServer()) as running:
        yield running


@pytest.fixture
def known(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Definition]:
    """Make one of the toy sets known."""

    def make(name: str) -> Definition:
        serve = {"toy": serve_toy, "letters": serve_lettered, "tree": serve_tree}[name]
        monkeypatch.setitem(KNOWN, name, serve(server))
        return KNOWN[name]

    return make


@pytest.fixture
def toy(known: Callable[[str], Definition]) -> Definition:
    return known("toy")


@pytest.fixture
def letters(known: Callable[[str], Definition]) -> Definition:
    return known("letters")


@pytest.fixture
def tree(known: Callable[[str], Definition]) -> Definition:
    return known("tree")
