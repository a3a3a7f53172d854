"""A tiny model of random weights with its codebook: the engine's logic does not need a trained one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from helpers import random_photo, write_image, write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    return [str(write_image(folder / f"{i}.png", random_photo(rng, 150 + i, 120))) for i in range(6)]


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
