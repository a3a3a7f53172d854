"""The command ``mine``: what it writes, prints and refuses. What is mined is tested with `delf_engine.mining`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import DataError, FormatError
from delf_engine.training.sources.mined import read_pairs
from helpers import planes_decide, random_photo, write_image, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_tiny_model(tmp_path_factory.mktemp("model"))
    planes_decide().save(path.with_suffix(".calibration.json"))  # random weights see likeness anywhere
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A wall photographed twice, from a step aside, and another wall."""
    rng = np.random.default_rng(0)
    wall = random_photo(rng, 500, 300)
    write_image(tmp_path / "photos" / "a.png", wall[:, :400])
    write_image(tmp_path / "photos" / "b.png", wall[:, 64:464])
    write_image(tmp_path / "photos" / "c.png", random_photo(rng, 400, 300))
    return tmp_path / "photos"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["mine", *map(str, arguments)])


def test_mine_writes_pairs_and_says_what_it_found(folder: Path, model: str) -> None:
    out, kept = folder.parent / "pairs.jsonl", folder.parent / "kept"
    result = run(folder, "--out", out, "--model", model, "--engine", kept, "--workers", 1)
    assert result.exit_code == 0, result.output
    assert "3 photographs, 3 pairs verified\n3 of them have matches enough, 1 of these show" in result.output
    assert "\n1 pairs, 0 of them through a third photograph\n0 pairs of different places" in result.output
    assert "1 connected groups, photographs in each: 2\n1 photographs without a partner\n" in result.output
    assert "too few to train on: recipe delf_self draws 12 pairs a batch" in result.output
    assert f"wrote {out}" in result.output
    ((pair,), _) = read_pairs(out)
    assert (Path(pair.a), Path(pair.b)) == (folder / "a.png", folder / "b.png")
    np.testing.assert_allclose(pair.homography @ [200, 150, 1], [136, 150, 1], atol=8)
    assert (kept / "engine.json").is_file()

    before = out.read_bytes()
    again = run(folder, "--out", out, "--engine", kept, "--json")
    assert again.exit_code == 0, again.output
    assert out.read_bytes() == before
    values = json.loads(again.stdout)
    assert (values["pairs"], values["groups"], values["few"], values["failed"]) == (1, [2], True, [])
    assert values["alone"] == [str(folder / "c.png")]


def test_unreadable_photographs_are_named_and_the_rest_is_mined(folder: Path, model: str) -> None:
    (folder / "broken.jpg").write_bytes(b"no image")
    out = folder.parent / "pairs.jsonl"
    result = run(folder, "--out", out, "--model", model)
    assert result.exit_code == 1
    assert "broken.jpg" in result.stderr
    assert "1 photographs could not be read" in result.stderr
    assert len(read_pairs(out)[0]) == 1


def test_what_cannot_work_is_said(folder: Path, model: str) -> None:
    out = folder.parent / "pairs.jsonl"
    none = run(folder / "a.png", folder / "c.png", "--out", out, "--model", model)
    assert isinstance(none.exception, DataError)
    assert "no pair among 2 photographs" in str(none.exception)
    one = run(folder / "a.png", "--out", out, "--model", model)
    assert "2 photographs at least" in str(one.exception)
    unwritable = run(folder, "--out", folder.parent / "nowhere" / "pairs.jsonl", "--model", model)
    assert isinstance(unwritable.exception, FormatError)
    assert not out.exists()
    assert run(folder, "--max-pairs", 0).exit_code == 2


def test_help_says_what_to_do_with_the_pairs() -> None:
    text = " ".join(run("--help").output.replace("│", " ").split())
    assert "--recipe delf_self --pairs pairs.jsonl" in text
