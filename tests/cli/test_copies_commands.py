"""The commands ``duplicates``, ``overlap``, ``not-copies``; what is found is tested with `delf_engine.copies`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import ConfigError
from helpers import random_photo, write_image


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A photograph, the same file, and a compressed copy: none of them needs a model."""
    photo = random_photo(rng, 200, 150)
    write_image(tmp_path / "photos" / "a.png", photo)
    shutil.copy(tmp_path / "photos" / "a.png", tmp_path / "photos" / "b.png")
    write_image(tmp_path / "photos" / "c.jpg", photo, quality=70)
    return tmp_path / "photos"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_duplicates_prints_draws_and_lists_and_deletes_nothing(folder: Path, tmp_path: Path) -> None:
    page, out = tmp_path / "page.html", tmp_path / "list.txt"
    result = run("duplicates", folder, "--report", page, "--superfluous", out, "--keep", "first")
    assert result.exit_code == 0, result.output
    assert "3 photographs, 1 clusters: 1 exact, 1 copy" in result.output
    assert out.read_text() == f"{folder / 'b.png'}\n{folder / 'c.jpg'}\n"
    assert page.stat().st_size > 1000
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "c.jpg"]


def test_json_holds_failures_and_what_is_dismissed_is_left_out(folder: Path, tmp_path: Path) -> None:
    said = run("not-copies", tmp_path / "not.jsonl", folder / "a.png", folder / "c.jpg")
    assert said.exit_code == 0, said.output
    (folder / "bad.jpg").write_bytes(b"no image")
    result = run("duplicates", folder, "--dismissed", tmp_path / "not.jsonl", "--json")
    assert result.exit_code == 1
    values = json.loads(result.stdout)
    assert [copy["kind"] for copy in values["copies"]] == ["exact"]
    assert [failure["id"] for failure in values["failed"]] == [str(folder / "bad.jpg")]


def test_names_that_a_list_cannot_hold_are_left_out_of_it(folder: Path, tmp_path: Path) -> None:
    for name in (b"x\ny.png", b"z\xff.png"):
        shutil.copy(folder / "a.png", folder / os.fsdecode(name))
    page, out = tmp_path / "page.html", tmp_path / "list.txt"
    result = run("duplicates", folder, "--keep", "first", "--superfluous", out, "--report", page, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["photographs"] == 5
    listed = out.read_bytes().splitlines()
    assert sorted(map(os.path.basename, listed)) == [b"b.png", b"c.jpg", b"z\xff.png"]
    assert "x\\ny.png" in result.stderr  # never without a word


def test_overlap_counts_what_is_in_both(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (folder / "c.jpg").rename(tmp_path / "test" / "c.jpg")
    result = run("overlap", folder, tmp_path / "test")
    assert result.exit_code == 0, result.output
    assert "1 of 1 tested ones are in the others: 1 copy" in result.output


@pytest.mark.parametrize("options", [("--keep", "smallest"), ("--report", "page.txt")])
def test_wrong_options_are_refused_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    monkeypatch.setattr("delf_engine.copies.find_copies", None)  # any use would fail otherwise
    assert isinstance(run("duplicates", folder, *options).exception, ConfigError)
