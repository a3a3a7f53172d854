"""One file is one image, however its path is written and wherever one stands; collections that move."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import delf_engine as de
from delf_engine.cli.app import app
from delf_engine.engine.file_ids import file_id, file_of
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import ConfigError, UnknownIdError
from helpers import raises, random_photo, write_image


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photographs and a folder to go astray in."""
    folder = tmp_path / "place"
    for i in range(3):
        write_image(folder / "photos" / f"{i}.png", random_photo(np.random.default_rng(i), 150, 120))
    (folder / "a").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_file_is_one_image(
    place: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(place)
    outside = write_image(tmp_path / "outside.png", random_photo(np.random.default_rng(9)))
    written = ["photos/0.png", "./photos/0.png", "a/../photos/0.png", str(place / "photos/0.png"), "photos//0.png"]
    written += [str(tmp_path / "link/photos/0.png"), f"../{place.name}/photos/0.png"]
    with de.Engine.create("e", model=tiny_model) as engine:
        report = engine.add(written)
        assert (report.added, report.skipped) == (["photos/0.png"], ["photos/0.png"] * 6)
        assert engine.add(["photos", "a/../../outside.png", outside]).added == [
            "photos/1.png",
            "photos/2.png",
            str(outside),
        ]
        assert engine.add([written[1]], ids=[written[1]]).added == [written[1]]  # the caller's own
        engine.remove([written[1]])
        assert len(engine) == 4
        monkeypatch.chdir(place / "photos")
        assert engine.add(["0.png", Path("1.png")]).skipped == ["photos/0.png", "photos/1.png"]
        assert engine.replace("./1.png").replaced == ["photos/1.png"]
        monkeypatch.chdir(place)
        for name in written:
            assert name in engine
            assert engine.get(name) == engine.get("photos/0.png")
            assert engine.path_of(name) == str(place / "photos/0.png")
            assert engine.search(name, exclude=name).to_dict()["hits"][0]["id"] != "photos/0.png"
            assert [hit.id for hit in engine.search(name, among=name)] == ["photos/0.png"]
            assert engine.verify(name, Path("photos/0.png")).same
        assert "extractor" in vars(engine.state)
        engine.remove(["./photos/0.png", "photos/0.png"])
        with raises(UnknownIdError, "./photos/0.png"):
            engine.remove("./photos/0.png")
        assert engine.ids() == ["photos/2.png", str(outside), "photos/1.png"]


def test_what_leads_over_a_link_is_the_file_that_the_system_opens(place: Path) -> None:
    (place / "a" / "deep").mkdir()
    (place / "to deep").symlink_to(place / "a" / "deep")
    root = str(place)
    assert file_id("to deep/../x.png", root) == "a/x.png"
    assert file_id("to deep/x.png", root) == "to deep/x.png"
    assert file_id("a/./deep/../x.png", root) == "a/x.png"
    assert file_id("./a//x.png", None) == "./a//x.png"
    assert file_id("x.png", "/") == str(place / "x.png")[1:]


@given(st.lists(st.sampled_from(["p", "q", ".", "..", "ü", "\udcff"]), min_size=1, max_size=6))
def test_an_id_leads_back_to_its_file(parts: list[str]) -> None:
    path = "/".join([*parts, "x.png"])
    for root in ("/", os.getcwd(), "/nowhere"):
        found = file_id(path, root)
        assert os.path.normpath(file_of(found, root)) == os.path.abspath(path)
        assert file_id(file_of(found, root), root) == found


def test_a_collection_moves(place: Path, tmp_path: Path, tiny_model: Path) -> None:
    with de.Engine.create("e", model=tiny_model) as engine:
        engine.add("photos")
        ids = engine.ids()
    os.chdir(tmp_path)
    shutil.move(place, tmp_path / "moved")
    moved = tmp_path / "moved"
    with de.Engine.open(moved / "e") as engine:
        assert engine.add(moved / "photos").skipped == ids
        assert engine.path_of(ids[0]) == str(moved / ids[0])
        assert engine.search(ids[1], box=(0, 0, 120, 110), top_k=1)[0].id == ids[1]  # reads the file
    # The photographs move alone: a reader says where they are, a writer keeps it.
    shutil.move(moved / "photos", tmp_path / "elsewhere" / "photos")
    plot = tmp_path / "plot.png"
    search = ["search", "moved/e", ids[0], "--plot", str(plot)]
    assert CliRunner().invoke(app, [*search, "--root", "elsewhere"]).exit_code == 0
    assert plot.stat().st_size > 1000
    assert CliRunner().invoke(app, search).exit_code == 1
    with de.Engine.open(moved / "e", readonly=True, root="elsewhere") as reader:
        with de.Engine.open(moved / "e", root="elsewhere") as engine:
            assert engine.add("elsewhere/photos").skipped == ids
            engine.remove(ids[2])
        assert reader.refresh()
        assert reader.path_of(ids[0]) == str(tmp_path / "elsewhere" / ids[0])
    plot.unlink()
    assert CliRunner().invoke(app, search).exit_code == 0
    assert plot.exists()
    with raises(ConfigError, "gone"):
        de.Engine.open(moved / "e", root="gone")
    de.Engine.open(moved / "e").close()


def test_an_engine_of_the_last_release_keeps_its_ids(place: Path, tiny_model: Path) -> None:
    """Its root is not known until it is given."""
    de.Engine.create("e", model=tiny_model).close()
    manifest = place / "e" / MANIFEST
    values = json.loads(manifest.read_text())
    assert values.pop("root") == ".."
    manifest.write_text(json.dumps(values))
    with de.Engine.open("e") as engine:
        assert engine.add(["./photos/0.png", "photos/1.png"]).added == ["./photos/0.png", "photos/1.png"]
        assert "photos/0.png" not in engine
        assert engine.path_of("./photos/0.png") == "./photos/0.png"
    with de.Engine.open("e", root=".") as engine:
        assert engine.add(["./photos/1.png", "./photos/2.png"]).added == ["photos/2.png"]
        assert engine.ids() == ["./photos/0.png", "photos/1.png", "photos/2.png"]
        assert engine.path_of("./photos/0.png") == f"{place}/./photos/0.png"


def test_a_root_elsewhere(place: Path, tmp_path: Path, tiny_model: Path) -> None:
    with de.Engine.create(tmp_path / "far" / "e", model=tiny_model, root=place / "photos") as engine:
        assert engine.add("photos/1.png").added == ["1.png"]
    (tmp_path / "far").rename(tmp_path / "further")
    with de.Engine.open(tmp_path / "further" / "e", readonly=True) as engine:
        assert engine.path_of("1.png") == str(place / "photos" / "1.png")
    with raises(ConfigError, "0.png"):
        de.Engine.create(tmp_path / "f", model=tiny_model, root=place / "photos" / "0.png")
    assert not (tmp_path / "f").exists()
