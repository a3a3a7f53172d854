from __future__ import annotations

import json
from pathlib import Path

import pytest

from delf_engine.config import config_directory
from delf_engine.errors import ConfigError
from delf_engine.model.backbones import ARCHITECTURES
from delf_engine.training import load_training_config
from delf_engine.training.config import parse_training_config
from helpers import raises

TEXT = (config_directory() / "train_delf_contrast.toml").read_text()
SHIPPED = sorted(path.stem.removeprefix("train_") for path in config_directory().glob("train_*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_survive_json(name: str) -> None:
    config = load_training_config(name)
    assert config.architecture in ARCHITECTURES
    assert parse_training_config(json.loads(config.model_dump_json()), where="json") == config


@pytest.mark.parametrize(
    ("old", "new", "facts"),
    [
        ("crop =", "crops =", ("'views.crops'", "'crop'")),
        ("temperature =", "temprature =", ("stage 2 (conv4), loss contrast", "'temprature'")),
        ("warmup =", "warm_up =", ("stage 2 (conv4)", "'warm_up'", "'warmup'")),
        ('kind = "contrast"', 'kind = "contrasts"', ("'contrasts'", "'contrast'")),
        ('kind = "contrast"', 'kinds = "contrast"', ("stage 2", "loss")),
        ('source = "views"', 'source = "view"', ("'view'", "'views'")),
        ('source = "views"', "source = 3", ("source",)),
        ('source = "views"', "", ("source",)),
        ('kind = "pca"', 'kind = "pcb"', ("'pcb'", "'pca'")),
        ('name = "first PCA"', 'name = "PCA"', ("'PCA'",)),
        ('train = "layer3"', 'train = "layer5"', ("train",)),
        ("weight = 20.0", "weight = -1.0", ("loss distillation", "weight")),
        ('target = "features"', 'target = "feature"', ("loss distillation", "target")),
        ("steps = 60", "steps = 6.5", ("stage 2 (conv4)", "steps")),
        ("[[stages]]", "[stages]", ("TOML",)),
    ],
)
def test_mistakes_name_stage_loss_and_key(tmp_path: Path, old: str, new: str, facts: tuple[str, ...]) -> None:
    assert old in TEXT
    path = tmp_path / "recipe.toml"
    path.write_text(TEXT.replace(old, new))
    with raises(ConfigError, "recipe.toml", *facts):
        load_training_config(path)


def test_losses_and_sources_must_fit() -> None:
    values = json.loads(load_training_config("delf_contrast").model_dump_json())
    for losses, fact in (([{"kind": "softmax"}], "softmax"), ("softmax", "[[losses]]")):
        values["stages"][3]["losses"] = losses
        with raises(ConfigError, "stage 4 (attention)", fact):
            parse_training_config(values, where="test")
    with raises(ConfigError, "[[stages]]"):
        parse_training_config({**values, "stages": "none"}, where="test")


def test_extends_overrides_single_values(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(TEXT)
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\ndim = 64\n[views]\nsize = 128\n')
    base, mine = load_training_config(tmp_path / "base.toml"), load_training_config(tmp_path / "mine.toml")
    assert (mine.dim, mine.views.size, mine.views.count) == (64, 128, base.views.count)
    assert mine.stages == base.stages


def test_missing_recipes_and_stages() -> None:
    with raises(ConfigError, "'nothing'", "delf_r18"):
        load_training_config("nothing")
    with raises(ConfigError, "'conv5'", "PCA", "conv4"):
        load_training_config("delf_contrast").with_stage("conv5", steps=1)
