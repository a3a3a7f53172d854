"""A tiny model of random weights with its codebook: the engine's logic does not need a trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_photo, write_image

from delf_engine.index import Codebook
from delf_engine.model import CheckpointInfo, save_checkpoint
from delf_engine.model.network import DelfNetwork


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = DelfNetwork("resnet18", 40, hidden=8).eval()
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    info = CheckpointInfo(
        format_version=1,
        name="tiny",
        architecture="resnet18",
        dim=40,
        attention_hidden=8,
        attention_norm_weighted=True,
        profile="default",
        preprocessing="as ImageNet",
        data="none",
        recipe="random",
        licence="Apache-2.0",
        seed=0,
    )
    save_checkpoint(path, {k: v.numpy() for k, v in network.state_dict().items()}, info)
    words = np.random.default_rng(0).normal(size=(32, 40))
    Codebook(words / np.linalg.norm(words, axis=1, keepdims=True)).save(
        path.with_name("tiny.codebook.safetensors")
    )
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    return [str(write_image(folder / f"{i}.png", random_photo(rng, 150 + i, 120))) for i in range(6)]
