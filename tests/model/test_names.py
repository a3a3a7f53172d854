from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import CheckpointError
from delf_engine.index import Codebook
from delf_engine.model import (
    DEFAULT_MODEL,
    checkpoint_names,
    checkpoint_path,
    codebook_path,
    model_reference,
    read_checkpoint_info,
    save_checkpoint,
)
from delf_engine.model.check import check_checkpoint, copy_checkpoint
from delf_engine.model.checkpoint import packaged_folder
from helpers import checkpoint_info, raises, write_tiny_model

HEX = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


# ------------------------------------------------------------------------------------------------------- names


def test_a_file_goes_before_a_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / DEFAULT_MODEL).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "folder")
    assert checkpoint_path(DEFAULT_MODEL) == packaged_folder() / f"{DEFAULT_MODEL}.safetensors"  # not the folder
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, DEFAULT_MODEL)
    assert checkpoint_path(DEFAULT_MODEL) == Path(DEFAULT_MODEL)
    assert model_reference(DEFAULT_MODEL) == str(tmp_path / DEFAULT_MODEL)


def test_codebooks_are_no_checkpoints(model: Path, tmp_path: Path) -> None:
    assert not any("codebook" in name for name in checkpoint_names())
    assert codebook_path(DEFAULT_MODEL) == packaged_folder() / f"{DEFAULT_MODEL}.codebook.safetensors"
    assert codebook_path(shutil.copy(model, tmp_path)) is None
    with pytest.raises(CheckpointError, match=f"'{DEFAULT_MODEL}.codebook'"):
        checkpoint_path(f"{DEFAULT_MODEL}.codebook")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a\0b", "x" * 5000])
def test_names_that_are_none(name: str) -> None:
    with raises(CheckpointError, DEFAULT_MODEL):
        checkpoint_path(name)


def test_the_nearest_name_is_offered() -> None:
    with pytest.raises(CheckpointError, match=r"\?$") as raised:
        checkpoint_path("delf-r81")
    assert str(raised.value).endswith("'delf-r18'?")


@pytest.mark.parametrize("url", ["https://h.example/x.safetensors", "HTTP://h/x#sha256=" + HEX, "ftp://h/x"])
def test_addresses_are_refused(url: str) -> None:
    with raises(CheckpointError) as raised:
        checkpoint_path(url)
    assert str(raised.value).startswith(f"{url}: ")


def test_reference_of_a_file_is_its_full_path(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "here.safetensors")
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


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": [0.1, 0.2]},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [float("nan")] * 3},
        {"attention": "other"},
        {"smoothing": 0},
        {"surplus": 1},
    ],
)
def test_bad_metadata_is_refused(model: Path, tmp_path: Path, bad: dict[str, Any]) -> None:
    path = Path(shutil.copy(model, tmp_path / "bad.safetensors"))
    rewrite(path, {**read_checkpoint_info(path).model_dump(), **bad})
    with pytest.raises(CheckpointError, match=f"bad.safetensors.*{next(iter(bad))}"):
        read_checkpoint_info(path)


def test_checks_of_a_good_file(model: Path) -> None:
    checks = check_checkpoint(model, Codebook.load)
    assert [check.what for check in checks] == ["readable", "hash of the weights", "values", "shapes", "codebook"]
    assert all(check.ok for check in checks)
    assert check_checkpoint(model) == checks[:-1]
    with raises(CheckpointError):
        check_checkpoint("nothing")


def test_checks_find_each_damage(model: Path, tmp_path: Path) -> None:
    def failed(path: Path) -> list[str]:
        return [check.what for check in check_checkpoint(path) if not check.ok]

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
    rewrite(shapes, {**read_checkpoint_info(shapes).model_dump(), "architecture": "resnet17"})
    assert "resnet17" in check_checkpoint(shapes)[-1].found
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model)
    tensors["projection.mean"][3] = np.nan
    nan = tmp_path / "nan.safetensors"
    save_file(tensors, nan, {"delf_engine": read_checkpoint_info(model).model_dump_json()})
    assert failed(nan) == ["hash of the weights", "values"]


def test_packaged_checkpoints_are_sound() -> None:
    assert DEFAULT_MODEL in checkpoint_names()
    for name in checkpoint_names():
        assert read_checkpoint_info(name).name == name
        assert [check for check in check_checkpoint(name, Codebook.load) if not check.ok] == []


def test_copies(model: Path, tmp_path: Path) -> None:
    written = copy_checkpoint(model, tmp_path / "a" / "mine.safetensors", read_codebook=Codebook.load)
    assert [path.name for path in written] == ["mine.safetensors", "mine.codebook.safetensors"]
    assert written[0].read_bytes() == model.read_bytes()
    assert copy_checkpoint(DEFAULT_MODEL, tmp_path)[0] == tmp_path / f"{DEFAULT_MODEL}.safetensors"
    with raises(CheckpointError, str(written[0].parent)):
        copy_checkpoint(DEFAULT_MODEL, written[0])
    assert written[0].read_bytes() == model.read_bytes()
