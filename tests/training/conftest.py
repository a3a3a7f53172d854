"""A tiny trunk, tiny photographs, and the shipped recipe made small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from delf_engine.model.backbones import build_trunk
from delf_engine.training import TrainingConfig
from helpers import random_photo, write_image
from training_helpers import shrunk

Tiny = Callable[..., TrainingConfig]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    return [str(write_image(folder / f"{i}.png", random_photo(rng, 130, 110))) for i in range(7)]


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    save_file({k: v.contiguous() for k, v in build_trunk("resnet18").state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """The shipped recipe with little of everything; keyword arguments replace its fields."""

    def make(**changes: object) -> TrainingConfig:
        small = shrunk("delf_contrast", steps=3, batch=3, warmup=1)
        return small.model_copy(update={"name": "tiny", **changes})

    return make
