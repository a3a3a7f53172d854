"""The command that makes a page of a benchmark run's JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.cli.benchmark_report import photographs_below
from delf_engine.errors import ConfigError, DataError, DelfEngineError, FormatError, ImageError
from helpers import random_photo, write_image
from plotting.benchmark_results import benchmark_result
from plotting.pages import Page


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "photos", np.random.default_rng(3)
    for name in ("a.jpg", "b [1].png", "deep/c.jpg", "deep/d.JPG", "other/d.jpg"):
        write_image(folder / name, random_photo(rng))
    return folder


@pytest.fixture
def written(tmp_path: Path) -> str:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(benchmark_result(["a", "b [1]", "nowhere"], ["c", "deep/d.JPG", "d"])))
    return str(path)


def run(*args: str) -> Result:
    result = CliRunner().invoke(app, args)
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def test_page_and_markdown(written: str, photographs: Path, tmp_path: Path) -> None:
    out, markdown = tmp_path / "page [x].html", tmp_path / "tables.md"
    options = ["--images", str(photographs), "--markdown", str(markdown), "--queries", "3"]
    result = run("benchmark-report", written, str(out), *options)
    assert result.exit_code == 0, result.output
    assert f"3 of 3 queries shown; wrote {out}" in result.output
    page = Page(out)
    page.check_self_contained()
    assert "nowherenot found in" in page.words
    assert "dstands 2 times in" in page.words
    assert len(page.images) > 4
    assert markdown.read_text(encoding="utf-8").startswith("# RParis6k, revisited protocol\n")
    values = json.loads(run("benchmark-report", written, str(out), "--queries", "0", "--json").stdout)
    assert (values["queries"], values["of"], values["markdown"]) == (0, 3, None)
    assert values["bytes"] == out.stat().st_size


def test_wrong_use_is_refused(written: str, tmp_path: Path) -> None:
    out = str(tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    for args, kind, said in (
        ((written, str(tmp_path / "page.png")), ConfigError, "must end in .html"),
        ((str(tmp_path / "none.json"), out), FormatError, "cannot be read"),
        ((written, out, "--images", str(tmp_path / "none")), DataError, "no such file or folder"),
        ((written, out, "--images", str(tmp_path / "empty")), DataError, "no image in this folder"),
        ((written, out, "--markdown", str(tmp_path / "none" / "x.md")), ConfigError, "no folder"),
    ):
        result = run("benchmark-report", *args)
        assert isinstance(result.exception, kind)
        assert said in str(result.exception)
        assert not Path(out).exists()
    assert run("benchmark-report", written).exit_code == 2


def test_photographs_are_found_by_path_and_by_name(photographs: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "secret.jpg", np.zeros((4, 4, 3), np.uint8))
    find = photographs_below(photographs)
    assert find("a") == find("a.jpg") == str(photographs / "a.jpg")
    assert find("c") == find("deep/c") == find("c.jpg") == str(photographs / "deep" / "c.jpg")
    assert find("deep/d") == str(photographs / "deep" / "d.JPG")
    assert find("d.jpg") == str(photographs / "other" / "d.jpg")
    for unknown, said in (
        ("d", "stands 2 times"),
        ("../secret", "not found"),
        (str(tmp_path / "secret.jpg"), "not found"),
        ("", "not found"),
    ):
        with pytest.raises(ImageError, match=said):
            find(unknown)
