"""The commands ``data list | get | check``: what they print, ask and return."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from datasets.toys import IMAGES, serve_toy
from delf_engine.cli import app, main
from delf_engine.cli.data import data_app
from delf_engine.datasets import KNOWN, Definition, Transfer, getting
from delf_engine.errors import ConfigError, DataError, DelfEngineError
from file_server import FileServer, serving


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(FileServer()) as running:
        yield running


@pytest.fixture
def toy(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definition:
    monkeypatch.setenv("DELF_ENGINE_DATA", str(tmp_path / "[data]"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(KNOWN, "toy", serve_toy(server))
    monkeypatch.setattr(getting, "Transfer", lambda: Transfer(10.0, 1, 0.0))
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
        assert f" {name} " in result.stdout
    assert f"Root: {tmp_path / '[data]'}" in result.stdout
    assert row("toy")["here"] == "no"
    assert row("revisitop1m")["parts"] == [1, 100]
    assert run("get", "toy", "--parts", "2", "--yes").exit_code == 0
    assert (row("toy")["here"], row("toy")["parts_here"]) == ("1 of 2 parts", [2])
    folder = tmp_path / "[data]" / "rparis6k"
    (folder / "jpg").mkdir(parents=True)
    assert row("rparis6k")["here"] == "put there by hand"
    (folder / "data.json").write_text("{")
    assert row("rparis6k")["here"] == "damaged record"
    assert "cannot be read" in row("rparis6k")["error"]


def test_get_says_what_is_to_come_and_asks(server: FileServer, toy: Definition, tmp_path: Path) -> None:
    refused = run("get", "toy", answer="n\n")
    assert refused.exit_code == 1
    assert server.requests == []
    for text in (
        "toy: Toys, 8 images",
        "Licence: as you like",
        "Please cite: Toy et al. 2020",
        "http://toys.example",
    ):
        assert text in refused.stderr
    assert "To come: about " in refused.stderr
    assert " kB in 2 archives; the images take about " in refused.stderr
    assert not (tmp_path / "[data]").exists()

    done = run("get", "toy", answer="y\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"toy: complete\n{tmp_path / '[data]' / 'toy'}\n")
    assert len(list((tmp_path / "[data]" / "toy" / "jpg").iterdir())) == len(IMAGES)
    again = run("get", "toy")  # nothing to come, nothing to ask
    assert again.exit_code == 0
    assert "All of it is there" in again.stderr


def test_get_for_machines(toy: Definition, tmp_path: Path) -> None:
    found = json.loads(
        run("get", "toy", "--yes", "--json", "--root", tmp_path / "other", "--keep-archives").stdout
    )
    assert (found["here"], found["folder"]) == ("complete", str(tmp_path / "other" / "toy"))
    assert (tmp_path / "other" / "toy" / "archives" / "jpg" / "toy_1.tgz").is_file()


def test_get_of_what_there_is_not(toy: Definition) -> None:
    assert isinstance(run("get", "toys", "--yes").exception, DataError)
    assert isinstance(run("get", "toy", "--parts", "3").exception, ConfigError)


def test_an_interrupted_get_goes_on(
    server: FileServer, toy: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.break_after = [100_000, 700, 0, 0, 0]
    monkeypatch.setattr(sys, "argv", ["delf-engine", "data", "get", "toy", "--yes"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "error: " in told
    assert (
        "700 bytes are kept, the same command goes on from there. To do without the network, put the file" in told
    )
    assert run("get", "toy", "--yes").exit_code == 0


def test_ctrl_c_keeps_what_came(
    toy: Definition, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["delf-engine", "data", "get", "toy", "--yes"])
    with monkeypatch.context() as patch:
        patch.setattr(getting, "unpack", interrupted)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert run("get", "toy", "--yes").exit_code == 0


def test_check(toy: Definition, tmp_path: Path) -> None:
    run("get", "toy", "--yes")
    good = run("check", "toy", "--deep")
    assert good.exit_code == 0
    assert f"toy in {tmp_path / '[data]' / 'toy'}\n" in good.stdout
    assert "ok    images: all 8 are there\n" in good.stdout
    assert "ok    hashes: all of 8 as they were unpacked\n" in good.stdout

    images = tmp_path / "[data]" / "toy" / "jpg"
    for i in range(12):
        (images / f"[b]{i:02}.jpg").write_bytes(b"")
    bad = run("check", "toy")
    assert bad.exit_code == 1
    assert "wrong other files: 12 among the images that do not belong there\n      [b]00.jpg\n" in bad.stdout
    assert "      ... and 2 more; --json lists all\n" in bad.stdout
    told = run("check", "toy", "--json", "--workers", "1")
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert not found["ok"]
    assert {c["what"]: len(c["names"]) for c in found["checks"] if not c["ok"]} == {"other files": 12, "empty": 12}


def test_check_a_folder_by_its_path(toy: Definition, tmp_path: Path) -> None:
    run("get", "toy", "--yes")
    moved = (tmp_path / "[data]" / "toy").rename(tmp_path / "elsewhere")
    assert run("check", moved).exit_code == 0
    assert isinstance(run("check", "toy").exception, DataError)


def test_the_group_can_be_added_to() -> None:
    assert data_app.info.name == "data"
    names = {command.name or getattr(command.callback, "__name__", "") for command in data_app.registered_commands}
    assert {"get", "check", "list"} <= names
