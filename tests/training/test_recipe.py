from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_photo, write_image
from safetensors.torch import save_file

from delf_engine.errors import CheckpointError, ConfigError, DataError, ImageError
from delf_engine.model import load_checkpoint, save_checkpoint
from delf_engine.model.backbones import build_trunk
from delf_engine.training import TrainingConfig, load_training_config, recipe


def _tiny(**changes: object) -> TrainingConfig:
    full = load_training_config()
    return full.model_copy(
        update={
            "name": "tiny",
            "dim": 8,
            "held_out_every": 3,
            "views": full.views.model_copy(update={"count": 2, "size": 96}),
            "tuning": full.tuning.model_copy(update={"steps": 2, "pairs": 3, "cells": 8}),
            "head": full.head.model_copy(update={"steps": 4, "pairs": 3, "cells": 8, "warmup": 1, "hidden": 8}),
            "projection": full.projection.model_copy(update={"cells": 20, "scales": (1.0,)}),
            **changes,
        }
    )


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    return [str(write_image(tmp_path / "photos" / f"{i}.png", random_photo(rng, 130, 110))) for i in range(7)]


@pytest.fixture
def trunk(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "trunk.safetensors"
    save_file({k: v.contiguous() for k, v in build_trunk("resnet18").state_dict().items()}, path)
    return path


def _fail(path: str, error: ImageError) -> None:
    raise AssertionError(f"{path}: {error}")


def test_same_seed_same_bits_and_round_trip(photos: list[str], trunk: Path, tmp_path: Path) -> None:
    first = recipe.train(photos, _tiny(), trunk, seed=3, on_error=_fail)
    again = recipe.train(photos, _tiny(), trunk, seed=3, on_error=_fail)
    other = recipe.train(photos, _tiny(), trunk, seed=4, on_error=_fail)
    assert all(np.array_equal(first.state[k], again.state[k]) for k in first.state)
    assert not np.array_equal(first.state["attention.conv1.weight"], other.state["attention.conv1.weight"])
    before = build_trunk("resnet18", recipe.load_trunk_weights(trunk)).state_dict()
    assert torch.equal(
        before["layer2.0.conv1.weight"].half().float(),
        torch.from_numpy(first.state["trunk.layer2.0.conv1.weight"]),
    )
    assert not np.array_equal(
        before["layer3.1.conv2.weight"].half().float().numpy(), first.state["trunk.layer3.1.conv2.weight"]
    )
    save_checkpoint(tmp_path / "tiny.safetensors", first.state, first.info)
    network, info = load_checkpoint(tmp_path / "tiny.safetensors")
    assert (info.name, info.dim, info.seed) == ("tiny", 8, 3)
    assert set(info.figures) == set(first.info.figures)
    with torch.inference_mode():
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(network(x)[1], first.network(x)[1], rtol=1e-2, atol=1e-2)


def test_interrupted_run_goes_on_behind_the_last_stage(
    photos: list[str], trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = recipe.train(photos, _tiny(), trunk, on_error=_fail)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "train_match_head", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recipe.train(photos, _tiny(), trunk, work=tmp_path / "work", on_error=_fail)
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "tune_trunk", interrupt)  # must not be run again
        resumed = recipe.train(photos, _tiny(), trunk, work=tmp_path / "work", on_error=_fail)
    assert all(np.array_equal(expected.state[k], resumed.state[k]) for k in expected.state)
    # Another recipe is another run: nothing of the old one is taken.
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "tune_trunk", interrupt)
        with pytest.raises(KeyboardInterrupt):
            recipe.train(photos, _tiny(dim=7), trunk, work=tmp_path / "work", on_error=_fail)


def test_no_tuning_leaves_the_trunk(photos: list[str], trunk: Path) -> None:
    config = _tiny(tuning=_tiny().tuning.model_copy(update={"steps": 0}))
    trained = recipe.train(photos, config, trunk, on_error=_fail)
    before = build_trunk("resnet18", recipe.load_trunk_weights(trunk)).state_dict()
    for key, value in before.items():
        assert np.array_equal(value.half().float().numpy(), trained.state[f"trunk.{key}"])


def test_bad_photographs_are_reported_and_passed_over(photos: list[str], trunk: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    seen = []
    trained = recipe.train([str(bad), *photos], _tiny(), trunk, on_error=lambda p, e: seen.append(p))
    assert set(seen) == {str(bad)}
    assert trained.network.dim == 8


def test_too_few_photographs(photos: list[str], trunk: Path) -> None:
    with pytest.raises(DataError, match="2 photographs are too few"):
        recipe.train(photos[:2], _tiny(), trunk, on_error=_fail)


def test_bad_trunks_and_recipes(photos: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a readable safetensors file of a trunk"):
        recipe.train(photos, _tiny(), tmp_path / "none.safetensors", on_error=_fail)
    with pytest.raises(ConfigError, match=r"train_nothing\.toml"):
        load_training_config("nothing")
    path = tmp_path / "typo.toml"
    text = (Path(__file__).parents[2] / "configs" / "train_delf_r18.toml").read_text()
    path.write_text(text.replace("distillation =", "destillation ="))
    with pytest.raises(
        ConfigError, match=r"unknown key 'tuning\.destillation'; the nearest known one is 'distillation'"
    ):
        load_training_config(path)
