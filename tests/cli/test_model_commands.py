from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import delf_engine
from delf_engine.cli import app
from delf_engine.cli.download import fetched
from delf_engine.errors import CheckpointError, DelfEngineError
from delf_engine.model import DEFAULT_MODEL, checkpoint_names, read_checkpoint_info, update_checkpoint_info
from delf_engine.model.hub import cache_folder
from file_server import FileServer, serving
from helpers import random_photo, write_image, write_tiny_model

CODEBOOK = "tiny.codebook.safetensors"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own with codebook and card, in a folder whose name is markup to rich."""
    folder = tmp_path / "[bold]"
    shutil.copytree(source.parent, folder)
    (folder / "tiny.md").write_text("# tiny\n")
    return folder / "tiny.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DELF_ENGINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DELF_ENGINE_MODELS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "home"


@pytest.fixture
def remote(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server with the checkpoint, known as ``far``."""
    files = {path.name: path.read_bytes() for path in source.parent.iterdir()}
    with serving(FileServer(files)) as server:
        (tmp_path / "models.toml").write_text(
            f'[far]\nurl = "{server.url("tiny.safetensors")}"\nsha256 = "{_sha(source)}"\n'
            f"size = {source.stat().st_size}\n"
            f'note = "of the [tests]"\ncodebook_sha256 = "{_sha(source.with_name(CODEBOOK))}"\n'
        )
        monkeypatch.setenv("DELF_ENGINE_MODELS", str(tmp_path / "models.toml"))
        yield server


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


def test_help_names_the_places() -> None:
    text = " ".join(_run("--help").output.split())
    for word in ("DELF_ENGINE_HOME", "DELF_ENGINE_MODELS", "~/.cache/delf-engine/checkpoints", "#sha256=HEX"):
        assert word in text
    for command in ("list", "info", "fetch", "export", "verify"):
        assert "Usage" in _run(command, "--help").output


def test_list(remote: FileServer, source: Path, model: Path) -> None:
    rows = {row["name"]: row for row in _json("list")["models"]}
    assert set(rows) == {*checkpoint_names(), "far"}
    assert [row["name"] for row in rows.values() if row["default"]] == [DEFAULT_MODEL]
    packaged = rows[DEFAULT_MODEL]
    info = read_checkpoint_info(DEFAULT_MODEL)
    assert (packaged["origin"], packaged["architecture"], packaged["dim"]) == (
        "packaged",
        info.architecture,
        info.dim,
    )
    assert packaged["sha256"] == info.sha256
    assert packaged["size"] == Path(packaged["path"]).stat().st_size
    far = rows["far"]
    assert (far["origin"], far["ready"], far["size"], far["sha256"]) == ("url", False, source.stat().st_size, None)
    cache_folder().mkdir(parents=True)
    shutil.copy(model, cache_folder() / "mine.safetensors")
    (cache_folder() / "broken.safetensors").write_text("nothing")
    rows = {row["name"]: row for row in _json("list")["models"]}
    assert (rows["mine"]["origin"], rows["mine"]["codebook_size"]) == ("cache", None)
    assert "not a readable safetensors file" in rows["broken"]["error"]
    text = _run("list").output
    assert max(map(len, text.splitlines())) <= 80 or str(cache_folder()) in max(text.splitlines(), key=len)
    line = {words[0]: words for words in (row.split() for row in text.splitlines()) if words}
    assert line[DEFAULT_MODEL][1:5] == ["*", "packaged", info.architecture, str(info.dim)]
    assert line["far"][1] == "url"
    assert line["broken"][2] == "unreadable"
    assert remote.requests == []


def test_info(model: Path) -> None:
    update_checkpoint_info(
        model,
        figures={"mAP [bold]": 0.5},
        recipe='{"views": {"size": [288, 288]}, "stages": [{"kind": "pca"}, {"losses": [{"kind": "match"}]}]}',
        ranking="weighted",
    )
    told = read_checkpoint_info(model)
    found = _json("info", model)
    assert found["metadata"]["ranking"] == "weighted"
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
    for part in ("ranking weighted", "mAP [bold] 0.5000", "recipe: views size (288, 288)", "losses (kind match)"):
        assert part in words
    assert told.sha256 in text.replace("\n", "").replace(" ", "")


def test_info_of_plain_words_and_without_codebook(model: Path) -> None:
    model.with_name(CODEBOOK).unlink()
    model.with_suffix(".md").unlink()
    found = _json("info", model)
    assert (found["codebook"], found["card"]) == (None, None)
    assert found["metadata"]["recipe"] == "random"
    assert "codebook none" in " ".join(_run("info", model).output.split())


def test_fetch_then_everything_works_offline(remote: FileServer, source: Path) -> None:
    for command in ("info", "verify"):
        assert "delf-engine model fetch far" in str(_run(command, "far").exception)
    result = _run("fetch", "far")
    assert result.exit_code == 0, result.output
    path = Path(result.stdout.strip())
    assert path.read_bytes() == source.read_bytes()
    remote.files.clear()
    row = {row["name"]: row for row in _json("list")["models"]}["far"]
    assert (row["ready"], row["dim"]) == (True, 40)
    assert "far" in _run("list").output
    assert path.stem not in [row["name"] for row in _json("list")["models"]]
    assert _json("info", "far")["url"] == remote.url("tiny.safetensors")
    assert "note of the [tests]" in " ".join(_run("info", "far").output.split())
    checks = _json("verify", "far")["models"]["far"]
    assert {"hash of the file", "hash of the codebook"} <= {c["what"] for c in checks}
    _flip(path.with_name(f"{path.stem}.codebook.safetensors"), -10)
    checks = _json("verify", "far", code=1)["models"]["far"]
    assert [c["what"] for c in checks if not c["ok"]] == ["hash of the codebook", "codebook"]
    assert len(remote.requests) == 2


def test_commands_that_take_a_model_download_it_first(remote: FileServer, tmp_path: Path) -> None:
    assert fetched("far") == "far"
    assert len(remote.requests) == 2
    assert fetched(DEFAULT_MODEL) == DEFAULT_MODEL
    assert fetched("unknown") == "unknown"  # left to the command
    photo = write_image(tmp_path / "p.png", random_photo(np.random.default_rng(0), 120, 100))
    engine = str(tmp_path / "engine")
    result = CliRunner().invoke(app, ["add", engine, str(photo), "--model", "far"])
    assert result.exit_code == 0, result.output
    with delf_engine.Engine.open(engine, readonly=True) as opened:
        assert opened.manifest.model == "far"  # by name, so that it is found again after the cache was emptied
    unreachable = CliRunner().invoke(
        app, ["verify", str(photo), str(photo), "--model", f"{remote.url('x')}#sha256={'0' * 64}"]
    )
    assert "404" in str(unreachable.exception)


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
def test_export_never_overwrites_without_force(model: Path, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    out = tmp_path / "mine.safetensors"
    assert f"{there}: exists" in str(_run("export", model, "--out", out).exception)
    assert (tmp_path / there).read_text() == "precious"
    assert [p.name for p in tmp_path.glob("mine.*")] == [there]
    assert _run("export", model, "--out", out, "--force").exit_code == 0
    assert out.read_bytes() == model.read_bytes()


def test_export_leaves_no_codebook_of_another_checkpoint(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    stale = tmp_path / "mine.codebook.safetensors"
    stale.write_text("of another")
    assert "exists" in str(_run("export", model, "--out", out, "--no-codebook").exception)
    assert stale.exists()
    assert _run("export", model, "--out", out, "--no-codebook", "--force").exit_code == 0
    assert not stale.exists()


def test_export_refuses(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    assert "is the checkpoint itself" in str(_run("export", model, "--out", model, "--force").exception)
    assert "neither a folder nor" in str(_run("export", model, "--out", tmp_path / "x.bin").exception)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in str(
        _run("export", model, "--out", tmp_path / "file" / "x.safetensors").exception
    )
    assert model.read_bytes() == whole
    _flip(model)
    assert "not copied: hash of the weights" in str(
        _run("export", model, "--out", tmp_path / "x.safetensors").exception
    )
    assert not (tmp_path / "x.safetensors").exists()


def test_export_downloads(remote: FileServer, source: Path, tmp_path: Path) -> None:
    assert _run("export", "far", "--out", tmp_path).exit_code == 0
    assert (tmp_path / "far.safetensors").read_bytes() == source.read_bytes()
    assert (tmp_path / "far.codebook.safetensors").is_file()


def test_verify(model: Path) -> None:
    found = _json("verify", model, DEFAULT_MODEL)
    assert found["ok"]
    assert [c["what"] for c in found["models"][str(model)]][-2:] == ["shapes", "codebook"]
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
        update_checkpoint_info(model, codebook_sha256="0" * 64)
    elif what == "dimension":
        from delf_engine.index import Codebook

        Codebook([[1.0, 2.0]]).save(book)
    else:
        model.write_bytes(model.read_bytes()[:5000])
    cache_folder().mkdir(parents=True)
    for path in (model, book):
        shutil.copy(path, cache_folder() / path.name)
    found = _json("verify", "--all", code=1)
    assert not found["ok"]
    failed = [c["what"] for c in found["models"]["tiny"] if not c["ok"]]
    assert failed == [{"weights": "hash of the weights", "cut": "readable"}.get(what, "codebook")]
    assert all(c["ok"] for c in found["models"][DEFAULT_MODEL])
    result = _run("verify", model)
    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_a_checkpoint_that_names_its_codebook(model: Path) -> None:
    from delf_engine.index import Codebook

    update_checkpoint_info(model, codebook_sha256=Codebook.load(model.with_name(CODEBOOK)).hash)
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
