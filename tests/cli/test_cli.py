from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from delf_engine import __version__
from delf_engine.cli import app, main
from delf_engine.cli.console import print_json
from delf_engine.errors import DelfEngineError, DelfEngineWarning, FormatError
from delf_engine.extraction import Extractor
from helpers import random_photo, write_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for i in range(4):
        write_image(folder / f"photo [{i}].png", random_photo(rng, 150, 120))  # brackets are markup to rich
    return folder


@pytest.fixture(scope="module")
def engine(model: str, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("engine") / "e")
    assert _run("add", directory, str(photos), "--model", model).exit_code == 0
    return directory


def _run(*args: str) -> Result:
    result = CliRunner().invoke(app, args)
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def _json(*args: str) -> dict:  # type: ignore[type-arg]
    result = _run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_help_of_every_command_and_its_group() -> None:
    text = _run("--help").output
    assert __version__ in _run("--version").output
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {"add", "search", "rerank", "verify", "evaluate", "train", "demo", "model", "data"} < set(commands)
    for name, command in commands.items():
        assert "Usage" in _run(name, "--help").output
        assert command.rich_help_panel in text
        assert text.index(command.rich_help_panel) < text.index(f"│ {name} ")


def test_limit_of_pixels_everywhere(engine: str, model: str, photos: Path, tmp_path: Path) -> None:
    first = photos / "photo [0].png"
    photo = write_image(tmp_path / "other.png", random_photo(np.random.default_rng(9), 150, 120))
    (tmp_path / "lists.csv").write_text(f"query,id,score\n{photo},{first},1\n")
    commands = [
        ("search", engine, str(photo)),
        ("rerank", engine, str(tmp_path / "lists.csv")),
        ("verify", str(photo), str(first), "--model", model),
        ("attention", str(photo), "--plot", str(tmp_path / "a.png"), "--model", model),
        ("add", str(tmp_path / "e"), str(photo)),
    ]
    assert _run("add", str(tmp_path / "e"), str(first), "--model", model).exit_code == 0
    for command in commands:
        refused = _run(*command, "--max-pixels", "17999")
        assert refused.exit_code == 1, command
        assert "17999" in f"{refused.output} {refused.exception}".replace("\n", ""), command
        assert _run(*command, "--max-pixels", "18000").exit_code in (0, 3, 4), command  # an answer of verify
    rows = [f"{photo},{i}.png,{i % 2}\n" for i in range(20)]  # as many as it takes
    (tmp_path / "pairs.csv").write_text("a,b,label\n" + "".join(rows))
    for command in (
        ("mine", str(photos), "--out", str(tmp_path / "pairs.jsonl"), "--model", model),
        ("calibrate", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "c.json"), "--model", model),
    ):
        refused = _run(*command, "--max-pixels", "17999")
        assert "17999" in refused.output.replace("\n", ""), command
    codebook = ("codebook", str(photos), str(tmp_path / "c.safetensors"), "--words", "4", "--model", model)
    assert _run(*codebook, "--max-pixels", "17999").exit_code == 1
    assert _run(*codebook, "--max-pixels", "18000").exit_code == 0


def test_add_skips_what_is_there_and_reports_failures(model: str, photos: Path, tmp_path: Path) -> None:
    directory = str(tmp_path / "e")
    first = str(photos / "photo [0].png")
    assert _json("add", directory, first, "--model", model)["added"] == [first]
    bad = tmp_path / "bad [1].jpg"
    bad.write_text("no image")
    result = _run("add", directory, first, str(bad))
    assert result.exit_code == 1
    assert "0 added, 1 already there, 1 failed; 1 images" in result.output
    assert f"left out: {bad}: not an image" in result.output
    result = _run("add", directory, str(photos), "--model", model)
    assert "were chosen when it was made" in str(result.exception)
    assert "nothing: no such file" in _run("add", directory, str(tmp_path / "nothing")).output.replace("\n", "")
    (tmp_path / "empty").mkdir()
    assert "no image in this folder" in str(_run("add", directory, str(tmp_path / "empty")).exception)
    message = "no index of kind 'lsh'; choose from asmk, kdtree"
    assert message in str(_run("add", str(tmp_path / "f"), str(photos), "--index", "lsh").exception)


def test_search(engine: str, photos: Path, tmp_path: Path) -> None:
    query = str(photos / "photo [2].png")
    hits = _json("search", engine, query, "--top-k", "2")["hits"]
    assert len(hits) == 2
    assert (hits[0]["id"], hits[0]["rank"]) == (query, 1)
    assert hits[0]["inliers"] > 50
    picture = tmp_path / "out.png"
    result = _run("search", engine, query, "--plot", str(picture))
    assert "photo [2].png" in "".join(result.output.split("\n"))
    assert picture.stat().st_size > 10_000
    boxed = _json("search", engine, query, "--box", "10,10,140,110", "--top-n", "0")["hits"]
    assert boxed[0]["verification"] is None
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{photos / 'photo [0].png'}\r\n\n{query}\n", "utf-8")
    limited = _json("search", engine, query, "--among", str(ids))["hits"]
    assert {hit["id"] for hit in limited} <= {query, str(photos / "photo [0].png")}
    assert query in [hit["id"] for hit in limited]
    limited = _json("search", engine, query, "--among", str(ids), "--exclude", query, "--exclude", "x")["hits"]
    assert query not in [hit["id"] for hit in limited]
    assert _json("search", engine, query, "--min-score", "9e9")["hits"] == []
    ids.write_text("nobody\n")
    assert "no image 'nobody'" in str(_run("search", engine, query, "--among", str(ids)).exception)
    assert "cannot be read" in str(_run("search", engine, query, "--among", str(tmp_path / "no")).exception)
    assert "four numbers" in str(_run("search", engine, query, "--box", "1,2,3").exception)
    assert "no engine here" in str(_run("search", str(tmp_path / "none"), query).exception)


def test_verify_and_attention(model: str, photos: Path, tmp_path: Path) -> None:
    a, b = str(photos / "photo [0].png"), str(photos / "photo [1].png")
    assert _json("verify", a, a, "--model", model)["same"] is True
    flat = str(write_image(tmp_path / "flat.png", np.full((90, 120, 3), 99, np.uint8)))
    for options in ((), ("--no-fine", "--no-turn")):
        other = _run("verify", a, flat, "--model", model, "--json", *options)
        assert (other.exit_code, json.loads(other.stdout)["verdict"]) == (3, "different")
    result = _run("verify", a, b, "--model", model, "--plot", str(tmp_path / "m.png"), "--box-a", "0,0,100,100")
    assert "matches agree on one affine map" in result.output.replace("\n", " ")
    assert (tmp_path / "m.png").stat().st_size > 10_000
    assert _run("attention", a, "--plot", str(tmp_path / "a.png"), "--model", model).exit_code == 0
    assert (tmp_path / "a.png").stat().st_size > 10_000
    dot = str(write_image(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8)))
    assert f"{dot}: 1 x 1 pixels are too few" in str(_run("verify", a, dot, "--model", model).exception)
    assert "must end in .png" in str(
        _run("attention", a, "--plot", str(tmp_path / "a.doc"), "--model", model).exception
    )


def test_rerank_shortlists(engine: str, photos: Path, tmp_path: Path) -> None:
    paths = [str(p) for p in sorted(photos.iterdir())]
    lists = tmp_path / "lists.jsonl"
    lines = [{"query": q, "candidates": [[p, 1.0 - i / 10] for i, p in enumerate(paths)]} for q in paths[2:]]
    lines.append({"query": str(tmp_path / "gone.jpg"), "candidates": [[paths[0], 1.0]]})
    lists.write_text("\n".join(json.dumps(line) for line in lines))
    out = tmp_path / "out.jsonl"
    result = _run("rerank", engine, str(lists), "--out", str(out))
    assert result.exit_code == 1
    assert "2 shortlists re-ranked" in result.output
    assert "gone.jpg: no such file" in result.output
    first = [json.loads(line)["candidates"][0] for line in out.read_text().splitlines()]
    assert [entry["id"] if isinstance(entry, dict) else entry[0] for entry in first] == paths[2:]
    lists.write_text(json.dumps(lines[0]))
    assert _json("rerank", engine, str(lists))["rankings"][paths[2]][0]["id"] == paths[2]


def test_distances_are_asked_for_by_name(engine: str, photos: Path, tmp_path: Path) -> None:
    a, b, c, _ = (str(p) for p in sorted(photos.iterdir()))
    lists = tmp_path / "lists.csv"
    lists.write_text(f"query,id,score\n{a},{b},0.5\n{a},{c},0.75\n")
    page = tmp_path / "page.html"
    for command in (["rerank", engine, str(lists)], ["report", engine, str(lists), "--out", str(page)]):
        assert isinstance(_run(*command).exception, FormatError)
        assert _run(*command, "--distances").exit_code == 0
    found = _json("rerank", engine, str(lists), "--distances")["rankings"][a]
    assert {hit["id"]: hit["score"] for hit in found} == {b: -0.5, c: -0.75}


def test_json_has_no_numbers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"é": [float("nan"), float("inf"), 1.5], "\udcff": None})
    assert capsys.readouterr().out == '{\n "é": [\n  null,\n  null,\n  1.5\n ],\n "\\udcff": null\n}\n'


def test_rerank_row_numbers_in_two_rounds(engine: str, photos: Path, tmp_path: Path) -> None:
    paths = [str(p) for p in sorted(photos.iterdir())]
    np.save(tmp_path / "ranks.npy", np.array([[0, 1, 2, 3], [3, 2, 1, 0]]))
    (tmp_path / "names.txt").write_text("\n".join(paths))
    (tmp_path / "queries.txt").write_text("\n".join([paths[2], paths[0]]))
    given = ["--names", str(tmp_path / "names.txt"), "--queries", str(tmp_path / "queries.txt")]
    journal = tmp_path / "journal"
    options = ["--expand", "--graph", "--top-n", "3", "--checkpoint", str(journal), *given]
    found = _json("rerank", engine, str(tmp_path / "ranks.npy"), *options)["rankings"]
    assert found[paths[2]][0]["id"] == paths[2]
    assert {hit["id"] for hit in found[paths[0]][:3]} == {*paths[1:]}  # the fourth is not verified
    assert journal.is_file()
    out = tmp_path / "out.npz"
    _run("rerank", engine, str(tmp_path / "ranks.npy"), "--out", str(out), *given)
    with np.load(out) as written:
        assert written["ids"].tolist()[0][0] == 2
        assert written["inliers"].shape == (2, 4)
    searched = _json("search", engine, paths[1], "--expand", "--graph", "--top-k", "2")
    assert searched["hits"][0]["id"] == paths[1]


def test_info_and_remove(model: str, photos: Path, tmp_path: Path) -> None:
    directory = str(tmp_path / "e")
    _run("add", directory, str(photos), "--model", model, "--index", "kdtree")
    info = _json("info", directory)
    assert (info["images"], info["index"]["kind"], info["dim"]) == (4, "kdtree", 40)
    assert "images             4" in _run("info", directory).output
    name = str(photos / "photo [3].png")
    assert _json("remove", directory, name) == {"removed": [name], "images": 3}
    assert "no image" in str(_run("remove", directory, name).exception)


def test_replace_compact_and_check(model: str, photos: Path, tmp_path: Path) -> None:
    directory = str(tmp_path / "e")
    names = sorted(str(path) for path in photos.iterdir())
    _run("add", directory, *names[:2], "--model", model)
    assert "2 added, 2 replaced, 0 already there, 0 failed; 4 images" in _run(
        "add", directory, *names, "--replace"
    ).output.replace("\n", " ")
    assert _json("add", directory, names[1], "--replace")["replaced"] == names[1:2]
    _run("remove", directory, names[0])
    done = _json("compact", directory)
    assert done["before"]["segments"] + done["before"]["removed"] > 1
    assert (done["after"]["segments"], done["after"]["removed"], done["after"]["images"]) == (1, 0, 3)
    assert "segments           1 -> 1\nremoved            0 -> 0\n" in _run("compact", directory).output
    whole = _run("check", directory)
    assert (whole.exit_code, "0 damaged" in whole.output) == (0, True)
    (file,) = Path(directory).glob("index/segment-*/id_text.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    damaged = _run("check", directory)
    assert damaged.exit_code == 1
    assert str(file) in damaged.output
    assert json.loads(_run("check", directory, "--json").output)["damaged_files"][0]["path"] == str(file)
    with pytest.warns(DelfEngineWarning, match="id_text.npy"):
        assert _run("check", directory, "--repair").exit_code == 0
    assert _json("info", directory)["index"]["advice"] is None
    assert "advice" not in _run("info", directory).output
    assert _json("search", directory, names[1], "--top-k", "1")["hits"][0]["id"] == names[1]


def test_errors_are_one_line_and_exit_code_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "delf_engine", "info", str(tmp_path / "\x1b[31mno [engine]")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert r"\x1b[31mno [engine]" in run.stderr  # names are no commands to the terminal
    assert "Traceback" not in run.stderr
    for wrong in (["search"], ["add", str(tmp_path / "e"), ""], ["info", "e", "--root="]):
        usage = subprocess.run([*command[:3], *wrong], capture_output=True, text=True, check=False)
        assert usage.returncode == 2
    with open("/dev/full", "w") as full:
        run = subprocess.run([*command[:3], "model", "list"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (run.returncode, run.stderr.count(b"\n")) == (1, 1)


@pytest.mark.parametrize("name", ["no/x.png", "x.nothing", "x.npy", ""])
def test_what_cannot_be_written_is_said_before_the_work(engine: str, tmp_path: Path, name: str) -> None:
    photo, target = str(tmp_path / "gone.png"), str(tmp_path / name)
    outputs = ["verify", photo, photo, "--plot"], ["verify", photo, photo, "--overlay"], ["search", engine, photo]
    for command in (*outputs[:2], [*outputs[2], "--plot"], ["rerank", engine, f"{photo}.csv", "--out"]):
        assert str(_run(*command, target).exception).startswith(target)


def test_interrupt_says_that_nothing_is_lost(
    model: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Extractor, "extract_many", interrupt)
    monkeypatch.setattr(sys, "argv", ["delf-engine", "add", str(tmp_path / "e"), str(photos), "--model", model])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert "interrupted; what was committed stays" in said
    assert "Traceback" not in said
