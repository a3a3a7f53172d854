"""An engine of a tiny model: the logic does not need a trained one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import delf_engine as de


@pytest.fixture(scope="session")
def engine_of_photos(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, photos: list[str]
) -> Iterator[de.Engine]:
    """An engine of all photographs, which no test changes."""
    with de.Engine.create(tmp_path_factory.mktemp("engine") / "e", model=tiny_model) as engine:
        engine.add(photos)
        yield engine


@pytest.fixture(params=["asmk", "kdtree"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
