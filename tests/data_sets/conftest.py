from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data_sets.toys import serve_lettered, serve_toy, serve_tree
from delf_engine.datasets import KNOWN, Definition, getting
from file_server import FileServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(getting, "_RETRIES", 0)  # which wait
    with serving(FileServer()) as running:
        yield running


def _known(name: str, serve: Callable[[FileServer], Definition]) -> Any:
    """Make one of the toy sets known."""

    @pytest.fixture(name=name)
    def known(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Definition:
        monkeypatch.setitem(KNOWN, name, serve(server))
        return KNOWN[name]

    return known


toy, letters, tree = _known("toy", serve_toy), _known("letters", serve_lettered), _known("tree", serve_tree)
