"""The commands ``data list | get | check``: what they print, ask and return."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from data_sets.toys import IMAGES, serve_toy
from delf_engine.cli import app, main
from delf_engine.datasets import KNOWN, Definition, getting
from delf_engine.errors import DataError, DelfEngineError
from file_server import FileServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(getting, "_RETRIES", 0)  # which wait
    with serving(FileServer()) as running:
        yield running


@pytest.fixture
def toy(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setenv("DELF_ENGINE_DATA", str(tmp_path / "[data]"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(KNOWN, "toy", serve_toy(server))
    return KNOWN["toy"]


def run(*arguments: object, answer: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], input=answer)
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def row(name: str) -> dict[str, Any]:
    rows = json.loads(run("list", "--json").stdout)["datasets"]
    return next(found for found in rows if found["name"] == name)


def test_list(toy: Definition, tmp_path: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    for name in ("roxford5k", "rparis6k", "revisitop1m", "gldv2-index", "gldv2-test", "toy"):
        assert f"{name} " in result.stdout
    assert str(tmp_path / "[data]") in result.stdout
    assert row("toy")["here"] == "no"
    assert row("revisitop1m")["parts"] == [1, 100]
    assert run("get", "toy", "--parts", "2", "2", "--yes").exit_code == 0
    assert (row("toy")["here"], row("toy")["parts_here"]) == ("1 of 2 parts", [2])
    (tmp_path / "[data]" / "rparis6k" / "jpg").mkdir(parents=True)
    assert row("rparis6k")["here"] == "put there by hand"


def test_get_says_what_is_to_come_and_asks(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    refused = run("get", "toy", answer="n\n")
    assert refused.exit_code == 1
    assert server.requests == []
    for text in (toy.title, toy.licence, toy.citation, toy.homepage, "2 of 2 archives"):
        assert text in refused.stderr
    assert not (tmp_path / "[data]").exists()
    done = run("get", "toy", answer="y\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"toy: complete\n{tmp_path / '[data]' / 'toy'}\n")
    assert len(list((tmp_path / "[data]" / "toy" / "jpg").iterdir())) == len(IMAGES)
    assert run("get", "toy").exit_code == 0  # nothing to come, nothing to ask


def test_get_for_machines(toy: Definition, tmp_path: Path) -> None:
    found = json.loads(run("get", "toy", "--yes", "--json", "--root", tmp_path / "other").stdout)
    assert (found["here"], found["folder"]) == ("complete", str(tmp_path / "other" / "toy"))


def test_get_of_what_there_is_not(toy: Definition) -> None:
    assert isinstance(run("get", "toys", "--yes").exception, DataError)
    assert isinstance(run("get", "toy", "--parts", "3", "3").exception, DataError)


def test_an_interrupted_get_is_begun_anew(
    server: FileServer, toy: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_after = [100_000, 700]
    monkeypatch.setattr(sys, "argv", ["delf-engine", "data", "get", "toy", "--yes"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "error: " in told
    assert server.url("toy_1.tgz") in told
    assert run("get", "toy", "--yes").exit_code == 0


def test_ctrl_c_keeps_what_is_finished(
    server: FileServer, toy: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["delf-engine", "data", "get", "toy", "--yes"])
    with monkeypatch.context() as patch:
        patch.setattr(getting, "_unpack", interrupted)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 130
    capsys.readouterr()
    assert run("get", "toy", "--yes").exit_code == 0
    assert server.requests.count("toy_1.tgz") == 1


def test_check(toy: Definition, tmp_path: Path) -> None:
    assert isinstance(run("check", "toy").exception, DataError)
    assert run("get", "toy", "--yes").exit_code == 0
    sound = run("check", "toy")
    assert sound.exit_code == 0, sound.output
    assert "ok    gnd_toy.pkl: SHA-256" in sound.stdout
    for image in IMAGES:
        (tmp_path / "[data]" / "toy" / "jpg" / image).unlink()
    wrong = run("check", "toy")
    assert wrong.exit_code == 1
    assert "WRONG images: 8 of 8" in wrong.stdout
    assert "toy_7.jpg" in wrong.stdout
    told = json.loads(run("check", "toy", "--json").stdout)
    assert (told["name"], told["ok"]) == ("toy", False)
    images = next(one for one in told["checks"] if one["what"] == "images")
    assert images["names"] == sorted(IMAGES)
