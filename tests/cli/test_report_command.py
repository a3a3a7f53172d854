"""Commands that write pages: report on an engine's shortlists, verify with --overlay and --report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import ConfigError, DelfEngineError
from helpers import random_photo, write_image
from plotting.pages import Page


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    return [str(write_image(folder / f"photo [{i}].png", random_photo(rng, 150, 120))) for i in range(4)]


@pytest.fixture(scope="module")
def engine(model: str, photos: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("engine") / "e")
    assert run("add", directory, *photos, "--model", model).exit_code == 0
    return directory


@pytest.fixture
def shortlists(photos: list[str], tmp_path: Path) -> str:
    path = tmp_path / "lists.jsonl"
    lines = [json.dumps({"query": query, "candidates": [[p, 0.5] for p in photos]}) for query in photos[:3]]
    path.write_text("\n".join(lines))
    return str(path)


def run(*args: str) -> Result:
    result = CliRunner().invoke(app, args)
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def test_report(engine: str, shortlists: str, photos: list[str], tmp_path: Path) -> None:
    out = tmp_path / "page [x].html"
    result = run("report", engine, shortlists, "--out", str(out), "--title", "My page", "--lines", "1")
    assert result.exit_code == 0, result.output
    assert f"3 of 3 shortlists shown; wrote {out}" in result.output
    page = Page(out)
    assert "My page" in page.words
    assert "3 shortlists, 12 pairs verified" in page.words
    assert "photo [0].png" in page.words
    assert len(page.images) == 3 * (1 + 4 + 4 + 1)


def test_report_of_some_queries(engine: str, shortlists: str, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    options = ["--queries", "2", "--shown", "1", "--lines", "0", "--top-n", "2", "--json"]
    values = json.loads(run("report", engine, shortlists, "--out", str(out), *options).stdout)
    assert (values["queries"], values["of"], values["in_file"]) == (2, 2, 3)
    assert values["bytes"] == out.stat().st_size
    assert len(Page(out).images) == 2 * 3
    values = json.loads(run("report", engine, shortlists, "--out", str(out), *options, "--all").stdout)
    assert (values["queries"], values["of"]) == (2, 3)
    assert "3 shortlists, 6 pairs verified" in Page(out).words


def test_report_without_photographs(model: str, photos: list[str], tmp_path: Path) -> None:
    copies = [shutil.copy(photo, tmp_path) for photo in photos[:2]]
    directory = str(tmp_path / "e")
    run("add", directory, *copies, "--model", model)
    Path(copies[1]).unlink()
    lists = tmp_path / "lists.jsonl"
    lists.write_text("\n".join(json.dumps({"query": q, "candidates": copies}) for q in (copies[0], "none.jpg")))
    out = tmp_path / "page.html"
    result = run("report", directory, str(lists), "--out", str(out))
    assert result.exit_code == 1  # one query of the file could not be read
    page = Page(out)
    assert "photo [1].pngno such file" in page.words
    assert "1 query not re-ranked" in page.words
    assert "none.jpg" in page.words


def test_verify_writes_overlay_and_page(model: str, photos: list[str], tmp_path: Path) -> None:
    picture, out = tmp_path / "over.png", tmp_path / "pair.html"
    for mode in ("blend", "checkerboard", "colours"):
        options = ["--overlay", str(picture), "--overlay-mode", mode, "--report", str(out)]
        result = run("verify", photos[0], photos[0], "--model", model, *options)
        assert result.exit_code == 0, result.output
        with Image.open(picture) as image:
            assert image.size[0] >= 800
    page = Page(out)
    assert "photo [0].png and photo [0].png" in page.words


def test_wrong_use_is_refused(engine: str, model: str, shortlists: str, photos: list[str], tmp_path: Path) -> None:
    wrong = str(tmp_path / "page.png")
    for args in (
        ("report", engine, shortlists, "--out", wrong),
        ("verify", photos[0], photos[1], "--model", model, "--report", wrong),
    ):
        result = run(*args)
        assert isinstance(result.exception, ConfigError)
        assert wrong in str(result.exception)
    result = run("verify", photos[0], photos[0], "--model", model, "--overlay", wrong, "--overlay-mode", "x")
    assert result.exit_code == 2
    assert not Path(wrong).exists()
    assert run("report", engine, shortlists).exit_code == 2
