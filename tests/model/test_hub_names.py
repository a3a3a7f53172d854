from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import CheckpointError, ConfigError
from delf_engine.model import (
    DEFAULT_MODEL,
    CheckpointInfo,
    checkpoint_names,
    checkpoint_path,
    codebook_path,
    load_checkpoint,
    model_reference,
    read_checkpoint_info,
    save_checkpoint,
    update_checkpoint_info,
)
from delf_engine.model.check import check_checkpoint
from delf_engine.model.hub import RemoteModel, cache_folder, cached_names, fetch, locate, parse_url, registry
from file_server import FileServer, serving
from helpers import checkpoint_info, write_tiny_model

HEX = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, empty; no registry but the package's."""
    monkeypatch.setenv("DELF_ENGINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DELF_ENGINE_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def server(model: Path) -> Iterator[FileServer]:
    files = {path.name: path.read_bytes() for path in (model, model.with_name("tiny.codebook.safetensors"))}
    with serving(FileServer(files)) as running:
        yield running


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_registry(path: Path, monkeypatch: pytest.MonkeyPatch, **models: dict[str, Any]) -> None:
    lines = []
    for name, values in models.items():
        lines += [f'["{name}"]', *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    path.write_text("\n".join(lines))
    monkeypatch.setenv("DELF_ENGINE_MODELS", str(path))


def entry(server: FileServer, model: Path, **more: Any) -> dict[str, Any]:
    return {
        "url": server.url("tiny.safetensors"),
        "sha256": digest(model),
        "codebook_sha256": digest(model.with_name("tiny.codebook.safetensors")),
        **more,
    }


# -------------------------------------------------------------------------------------------------- the order


def test_order_of_the_places(
    model: Path, home: Path, tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(
        tmp_path / "r.toml", monkeypatch, mine=entry(server, model), **{DEFAULT_MODEL: entry(server, model)}
    )
    assert locate("mine").origin == "url"
    assert not locate("mine").ready
    cached = cache_folder() / "mine.safetensors"
    cached.parent.mkdir(parents=True)
    for name in ("mine", DEFAULT_MODEL):
        shutil.copy(model, cached.with_name(f"{name}.safetensors"))
    assert locate("mine").origin == "cache"
    assert checkpoint_path("mine") == cached
    assert locate(DEFAULT_MODEL).origin == "packaged"
    (tmp_path / "folder").mkdir()
    for name in ("mine", DEFAULT_MODEL):
        shutil.copy(model, tmp_path / name)
        assert locate(name).origin == "file"
        assert checkpoint_path(name) == Path(name)
    assert server.requests == []


def test_a_folder_of_that_name_is_not_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert locate(DEFAULT_MODEL).origin == "packaged"
    with pytest.raises(CheckpointError, match=r"no checkpoint '.*': neither a file"):
        checkpoint_path(tmp_path)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path) -> None:
    assert cache_folder() == home / "checkpoints"
    monkeypatch.delenv("DELF_ENGINE_HOME")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "delf-engine" / "checkpoints"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "delf-engine" / "checkpoints"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library" / "Caches" / "delf-engine" / "checkpoints"


def test_codebooks_and_other_files_in_the_cache_are_no_checkpoints(model: Path) -> None:
    cache_folder().mkdir(parents=True)
    for name in ("b.safetensors", "a.safetensors", "a.codebook.safetensors", "c.safetensors.part", "d.md"):
        shutil.copy(model, cache_folder() / name)
    assert cached_names() == ["a", "b"]
    assert codebook_path("a") == cache_folder() / "a.codebook.safetensors"
    assert codebook_path("b") is None
    with pytest.raises(CheckpointError, match=r"no checkpoint 'a\.codebook'"):
        locate("a.codebook")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a\0b", "x" * 5000, "ftp://h/x.safetensors", "https://h"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint_path(name)


def test_the_nearest_name_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_registry(tmp_path / "r.toml", monkeypatch, faraway={"url": "https://h/x", "sha256": HEX})
    with pytest.raises(
        CheckpointError, match=r"delf-r18.*that come with.*faraway \(known by URL\).*mean 'delf-r18'"
    ):
        checkpoint_path("delf-r81")


# --------------------------------------------------------------------------------------------- registry and URL


def test_by_registry_name(
    model: Path, tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_registry(tmp_path / "r.toml", monkeypatch, far=entry(server, model, note="of the tests"))
    seen: list[int] = []
    path = checkpoint_path("far", progress=lambda done, total: seen.append(done))
    assert path.parent == cache_folder()
    assert path.read_bytes() == model.read_bytes()
    assert seen[-1] == model.stat().st_size
    codebook = codebook_path("far")
    assert codebook is not None
    assert digest(codebook) == digest(model.with_name("tiny.codebook.safetensors"))
    assert locate("far").ready
    assert load_checkpoint("far")[1].name == "tiny"
    assert locate(path.stem).origin == "cache"
    assert len(server.requests) == 2
    assert model_reference("far") == "far"


def test_another_version_is_another_file(
    model: Path, tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = entry(server, model)
    write_registry(tmp_path / "r.toml", monkeypatch, far=values)
    first = checkpoint_path("far")
    for change in ({"codebook_sha256": HEX}, {"sha256": HEX}):
        write_registry(tmp_path / "r.toml", monkeypatch, far={**values, **change})
        assert locate("far").path != first
        with pytest.raises(CheckpointError, match=f"expected a file with SHA-256 {HEX}"):
            checkpoint_path("far")
    assert not locate("far").ready


def test_by_url(model: Path, server: FileServer) -> None:
    plain = f"{server.url('tiny.safetensors')}#sha256={digest(model).upper()}"
    assert read_checkpoint_info(plain) == read_checkpoint_info(model)
    assert codebook_path(plain) is None
    both = f"{plain}&codebook_sha256={digest(model.with_name('tiny.codebook.safetensors'))}"
    assert codebook_path(both) is not None
    assert model_reference(both) == both
    assert locate(both).path.stem.startswith("tiny-")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"https://h.example/a/delf-x.safetensors?v=1#sha256={HEX}", "delf-x"),
        (f"HTTP://h.example/download?id=5#sha256={HEX}", "download"),
        (f"https://h.example/..#sha256={HEX}", "checkpoint"),
        (f"https://h.example/#sha256={HEX}", "checkpoint"),
        (f"https://h.example/%2e%2e%2fx#sha256={HEX}", "checkpoint"),
    ],
)
def test_names_of_urls_are_safe_file_names(text: str, name: str) -> None:
    remote = parse_url(text)
    assert remote is not None
    assert remote.name == name
    assert remote.path.parent == cache_folder()
    assert "#" not in remote.url


@pytest.mark.parametrize(
    "fragment",
    ["", "#", "#sha256=12", "#sha=" + HEX, f"#sha256={HEX}&name=x", f"#sha256={HEX}&url=http://x/y", "#" + HEX],
)
def test_urls_without_a_proper_hash(fragment: str) -> None:
    with pytest.raises(CheckpointError, match="is written with the SHA-256 of the file"):
        locate(f"https://h.example/x.safetensors{fragment}")


def test_a_codebook_hash_needs_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="codebook_url is needed"):
        locate(f"https://h.example/x#sha256={HEX}&codebook_sha256={HEX}")
    values = {"url": "https://h/x", "sha256": HEX, "codebook_url": "https://h/y"}
    write_registry(tmp_path / "r.toml", monkeypatch, far=values)
    with pytest.raises(ConfigError, match=r"\[far\]: codebook_url needs codebook_sha256"):
        registry()
    write_registry(tmp_path / "r.toml", monkeypatch, far={**values, "codebook_sha256": HEX})
    assert registry()["far"].codebook_url == "https://h/y"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[far]\nurl = 'https://h/x'", r"\[far\]: sha256: Field required"),
        ("[far]\nurl = 'file:///x'\nsha256 = 'HEX'", r"\[far\]: url: String should match"),
        ("[far]\nurl = 'https://h/x'\nsha256 = 'HEX'\nsise = 3", "nearest known one is 'size'"),
        ("['../far']\nurl = 'https://h/x'\nsha256 = 'HEX'", "must be a table"),
        ("far = 3", "'far' must be a table"),
        ("[far", "cannot be read as TOML"),
    ],
)
def test_bad_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text.replace("HEX", HEX))
    monkeypatch.setenv("DELF_ENGINE_MODELS", str(path))
    with pytest.raises(ConfigError, match=complaint):
        registry()
    assert locate(DEFAULT_MODEL).ready  # a wrong registry does not stand in the way of what is there


def test_a_registry_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELF_ENGINE_MODELS", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        checkpoint_path("far")


def test_own_entries_go_before_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "registry.toml").write_text(f"[a]\nurl = 'https://h/1'\nsha256 = '{HEX}'\n")
    monkeypatch.setattr("delf_engine.model.hub.packaged_folder", lambda: package)
    assert registry()["a"].url == "https://h/1"
    write_registry(tmp_path / "r.toml", monkeypatch, a={"url": "https://h/2", "sha256": HEX})
    assert registry()["a"].url == "https://h/2"


def test_fetch_repairs_what_is_missing(model: Path, server: FileServer) -> None:
    remote = RemoteModel(name="far", codebook_url=server.url("tiny.codebook.safetensors"), **entry(server, model))
    path = fetch(remote)
    codebook = codebook_path(path)
    assert codebook is not None
    codebook.unlink()
    assert not remote.cached
    fetch(remote)
    assert remote.cached
    assert len(server.requests) == 3


def test_reference_of_a_file_is_its_full_path(model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "here.safetensors")
    assert model_reference("here.safetensors") == str(tmp_path / "here.safetensors")
    assert model_reference(DEFAULT_MODEL) == DEFAULT_MODEL


# --------------------------------------------------------------------------------------- metadata and its checks


def rewrite(path: Path, values: dict[str, Any]) -> None:
    """Write other metadata into a checkpoint, byte by byte as a file of another version would have them."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["delf_engine"] = json.dumps(values)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])


def test_format_1_is_read_with_imagenet_values(model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(model, tmp_path / "old.safetensors"))
    now = read_checkpoint_info(path).model_dump()
    later = list(CheckpointInfo.model_fields)[list(CheckpointInfo.model_fields).index("sha256") + 1 :]
    assert "mean" in later
    rewrite(path, {key: value for key, value in now.items() if key not in later} | {"format_version": 1})
    info = load_checkpoint(path)[1]
    assert (info.format_version, info.attention, info.package_version) == (1, "head", None)
    assert info.mean == (0.485, 0.456, 0.406)
    assert info.std == (0.229, 0.224, 0.225)
    assert update_checkpoint_info(path).format_version == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": [0.1, 0.2]},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [float("nan")] * 3},
        {"attention": "other"},
        {"decision_inliers": 0},
        {"surplus": 1},
    ],
)
def test_bad_metadata_is_refused(model: Path, tmp_path: Path, bad: dict[str, Any]) -> None:
    path = Path(shutil.copy(model, tmp_path / "bad.safetensors"))
    rewrite(path, {**read_checkpoint_info(path).model_dump(), **bad})
    with pytest.raises(CheckpointError, match=f"bad.safetensors: damaged metadata: .*{next(iter(bad))}"):
        read_checkpoint_info(path)


def test_update_changes_the_words_and_not_the_weights(model: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(model, tmp_path / "m.safetensors"))
    before = read_checkpoint_info(path)
    changes: dict[str, Any] = {
        "figures": {"mAP": 0.5},
        "decision_inliers": 30,
        "mean": (0.5, 0.5, 0.5),
        "codebook_sha256": HEX,
        "ranking": "weighted",
        "attention_threshold": 1.5,
    }
    after = update_checkpoint_info(path, **changes)
    assert after == before.model_copy(update=changes)
    assert after.package_version
    assert load_checkpoint(path)[1] == after
    whole = path.read_bytes()
    for wrong in ({"sha256": HEX}, {"format_version": 1}, {"figure": {}}, {"dim": 0}):
        with pytest.raises(CheckpointError, match=next(iter(wrong))):
            update_checkpoint_info(path, **wrong)
    assert path.read_bytes() == whole


def test_checks_of_a_good_file(model: Path) -> None:
    info, checks = check_checkpoint(model)
    assert info == read_checkpoint_info(model)
    assert [check.what for check in checks] == ["readable", "hash of the weights", "values", "shapes"]
    assert all(check.ok for check in checks)


def test_checks_find_each_damage(model: Path, tmp_path: Path) -> None:
    def failed(path: Path) -> list[str]:
        return [check.what for check in check_checkpoint(path)[1] if not check.ok]

    damaged = tmp_path / "damaged.safetensors"
    data = bytearray(model.read_bytes())
    data[-1000] ^= 0x01
    damaged.write_bytes(data)
    assert failed(damaged) == ["hash of the weights"]
    damaged.write_bytes(data[:1000])
    assert failed(damaged) == ["readable"]
    shapes = tmp_path / "shapes.safetensors"
    save_checkpoint(shapes, {"x": np.zeros(3)}, checkpoint_info())
    assert failed(shapes) == ["shapes"]
    update_checkpoint_info(shapes, architecture="resnet17")
    assert "unknown trunk 'resnet17'" in check_checkpoint(shapes)[1][-1].found
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model)
    tensors["projection.mean"][3] = np.nan
    nan = tmp_path / "nan.safetensors"
    save_file(tensors, nan, {"delf_engine": read_checkpoint_info(model).model_dump_json()})
    assert failed(nan) == ["hash of the weights", "values"]


def test_packaged_checkpoints_are_sound() -> None:
    assert DEFAULT_MODEL in checkpoint_names()
    for name in checkpoint_names():
        info, checks = check_checkpoint(checkpoint_path(name))
        assert info is not None
        assert info.name == name
        assert [check for check in checks if not check.ok] == []
