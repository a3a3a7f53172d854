"""A collection in shards, made once, and stores to make one in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import delf_engine as de
from delf_engine.engine.state import load_extractor
from delf_engine.extraction import Extractor
from delf_engine.shards import Plan, extract_part, index_part, place, plan_shards
from delf_engine.shards import ray as on_ray
from delf_engine.shards.place import Place
from delf_engine.shards.plan import read_plan
from faulty_store import FaultyFileSystem
from helpers import random_photo, write_image
from one_process import OneProcess

PART_BYTES = 20_000  # two or three of the photographs


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """What goes wrong, by operation: a list for its next calls. The store is empty before and after."""
    monkeypatch.setattr(place, "WAITS", (0.001,) * 3)
    for kept in (FaultyFileSystem.store, FaultyFileSystem.faults, FaultyFileSystem.asked):
        kept.clear()
    FaultyFileSystem.pseudo_dirs[:] = [""]
    yield FaultyFileSystem.faults
    FaultyFileSystem.store.clear()


@pytest.fixture(params=["folder", "store"])
def address(request: pytest.FixtureRequest, tmp_path: Path, faults: object) -> str:
    """Where shards may lie: a folder, or a store."""
    return str(tmp_path / "place") if request.param == "folder" else "faulty://bucket/place"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in folders with names of all sorts, one of them large, one broken."""
    root, rng = tmp_path_factory.mktemp("shards") / "photographs", np.random.default_rng(3)
    for name in ("a/1.png", "a/b/c d.png", "a/ü/猫.png", "z/1.png", "z/2.png", "z/a::b~%23.jpg"):
        write_image(root / name, random_photo(rng))
    write_image(root / "huge.png", rng.integers(0, 256, (400, 300, 3), np.uint8))
    (root / "z" / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(1000))
    return root


@pytest.fixture(scope="session")
def extractor(made: Path) -> Extractor:
    return load_extractor(read_plan(Place(made)).engine, made)


@pytest.fixture(scope="session")
def made(folder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with all parts of `folder`, extracted and indexed; tests that change it take `copied`."""
    target = tmp_path_factory.mktemp("made") / "place"
    plan = plan_shards(folder, target, model=tiny_model, part_bytes=PART_BYTES)
    assert plan.parts >= 3
    for part in range(plan.parts):
        assert extract_part(target, part).state == "done"
        assert index_part(target, part).state == "done"
    return target


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copied"))


@pytest.fixture(scope="session")
def single(folder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[de.Engine]:
    """The engine that one machine makes of the same photographs."""
    with de.Engine.create(tmp_path_factory.mktemp("single") / "e", model=tiny_model, root=folder) as engine:
        engine.add(folder)
        yield engine


@pytest.fixture
def planned(address: str, folder: Path, tiny_model: Path) -> tuple[str, Plan]:
    """A plan of which nothing has been done."""
    return address, plan_shards(folder, address, model=tiny_model, part_bytes=PART_BYTES)


Finish = Callable[[str, Plan], None]


@pytest.fixture
def finish(extractor: Extractor) -> Finish:
    """Make all parts that are not there."""

    def run(address: str, plan: Plan) -> None:
        for part in range(plan.parts):
            extract_part(address, part, extractor=extractor)
            index_part(address, part)

    return run


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> OneProcess:
    ray = OneProcess()
    monkeypatch.setattr(on_ray, "_ray", lambda: ray)
    return ray


@pytest.fixture
def done(address: str, made: Path) -> str:
    """A place with all parts: a folder, or a store."""
    place = Place(address)
    for path in made.rglob("*"):
        if path.is_file() and place.local is None:
            place.upload(path, path.relative_to(made).as_posix())
    return address if place.local is None else str(shutil.copytree(made, address))
