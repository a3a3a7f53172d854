"""Replacing images of an engine, and merging its index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.errors import ConfigError, FormatError, LockedError, UnknownIdError
from helpers import random_features, random_photo, write_image


@pytest.fixture
def folder(tmp_path: Path, photos: list[str]) -> list[str]:
    """Photographs of this test's own, which may be edited."""
    (tmp_path / "photos").mkdir()
    return [shutil.copy(photo, tmp_path / "photos") for photo in photos[:4]]


def same_searches(one: de.Engine, other: de.Engine, queries: list[str]) -> None:
    assert one.ids() == one.index.ids() == other.ids() == other.index.ids()
    for query in queries:
        assert one.search(query).hits == other.search(query).hits


@pytest.mark.parametrize("kind", ["asmk", "kdtree"])
def test_photographs_that_were_edited(tmp_path: Path, tiny_model: Path, folder: list[str], kind: str) -> None:
    def create(name: str) -> de.Engine:
        return de.Engine.create(tmp_path / name, model=tiny_model, index=kind)  # type: ignore[arg-type]

    with create("e") as engine:
        engine.add(folder)
        old = engine.get(folder[2])
        for i in (1, 2):
            write_image(Path(folder[i]), random_photo(np.random.default_rng(50 + i), 140, 110))
        assert engine.add(folder).skipped == folder
        assert engine.get(folder[2]) == old
        ticks: list[tuple[int, int]] = []
        report = engine.replace([folder[2], folder[1]], progress=lambda *tick: ticks.append(tick))
        assert (report.replaced, report.added, report.skipped) == ([folder[2], folder[1]], [], [])
        assert str(report) == "0 added, 2 replaced, 0 already there, 0 failed"
        assert report.to_dict()["replaced"] == report.replaced
        assert ticks[-1] == (2, 2)
        assert engine.get(folder[2]) != old
        order = [folder[0], folder[3], folder[2], folder[1]]
        with create("anew") as anew:
            anew.add(order)
            same_searches(engine, anew, folder)
    with de.Engine.open(tmp_path / "e", readonly=True) as engine, de.Engine.open(tmp_path / "anew") as anew:
        same_searches(engine, anew, folder)


def test_an_image_that_cannot_be_read_keeps_its_features(
    tmp_path: Path, tiny_model: Path, folder: list[str]
) -> None:
    with de.Engine.create(tmp_path / "e", model=tiny_model) as engine:
        engine.add(folder)
        kept = engine.get(folder[0])
        Path(folder[0]).write_text("no image")
        report = engine.replace(folder[:2])
        assert report.replaced == folder[1:2]
        assert [name for name, _ in report.failed] == folder[:1]
        assert engine.get(folder[0]) == kept
        assert engine.ids() == engine.index.ids() == [folder[0], *folder[2:], folder[1]]


def test_what_is_not_there_is_not_replaced(tmp_path: Path, tiny_model: Path, folder: list[str]) -> None:
    with de.Engine.create(tmp_path / "e", model=tiny_model) as engine:
        engine.add(folder[:2])
        with pytest.raises(UnknownIdError, match="and 1 more"):
            engine.replace(folder)
        with pytest.raises(ConfigError, match="2 ids"):
            engine.replace([folder[0]], ids=["a", "b"])
        assert engine.ids() == folder[:2]
        assert engine.replace([folder[1]], ids=[folder[0]]).replaced == folder[:1]
        assert engine.get(folder[0]).descriptors.tobytes() == engine.get(folder[1]).descriptors.tobytes()
        report = engine.add([folder[3], folder[0], folder[3]], replace=True)
        assert (report.added, report.replaced, report.skipped) == ([folder[3]], [folder[0]], [folder[3]])
        assert engine.ids() == engine.index.ids() == [folder[1], folder[3], folder[0]]
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        for change in (lambda: engine.replace(folder[0]), engine.compact):
            with pytest.raises(LockedError, match="read-only"):
                change()


@pytest.mark.parametrize("kind", ["asmk", "kdtree"])
def test_compact(tmp_path: Path, tiny_model: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    query = random_features(rng, 20)
    with de.Engine.create(tmp_path / "e", model=tiny_model, index=kind) as engine:  # type: ignore[arg-type]
        for start in range(0, 12, 4):
            engine.add_features([(str(i), random_features(rng, 9)) for i in range(start, start + 4)])
        engine.remove(["1", "6"])
        before = engine.search(query).hits
        assert (engine.info().index["segments"], engine.info().index["removed"]) == (3, 2)
        monkeypatch.setattr("delf_engine.index.contract._REMOVED_IMAGES", 1)
        monkeypatch.setattr("delf_engine.index.contract._REMOVED_SHARE", 0.1)
        assert "compact the index" in str(engine.info())

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.posix_fallocate", full)
            with pytest.raises(FormatError, match="index"):
                engine.compact()
        engine.add_features([("12", random_features(rng, 9))])
        engine.remove("12")
        assert engine.search(query).hits == before
        engine.compact()
        assert (engine.info().index["segments"], engine.info().index["removed"]) == (1, 0)
        assert engine.info().index["advice"] is None
        assert engine.search(query).hits == before
    with de.Engine.open(tmp_path / "e", readonly=True) as engine:
        assert engine.info().index["segments"] == 1
        assert engine.search(query).hits == before
