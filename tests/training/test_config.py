from __future__ import annotations

import json
from pathlib import Path

import pytest

from delf_engine.config import config_directory
from delf_engine.errors import ConfigError
from delf_engine.model.backbones import ARCHITECTURES
from delf_engine.training import load_training_config
from delf_engine.training.config import GradientStage, parse_training_config
from helpers import raises

TEXT = (config_directory() / "train_delf_contrast.toml").read_text()
SHIPPED = sorted(path.stem.removeprefix("train_") for path in config_directory().glob("train_*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_survive_json(name: str) -> None:
    config = load_training_config(name)
    assert config.architecture in ARCHITECTURES
    assert parse_training_config(json.loads(config.model_dump_json()), where="json") == config


def test_stages_of_the_default() -> None:
    config = load_training_config("delf_contrast")
    assert [stage.kind for stage in config.stages] == ["pca", "gradient", "pca", "gradient", "pca"]
    tuning, attention = config.gradient_stages
    assert (tuning.level, attention.level) == ("conv3", "conv4")
    assert tuning.model_copy(update={"train": ("trunk", "attention")}).level == "images"
    assert [loss.kind for loss in tuning.losses] == ["contrast", "distillation"]
    r50 = load_training_config("delf_r50")
    assert r50.architecture == "resnet50_v1"
    assert isinstance(r50.stages[1], GradientStage)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("crop =", "crops =", r"unknown key 'views\.crops'; the nearest known one is 'crop'"),
        (
            "temperature =",
            "temprature =",
            r"stage 2 \(conv4\), loss contrast: unknown key 'temprature'",
        ),
        (
            "warmup =",
            "warm_up =",
            r"stage 2 \(conv4\): unknown key 'warm_up'; .* 'warmup'",
        ),
        ('kind = "contrast"', 'kind = "contrasts"', "there is no loss 'contrasts'; did you mean 'contrast'"),
        ('kind = "contrast"', 'kinds = "contrast"', "stage 2 .*: loss needs a kind"),
        ('source = "views"', 'source = "view"', "there is no source 'view'; did you mean 'views'"),
        ('source = "views"', "source = 3", "source needs a kind"),
        ('source = "views"', "", "source: Field required"),
        ('kind = "pca"', 'kind = "pcb"', "kind must be 'gradient' or 'pca', got 'pcb'"),
        ('name = "first PCA"', 'name = "PCA"', "two stages are called 'PCA'"),
        ('train = "layer3"', 'train = "layer5"', "train"),
        ("weight = 20.0", "weight = -1.0", "loss distillation: weight"),
        ('target = "features"', 'target = "feature"', "loss distillation: target"),
        ("steps = 60", "steps = 6.5", r"stage 2 \(conv4\): steps"),
        ("[[stages]]", "[stages]", "cannot be read as TOML"),
    ],
)
def test_mistakes_name_stage_loss_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path = tmp_path / "recipe.toml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_training_config(path)


def test_losses_and_sources_must_fit() -> None:
    values = json.loads(load_training_config("delf_contrast").model_dump_json())
    values["stages"][3]["losses"] = [{"kind": "softmax"}]
    with raises(ConfigError):
        parse_training_config(values, where="test")
    values["stages"][3]["losses"] = "softmax"
    with raises(ConfigError):
        parse_training_config(values, where="test")
    values["stages"] = "none"
    with raises(ConfigError):
        parse_training_config(values, where="test")


def test_extends_overrides_single_values(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(TEXT)
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\ndim = 64\n[views]\nsize = 128\n')
    base, mine = load_training_config(tmp_path / "base.toml"), load_training_config(tmp_path / "mine.toml")
    assert (mine.dim, mine.views.size, mine.views.count) == (64, 128, base.views.count)
    assert mine.stages == base.stages
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with raises(ConfigError):
        load_training_config(tmp_path / "a.toml")


def test_missing_recipes_and_stages() -> None:
    with raises(ConfigError, "train_nothing.toml"):
        load_training_config("nothing")
    with raises(ConfigError, "'conv5'", "PCA", "conv4"):
        load_training_config("delf_contrast").with_stage("conv5", steps=1)
