from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from delf_engine.errors import CheckpointError
from delf_engine.index import Codebook
from delf_engine.model import (
    DEFAULT_MODEL,
    checkpoint_names,
    checkpoint_path,
    codebook_path,
    load_checkpoint,
    model_reference,
    read_checkpoint_info,
    save_checkpoint,
)
from delf_engine.model.check import check_checkpoint
from delf_engine.model.checkpoint import packaged_folder
from delf_engine.model.network import DelfNetwork
from helpers import checkpoint_info, raises, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    """A file of one's own, to be damaged."""
    return Path(shutil.copy(model, tmp_path / "copy.safetensors"))


def rewrite(path: Path, values: dict[str, Any]) -> None:
    """Write other metadata into a checkpoint, byte by byte as a file of another version would have them."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["delf_engine"] = json.dumps(values)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])


def test_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = DelfNetwork("resnet18", 40, hidden=8).eval(), tmp_path / "tiny.safetensors"
    save_checkpoint(path, {k: v.numpy() for k, v in network.state_dict().items()}, checkpoint_info())
    loaded, info = load_checkpoint(path)
    assert (info.name, len(info.sha256), info.identity) == ("tiny", 64, f"tiny@{info.sha256[:16]}")
    assert read_checkpoint_info(path) == info
    x = torch.randn(1, 3, 64, 64)
    for got, expected in zip(loaded(x), network(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)  # half precision on disk


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    for value in (np.nan, 1e6):
        with raises(CheckpointError, "x "):
            save_checkpoint(path, {"x": np.array([value])}, checkpoint_info())
    assert not path.exists()


def test_packaged_checkpoints() -> None:
    assert DEFAULT_MODEL in checkpoint_names()
    assert not any("codebook" in name for name in checkpoint_names())
    for name in checkpoint_names():
        assert read_checkpoint_info(name).name == name
        assert [check for check in check_checkpoint(name, Codebook.load) if not check.ok] == []
    assert checkpoint_path("delf-r18").stat().st_size <= 8 * 2**20
    codebook = codebook_path("delf-r18")
    assert codebook == packaged_folder() / "delf-r18.codebook.safetensors"
    assert codebook.stat().st_size <= 6 * 2**20
    network, info = load_checkpoint("delf-r18")
    assert (info.dim, network.dim, info.architecture) == (40, 40, "resnet18")
    assert info.data
    assert info.recipe


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
    shutil.copy(model, "here.safetensors")
    assert model_reference("here.safetensors") == str(tmp_path / "here.safetensors")
    assert codebook_path("here.safetensors") is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a\0b", "x" * 5000, f"{DEFAULT_MODEL}.codebook", "r19"])
def test_names_that_are_none(name: str) -> None:
    with raises(CheckpointError, DEFAULT_MODEL):
        checkpoint_path(name)
    with raises(CheckpointError, "'delf-r18'?"):
        checkpoint_path("delf-r81")


@pytest.mark.parametrize("url", ["https://h.example/x.safetensors", "HTTP://h/x#sha256=0123", "ftp://h/x"])
def test_addresses_are_refused(url: str) -> None:
    with raises(CheckpointError, f"{url}: ", "not downloaded"):
        checkpoint_path(url)


# --------------------------------------------------------------------------------------- metadata and its checks


@pytest.mark.parametrize(
    "bad",
    [
        {"mean": [0.1, 0.2]},
        {"std": [0.0, 1.0, 1.0]},
        {"mean": [float("nan")] * 3},
        {"attention": "other"},
        {"smoothing": 0},
        {"surplus": 1},
        {"format_version": 99},
    ],
)
def test_bad_metadata_is_refused(copied: Path, bad: dict[str, Any]) -> None:
    rewrite(copied, {**read_checkpoint_info(copied).model_dump(), **bad})
    ((key, value),) = bad.items()
    with raises(CheckpointError, "copy.safetensors", str(value) if key == "format_version" else key):
        read_checkpoint_info(copied)


def test_checks_of_a_good_file(model: Path) -> None:
    checks = check_checkpoint(model, Codebook.load)
    assert [check.what for check in checks] == [
        "readable",
        "hash of the weights",
        "values",
        "shapes",
        "codebook",
        "global head",
    ]
    assert all(check.ok for check in checks)
    with raises(CheckpointError, "'nothing'"):
        check_checkpoint("nothing", Codebook.load)


def test_checks_find_each_damage(copied: Path) -> None:
    def failed() -> list[str]:
        return [check.what for check in check_checkpoint(copied, Codebook.load) if not check.ok]

    tensors, told = load_file(copied), read_checkpoint_info(copied).model_dump_json()
    data = bytearray(copied.read_bytes())
    data[-1000] ^= 0x01
    copied.write_bytes(data)
    assert failed() == ["hash of the weights"]
    with raises(CheckpointError, "copy.safetensors", "SHA-256"):
        load_checkpoint(copied)
    copied.write_bytes(data[:1000])
    assert failed() == ["readable"]
    save_file({"x": np.zeros(3)}, copied)  # not of this package
    assert failed() == ["readable"]
    save_checkpoint(copied, {"x": np.zeros(3)}, checkpoint_info())
    assert failed() == ["shapes"]
    rewrite(copied, {**read_checkpoint_info(copied).model_dump(), "architecture": "resnet17"})
    assert "resnet17" in check_checkpoint(copied, Codebook.load)[-3].found
    tensors["projection.mean"][3] = np.nan
    save_file(tensors, copied, {"delf_engine": told})
    assert failed() == ["hash of the weights", "values"]
