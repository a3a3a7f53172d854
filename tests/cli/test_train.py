"""delf-engine train: the plan, a whole run, and folders that cannot work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.config import config_directory
from delf_engine.errors import CheckpointError, ConfigError, DataError
from delf_engine.index import Codebook
from delf_engine.model import read_checkpoint_info
from delf_engine.model.backbones import build_trunk
from helpers import random_photo, write_image


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, one of them damaged, a trunk and a small recipe."""
    folder, rng = tmp_path_factory.mktemp("train"), np.random.default_rng(0)
    for i in range(7):
        write_image(folder / "photos" / f"{i}.png", random_photo(rng, 130, 110))
    (folder / "photos" / "bad.png").write_bytes(b"no image")
    torch.manual_seed(0)
    state = build_trunk("resnet18").state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "trunk.safetensors")
    text = (config_directory() / "train_delf_contrast.toml").read_text()
    for old, new in (
        ("dim = 40", "dim = 8"),
        ("held_out_every = 20", "held_out_every = 3"),
        ("size = 288", "size = 96"),
        ("count = 4", "count = 2"),
        ("hidden = 512", "hidden = 8"),
        ("steps = 600", "steps = 2"),
        ("steps = 60", "steps = 2"),
        ("batch = 24", "batch = 3"),
        ("batch = 20", "batch = 3"),
        ("cells = 200", "cells = 20"),
        ("scales = [0.5, 0.70710678, 1.0]", "scales = [1.0]"),
        ("words = 16384", "words = 4"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "small.toml").write_text(text)
    return folder


def _train(files: Path, *args: str, trunk: str = "trunk.safetensors", recipe: str = "small.toml") -> Result:
    given = ["train", *args, "--trunk", str(files / trunk), "--recipe", str(files / recipe)]
    return CliRunner().invoke(app, given)


def _listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_dry_run_prints_the_plan_and_writes_nothing(files: Path, tmp_path: Path) -> None:
    before = _listing(files)
    out = tmp_path / "mine.safetensors"
    result = _train(files, str(files / "photos"), "--dry-run", "--out", str(out), "--precision", "fp32")
    assert result.exit_code == 0, result.exception
    for text in (
        "8: 6 to train on, 2 to measure on",
        "7 of 8 tried",
        "conv4: 1 x contrast + 20 x distillation; trains layer3; pairs from views",
        "2 steps, fp32, 2,098,432 parameters, cache 0.00 GB",
        "attention: 1 x match; trains attention",
        "mine.work",
        "nothing was written",
    ):
        assert text in result.output
    assert "bad.png: not an image" in result.output
    assert _listing(files) == before
    assert _listing(tmp_path) == []


def test_a_dry_run_touches_no_network(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    given = ["train", str(files / "photos"), "--dry-run", "--recipe", str(files / "small.toml")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.exception
    assert "IMAGENET1K_V1" in result.output
    assert _listing(tmp_path) == []


def test_a_whole_run(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    result = _train(files, str(files / "photos"), "--out", str(out), "--log", str(tmp_path / "log"), "--seed", "1")
    assert result.exit_code == 1, result.exception  # for the damaged photograph
    assert "1 photographs could not be read" in result.output
    assert "attention, step 2: held-out retrieval mAP" in result.output
    info = read_checkpoint_info(out)
    assert (info.name, info.dim, info.seed) == ("delf-contrast", 8, 1)
    assert Codebook.load(tmp_path / "mine.codebook.safetensors").words == 4
    assert "| conv4 | 2 | held-out retrieval mAP" in (tmp_path / "mine.md").read_text()
    assert list((tmp_path / "log").iterdir())
    assert list((tmp_path / "mine.work").glob("PCA-*.safetensors"))


def test_folders_that_cannot_work(files: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "one" / "a.png", random_photo(np.random.default_rng(0)))
    for i in range(6):
        write_image(tmp_path / "bad" / f"{i}.png", random_photo(np.random.default_rng(0)))
        (tmp_path / "bad" / f"{i}.png").write_bytes(b"x")
    for folder, message in (
        ("empty", "no image in this folder"),
        ("one", "1 photographs are too few: one in 3 is held out"),
        ("bad", "can be read"),
    ):
        for options in (("--dry-run",), ("--out", str(tmp_path / "x.safetensors"))):
            error = _train(files, str(tmp_path / folder), *options).exception
            assert isinstance(error, DataError)
            assert message in str(error)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (("--precision", "fp8"), ConfigError, "choose one of auto, fp32, bf16, fp16"),
        (("--precision", "fp16", "--device", "cpu"), ConfigError, "fp16 needs a GPU"),
        (("--device", "tpu"), ConfigError, "'tpu'"),
        (("--device", "mps"), ConfigError, "'mps'"),
        (("--device", "cuda:9"), ConfigError, "torch sees"),
        (("--recipe", "nothing"), ConfigError, "delf_views"),
        (("--trunk", "nothing"), CheckpointError, "nothing"),
    ],
)
def test_bad_options(files: Path, options: tuple[str, ...], kind: type[Exception], message: str) -> None:
    given = {"--recipe": str(files / "small.toml"), "--trunk": str(files / "trunk.safetensors")}
    given.update(zip(options[::2], options[1::2], strict=True))
    args = [text for pair in given.items() for text in pair]
    error = CliRunner().invoke(app, ["train", str(files / "photos"), "--dry-run", *args]).exception
    assert isinstance(error, kind)
    assert message in str(error)


def test_log_without_tensorboard_says_what_to_install(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = str(tmp_path / "x.safetensors")
    error = _train(files, str(files / "photos"), "--out", out, "--log", str(tmp_path / "log")).exception
    assert isinstance(error, ConfigError)
    assert "pip install 'delf-engine[tensorboard]'" in str(error)
