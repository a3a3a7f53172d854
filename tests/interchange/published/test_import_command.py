"""``delf-engine model import``, and extraction with what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.config import load_profile
from delf_engine.errors import CheckpointError, ConfigError, DelfEngineError, FormatError
from delf_engine.extraction import Extractor
from delf_engine.interchange.published.convert import import_model
from delf_engine.model import load_checkpoint, read_checkpoint_info
from helpers import raises, random_photo, restate
from interchange.protobuf_bytes import write_datum
from interchange.published.data.weights import slim_weights
from interchange.published.forging import write_bundle


def _run(*args: str) -> Result:
    result = CliRunner().invoke(app, ["model", "import", *args])
    assert result.exception is None or isinstance(result.exception, (SystemExit, DelfEngineError)), (
        result.exception
    )
    return result


@pytest.fixture(scope="module")
def delf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delf")
    rng = np.random.default_rng(0)
    write_bundle(folder / "variables" / "variables", slim_weights(0))
    (folder / "pca").mkdir()
    write_datum(folder / "pca" / "mean.datum", rng.normal(0, 0.01, 1024))
    write_datum(folder / "pca" / "pca_proj_mat.datum", rng.normal(size=(64, 1024)))
    return folder


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("torchvision") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


def test_delf_from_its_files_to_features(delf: Path, tmp_path: Path) -> None:
    out = tmp_path / "delf-gld.safetensors"
    result = _run(
        "delf", str(delf), "--out", str(out), "--pca", str(delf / "pca"), "--dim", "40", "--threshold", "100"
    )
    assert result.exit_code == 0, result.exception
    for text in ("resnet50_slim_s32", "attention head", "40-D", "profile", f"wrote {out}"):
        assert text in result.output
    info = read_checkpoint_info(out)
    assert (info.name, info.dim, info.profile, info.attention_threshold) == ("delf-gld", 40, "delf", 100)
    imported = json.loads(info.recipe)["imported"]
    assert (imported["kind"], imported["source"]) == ("delf", delf.name)
    assert len(imported["source_sha256"]) == 64
    config = load_profile("delf").extraction.model_copy(update={"scales": (0.5, 1.0)})
    photo = random_photo(np.random.default_rng(0), 200, 150)
    assert (
        len(Extractor.from_pretrained(out, config=config)(photo)) == 0
    )  # random weights score below the threshold
    restate(out, attention_threshold=None)
    features = Extractor.from_pretrained(out, config=config)(photo)
    assert features.descriptors.shape[1] == 40
    assert len(features) == 7 * 5 + 4 * 3  # every cell, of stride 32
    on_grid = features.keypoints[features.scales == 1]
    np.testing.assert_allclose(on_grid % 32, 0, atol=1e-4)


def test_torchvision_in_half_precision(resnet18: Path, delf: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert _run("torchvision", str(resnet18), "--out", str(whole)).exit_code == 0
    assert _run("torchvision", str(resnet18), "--out", str(half), "--half", "--name", "r18").exit_code == 0
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert read_checkpoint_info(half).name == "r18"
    network, info = load_checkpoint(whole)
    assert (info.attention, info.dim, info.profile) == ("norm", 256, "default")
    assert torch.equal(network.projection.components, torch.eye(256))
    checked = CliRunner().invoke(app, ["model", "verify", str(whole), str(half)])
    assert checked.exit_code == 0, checked.output
    with raises(CheckpointError, "(1024,), (256,)"):
        import_model("torchvision", resnet18, name="x", pca=delf / "pca", dim=40)


def test_nothing_is_replaced_unasked(resnet18: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"mine")
    with raises(ConfigError, "--replace"):
        raise _run("torchvision", str(resnet18), "--out", str(out)).exception or AssertionError
    assert out.read_bytes() == b"mine"
    hashes = set()
    for _ in range(2):
        assert _run("torchvision", str(resnet18), "--out", str(out), "--replace").exit_code == 0
        hashes.add(read_checkpoint_info(out).sha256)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("args", "kind", "fact"),
    [
        (("keras", "x", "--out", "x.safetensors"), ConfigError, "'keras'"),
        (("delf", "x", "--out", "x.bin"), ConfigError, "x.bin"),
        (("delf", "x", "--out", "no/x.safetensors"), ConfigError, "no/x.safetensors: "),
        (("delf", "x", "--out", "x.safetensors"), FormatError, "x: "),
        (("how", "x", "--out", "x.safetensors"), CheckpointError, "x: "),
        (("how", "x", "--out", "x.safetensors", "--stride", "16"), ConfigError, "how"),
        (("delf", "x", "--out", "x.safetensors", "--dim", "40"), ConfigError, "PCA"),
        (("delf", "x", "--out", "x.safetensors", "--profile", "delff"), ConfigError, "'delf'"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], kind: type[Exception], fact: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with raises(kind, fact):
        raise _run(*args).exception or AssertionError
    assert list(tmp_path.iterdir()) == []
