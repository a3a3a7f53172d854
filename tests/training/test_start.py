"""Where training starts from: bare weights, or the trunk of one of our own checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from delf_engine.errors import CheckpointError
from delf_engine.model import load_checkpoint, save_checkpoint
from delf_engine.model.checkpoint import packaged_folder
from delf_engine.training import Reports, RunOptions, TrainingConfig
from delf_engine.training.photographs import Photographs
from delf_engine.training.run import Run
from delf_engine.training.weights import load_trunk
from delf_engine.training.work import Work
from helpers import checkpoint_info, raises, write_tiny_model


@pytest.mark.parametrize("named", [True, False])
def test_trunk_of_a_checkpoint_by_name_and_by_path(named: bool) -> None:
    trunk = load_trunk("resnet18", "delf-r18" if named else packaged_folder() / "delf-r18.safetensors")
    expected, _ = load_checkpoint("delf-r18")
    got, state = trunk.state_dict(), expected.trunk.state_dict()
    assert got.keys() == state.keys()
    assert all(got[key].dtype == torch.float32 and torch.equal(got[key], state[key]) for key in state)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_bare_weights(trunk: Path, tmp_path: Path, ending: str) -> None:
    state, path = load_file(trunk), trunk
    if ending == "pth":
        path = tmp_path / "trunk.pth"
        torch.save({"state_dict": state}, path)
    got = load_trunk("resnet18", path).state_dict()
    assert all(torch.equal(got[key], value) for key, value in state.items())


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tiny = write_tiny_model(tmp_path)
    with raises(CheckpointError, "tiny.safetensors", "resnet18", "resnet34"):
        load_trunk("resnet34", tiny)
    with raises(CheckpointError, "'delf-r81'", "'delf-r18'"):
        load_trunk("resnet18", "delf-r81")
    state = {key: value.numpy() for key, value in load_checkpoint(tiny)[0].state_dict().items()}
    save_checkpoint(tmp_path / "other.safetensors", state, checkpoint_info(mean=(0.5, 0.5, 0.5)))
    with raises(CheckpointError, "other.safetensors", "0.5"):
        load_trunk("resnet18", tmp_path / "other.safetensors")
    data = bytearray(tiny.read_bytes())
    data[-1] ^= 1
    tiny.write_bytes(data)
    with raises(CheckpointError):
        load_trunk("resnet18", tiny)


def test_the_recipe_names_the_start_unless_one_is_given(trunk: Path, tiny: Callable[..., TrainingConfig]) -> None:
    def facts(config: TrainingConfig, trunk: object) -> tuple[object, ...]:
        options = RunOptions(device="cpu", cache_gb=0, workers=1)
        made = Run(config, Photographs([], ["a"], ["b"]), options, Reports(), Work(None))
        made.start(trunk)
        return made._facts()

    named = tiny(trunk="delf-r18")
    # What a run's stages are known by is the trunk, not the way it was asked for.
    assert facts(named, None) == facts(tiny(), "delf-r18") != facts(named, trunk)
