import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from delf_engine.errors import CheckpointError
from delf_engine.model import (
    CheckpointInfo,
    checkpoint_names,
    checkpoint_path,
    codebook_path,
    load_checkpoint,
    read_checkpoint_info,
    save_checkpoint,
)
from delf_engine.model.network import DelfNetwork
from helpers import checkpoint_info, raises


@pytest.fixture
def info() -> CheckpointInfo:
    return checkpoint_info()


@pytest.fixture
def saved(tmp_path: Path, info: CheckpointInfo) -> tuple[Path, DelfNetwork]:
    torch.manual_seed(0)
    network = DelfNetwork("resnet18", 40, hidden=8).eval()
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, {k: v.numpy() for k, v in network.state_dict().items()}, info)
    return path, network


def test_round_trip(saved: tuple[Path, DelfNetwork]) -> None:
    path, network = saved
    loaded, info = load_checkpoint(path)
    assert info.name == "tiny"
    assert len(info.sha256) == 64
    assert info.identity == f"tiny@{info.sha256[:16]}"
    assert read_checkpoint_info(path) == info
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    for got, expected in zip(loaded(x), network(x), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)  # half precision on disk


def test_flipped_byte_is_found_by_the_hash(saved: tuple[Path, DelfNetwork]) -> None:
    path, _ = saved
    data = bytearray(path.read_bytes())
    data[-100] ^= 0x11
    path.write_bytes(data)
    with raises(CheckpointError, "tiny.safetensors", "SHA-256"):
        load_checkpoint(path)


def test_truncated_and_foreign_files(saved: tuple[Path, DelfNetwork], tmp_path: Path) -> None:
    path, _ = saved
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:1000])
    with raises(CheckpointError):
        load_checkpoint(cut)
    from safetensors.numpy import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": np.zeros(3)}, foreign)
    with raises(CheckpointError):
        read_checkpoint_info(foreign)


def test_other_format_version(saved: tuple[Path, DelfNetwork], tmp_path: Path) -> None:
    path, _ = saved
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["delf_engine"] = json.dumps(
        {**json.loads(header["__metadata__"]["delf_engine"]), "format_version": 99}
    )
    new = json.dumps(header).encode()
    other = tmp_path / "other.safetensors"
    other.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])
    with raises(CheckpointError, "99"):
        load_checkpoint(other)


def test_missing_checkpoint_names_the_packaged_ones(tmp_path: Path) -> None:
    with raises(CheckpointError, "'delf-r19'", "delf-r18"):
        checkpoint_path("delf-r19")
    with raises(CheckpointError):
        checkpoint_path(tmp_path / "nothing.safetensors")


def test_nan_is_not_written(tmp_path: Path, info: CheckpointInfo) -> None:
    path = tmp_path / "bad.safetensors"
    with raises(CheckpointError):
        save_checkpoint(path, {"x": np.array([np.nan])}, info)
    with raises(CheckpointError):
        save_checkpoint(path, {"x": np.array([1e6])}, info)
    assert not path.exists()


def test_packaged_checkpoint() -> None:
    assert "delf-r18" in checkpoint_names()
    path = checkpoint_path("delf-r18")
    assert path.stat().st_size <= 8 * 2**20
    codebook = codebook_path("delf-r18")
    assert codebook is not None
    assert codebook.stat().st_size <= 6 * 2**20
    network, info = load_checkpoint("delf-r18")
    assert (info.dim, network.dim, info.architecture) == (40, 40, "resnet18")
    assert info.data
    assert info.recipe
