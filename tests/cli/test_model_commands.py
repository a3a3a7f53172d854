from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import delf_engine
from delf_engine.cli import app
from delf_engine.errors import CheckpointError, DelfEngineError
from delf_engine.model import DEFAULT_MODEL, checkpoint_names, read_checkpoint_info
from helpers import restate

CODEBOOK = "tiny.codebook.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own with codebook and card, in a folder whose name is markup to rich."""
    folder = tmp_path / "[bold]"
    shutil.copytree(tiny_model.parent, folder)
    (folder / "tiny.md").write_text("# tiny\n")
    return folder / "tiny.safetensors"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(*args: str | Path) -> Result:
    result = CliRunner().invoke(app, ["model", *map(str, args)])
    unexpected = result.exception is not None and not isinstance(result.exception, (SystemExit, DelfEngineError))
    assert not unexpected, result.exception
    return result


def _json(*args: str | Path, code: int = 0) -> Any:
    result = _run(*args, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def _flip(path: Path, at: int = -1000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x01
    path.write_bytes(data)


def test_list(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in _json("list")["models"]}
    assert set(rows) == set(checkpoint_names())
    assert [row["name"] for row in rows.values() if row["default"]] == [DEFAULT_MODEL]
    packaged, info = rows[DEFAULT_MODEL], read_checkpoint_info(DEFAULT_MODEL)
    told = (packaged["architecture"], packaged["dim"], packaged["sha256"])
    assert told == (info.architecture, info.dim, info.sha256)
    assert packaged["size"] == Path(packaged["path"]).stat().st_size
    shutil.copy(model, tmp_path / "mine.safetensors")
    (tmp_path / "broken.safetensors").write_text("nothing")
    monkeypatch.setattr("delf_engine.model.checkpoint.packaged_folder", lambda: tmp_path)
    rows = {row["name"]: row for row in _json("list")["models"]}
    assert rows["mine"]["codebook_size"] is None
    assert "broken.safetensors" in rows["broken"]["error"]
    text = _run("list").output
    assert max(map(len, text.splitlines())) <= 80
    line = {words[0]: words for words in (row.split() for row in text.splitlines()) if words}
    assert line["mine"][1:3] == [rows["mine"]["architecture"], str(rows["mine"]["dim"])]
    assert line["broken"][1] == "unreadable"


def test_info(model: Path) -> None:
    restate(
        model,
        figures={"mAP [bold]": 0.5},
        recipe='{"views": {"size": [288, 288]}, "stages": [{"kind": "pca"}, {"losses": [{"kind": "match"}]}]}',
        attention_threshold=0.25,
    )
    told = read_checkpoint_info(model)
    found = _json("info", model)
    assert found["metadata"]["attention_threshold"] == 0.25
    assert found["metadata"]["recipe"]["views"] == {"size": [288, 288]}
    assert found["metadata"]["mean"] == [0.485, 0.456, 0.406]
    assert found["identity"] == told.identity
    assert found["file_sha256"] == _sha(model)
    assert (found["codebook"]["words"], found["codebook"]["dim"]) == (32, 40)
    assert found["codebook"]["file_sha256"] == _sha(model.with_name(CODEBOOK))
    assert found["card"] == str(model.with_suffix(".md"))
    text = _run("info", model).output
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in ("attention threshold 0.25", "mAP [bold] 0.5", 'recipe: views {"size": [288, 288]}'):
        assert part in words
    assert told.sha256 in text.replace("\n", "").replace(" ", "")


def test_info_of_plain_words_and_without_codebook(model: Path) -> None:
    model.with_name(CODEBOOK).unlink()
    model.with_suffix(".md").unlink()
    found = _json("info", model)
    assert (found["codebook"], found["card"]) == (None, None)
    assert found["metadata"]["recipe"] == "random"
    assert "recipe random" in " ".join(_run("info", model).output.split())


def test_export(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.safetensors"
    result = _run("export", model, "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == model.read_bytes()
    assert out.with_name("mine.codebook.safetensors").read_bytes() == model.with_name(CODEBOOK).read_bytes()
    assert out.with_suffix(".md").read_text() == "# tiny\n"
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "mine.codebook.safetensors",
        "mine.md",
        "mine.safetensors",
    ]
    assert result.output.count("wrote ") == 3
    folder = tmp_path / "folder"
    folder.mkdir()
    assert _run("export", DEFAULT_MODEL, "--out", folder, "--no-codebook").exit_code == 0
    assert (folder / f"{DEFAULT_MODEL}.safetensors").is_file()
    assert not (folder / f"{DEFAULT_MODEL}.codebook.safetensors").exists()


@pytest.mark.parametrize("there", ["mine.safetensors", "mine.codebook.safetensors", "mine.md"])
def test_export_never_overwrites_without_being_asked(model: Path, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    out = tmp_path / "mine.safetensors"
    assert f"{tmp_path / there}: " in str(_run("export", model, "--out", out).exception)
    assert (tmp_path / there).read_text() == "precious"
    assert [p.name for p in tmp_path.glob("mine.*")] == [there]
    assert _run("export", model, "--out", out, "--replace").exit_code == 0
    assert out.read_bytes() == model.read_bytes()


def test_export_leaves_no_codebook_of_another_checkpoint(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    stale = tmp_path / "mine.codebook.safetensors"
    stale.write_text("of another")
    assert str(stale) in str(_run("export", model, "--out", out, "--no-codebook").exception)
    assert stale.exists()
    assert _run("export", model, "--out", out, "--no-codebook", "--replace").exit_code == 0
    assert not stale.exists()


def test_export_refuses(model: Path, tmp_path: Path) -> None:
    def refused(name: Path, out: Path, *more: str) -> str:
        error = _run("export", name, "--out", out, *more).exception
        assert isinstance(error, CheckpointError)
        return str(error)

    whole = model.read_bytes()
    assert str(model.parent) in refused(model, model, "--replace")
    assert "x.bin" in refused(model, tmp_path / "x.bin")
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(model, tmp_path / "file" / "x.safetensors")
    assert model.read_bytes() == whole
    _flip(model)
    assert "hash of the weights" in refused(model, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_verify(model: Path) -> None:
    found = _json("verify", model, DEFAULT_MODEL)
    assert found["ok"]
    assert [c["what"] for c in found["models"][str(model)]][-3:] == ["shapes", "codebook", "global head"]
    assert set(_json("verify", "--all")["models"]) == set(checkpoint_names())
    text = _run("verify", "--all").output
    assert max(map(len, text.splitlines())) <= 80
    assert "FAILED" not in text
    for wrong in ((), (DEFAULT_MODEL, "--all")):
        assert _run("verify", *wrong).exit_code == 2
    assert isinstance(_run("verify", "delf-r19").exception, CheckpointError)


@pytest.mark.parametrize("what", ["weights", "codebook", "other codebook", "dimension", "cut"])
def test_verify_finds_damage(model: Path, what: str) -> None:
    book = model.with_name(CODEBOOK)
    if what == "weights":
        _flip(model)
    elif what == "codebook":
        _flip(book, -10)
    elif what == "other codebook":
        restate(model, codebook_sha256="0" * 64)
    elif what == "dimension":
        from delf_engine.index import Codebook

        Codebook([[1.0, 2.0]]).save(book)
    else:
        model.write_bytes(model.read_bytes()[:5000])
    found = _json("verify", model, DEFAULT_MODEL, code=1)
    assert not found["ok"]
    failed = [c["what"] for c in found["models"][str(model)] if not c["ok"]]
    assert failed == [{"weights": "hash of the weights", "cut": "readable"}.get(what, "codebook")]
    assert all(c["ok"] for c in found["models"][DEFAULT_MODEL])
    result = _run("verify", model)
    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_a_checkpoint_that_names_its_codebook(model: Path) -> None:
    from delf_engine.index import Codebook

    restate(model, codebook_sha256=Codebook.load(model.with_name(CODEBOOK)).hash)
    assert _json("verify", model)["ok"]


def test_the_default_is_the_same_everywhere() -> None:
    functions = (delf_engine.Engine.create, delf_engine.Extractor.from_pretrained, delf_engine.verify)
    for function in functions:
        parameters = inspect.signature(function).parameters
        assert (parameters.get("model") or parameters["name_or_path"]).default == DEFAULT_MODEL
    for command in ("add", "verify", "attention"):
        assert f"[default: {DEFAULT_MODEL}]" in CliRunner().invoke(app, [command, "--help"]).output


@pytest.mark.parametrize("command", [["list"], ["info", DEFAULT_MODEL], ["--help"]])
def test_no_torch_is_loaded(command: list[str]) -> None:
    code = "import sys\nfrom delf_engine.cli import app\ntry:\n app(['model', *sys.argv[1:]])\n"
    code += "finally:\n print('loaded', sorted({'torch', 'torchvision', 'cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded []")
