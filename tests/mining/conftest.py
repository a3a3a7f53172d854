"""A rendered folder, mined once with the packaged checkpoint, and engines of features that no network made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from delf_engine.demo.scenes import Collection, render_collection
from delf_engine.engine import Engine
from delf_engine.features import LocalFeatures
from delf_engine.mining.folder import mine_folder
from delf_engine.mining.mine import Mined


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return render_collection(tmp_path_factory.mktemp("mining"), views_per_place=3, distractors=2)


@pytest.fixture(scope="session")
def photos(collection: Collection) -> Path:
    """The folder of the collection's photographs."""
    return collection.gallery[0].path.parent


@pytest.fixture(scope="session")
def mined(photos: Path) -> Mined:
    """Pairs of the photographs, in ``pairs.jsonl`` beside their folder."""
    return mine_folder([photos], photos.parent / "pairs.jsonl", engine=photos.parent / "engine", workers=1)


@pytest.fixture
def engine_of(tiny_model: Path, tmp_path: Path) -> Iterator[Callable[[dict[str, LocalFeatures]], Engine]]:
    """Make an engine that holds these features."""
    opened: list[Engine] = []

    def make(features: dict[str, LocalFeatures]) -> Engine:
        engine = Engine.create(tmp_path / f"engine{len(opened)}", model=tiny_model)
        opened.append(engine)
        engine.add_features(features.items())
        return engine

    yield make
    for engine in opened:
        engine.close()
