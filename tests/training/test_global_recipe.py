"""Recipes with a global descriptor: trained from mined pairs or classes, or fitted at the end, and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from delf_engine import Extractor
from delf_engine.cli import app
from delf_engine.config import config_directory, load_profile, parse_config
from delf_engine.errors import ConfigError, DelfEngineError
from delf_engine.model import GlobalHead, load_checkpoint, read_checkpoint_info
from delf_engine.training import RunOptions, TrainingConfig
from delf_engine.training import train as train_checkpoint
from delf_engine.training.config import parse_training_config
from delf_engine.training.finish import train_global_head
from delf_engine.training.global_head import GlobalHeadConfig, fit_head
from delf_engine.training.registry import LOSSES
from delf_engine.training.sources.classes import ClassesOptions
from helpers import raises, random_photo, write_image, write_tiny_model
from training_helpers import shrunk, train

HEAD = GlobalHeadConfig(dim=2, whitening="learned")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("global") / "photos", np.random.default_rng(0)
    return [str(write_image(folder / f"{i}.png", random_photo(rng, 130, 110))) for i in range(9)]


@pytest.fixture(scope="module")
def pairs(photos: list[str]) -> Path:
    """Two chains of three photographs that are not held out, said to show one place each."""
    path = Path(photos[0]).parent.with_name("pairs.jsonl")
    told = {"homography": np.eye(3).tolist(), "points": [[30, 30, 30, 30], [100, 90, 100, 90]]}
    chained = [(0, 1), (1, 3), (4, 6), (6, 7)]
    path.write_text("\n".join(json.dumps({"a": photos[i], "b": photos[j], **told}) for i, j in chained))
    return path


def recipe(name: str = "global", **changes: Any) -> TrainingConfig:
    small = shrunk(name, steps=2, batch=3, warmup=0)
    return small.model_copy(update={"name": "tiny", "architecture": "resnet18", "global_head": HEAD, **changes})


@pytest.mark.parametrize("kind", ["global_contrastive", "global_triplet", "coupled_clusters", "netvlad_ranking"])
def test_each_loss_trains_the_head(photos: list[str], pairs: Path, trunk: Path, kind: str) -> None:
    loss = parse_config(LOSSES[kind].Options, {"kind": kind, "margin": 2.0}, where="loss")
    config = recipe().with_stage("global", losses=(loss,), learning_rate=0.1)
    trained = train(photos, config, trunk, pairs=pairs)
    head = trained.global_head("m@1")
    assert head is not None
    assert (head.model, head.dim, head.mean.shape) == ("m@1", 2, (256,))
    assert 0 <= trained.info.figures["held-out global mAP"] <= 100
    assert not any(key.startswith("global_layer") for key in trained.state)
    assert abs(head.parameters["p"] - 3) > 0.05


def test_training_begins_where_the_head_is_fitted(photos: list[str], trunk: Path, pairs: Path) -> None:
    still = train(photos, recipe().with_stage("global", steps=1, learning_rate=1e-12), trunk, pairs=pairs)
    begun = still.global_head("")
    extractor = Extractor(still.network, load_profile("default").extraction, device="cpu")
    held_in = [path for i, path in enumerate(photos) if i % 3 < 2]
    fitted = fit_head(extractor, held_in, HEAD, pairs)
    assert begun is not None
    assert begun.parameters["p"] == pytest.approx(3)
    np.testing.assert_allclose(begun.matrix, fitted.matrix, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(begun.mean @ begun.matrix, fitted.mean @ fitted.matrix, rtol=1e-3)


def test_an_interrupted_run_ends_with_the_same_head(
    photos: list[str], pairs: Path, trunk: Path, tmp_path: Path
) -> None:
    class KilledError(Exception):
        pass

    def killed(stage: str, done: int, total: int, loss: float | None) -> None:
        if loss is not None and done == 2:
            raise KilledError

    config = recipe().with_stage("global", steps=3)
    whole = train(photos, config, trunk, pairs=pairs).global_head("")
    with pytest.raises(KilledError):
        train(photos, config, trunk, pairs=pairs, work=tmp_path, checkpoint_steps=1, progress=killed)
    for _ in range(2):  # from the state of the stage, and from its result
        again = train(photos, config, trunk, pairs=pairs, work=tmp_path).global_head("")
        assert again is not None
        assert whole is not None
        assert again.identity == whole.identity


def test_delgs_joint_form(trunk: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        for i in range(4):
            write_image(tmp_path / name / f"{i}.png", random_photo(rng, 100, 90))
    source = ClassesOptions.model_validate({"kind": "classes", "crop": {"square": 72, "window": 64}})
    config = recipe("delg", global_head=GlobalHeadConfig(dim=2)).with_stage(
        "joint", source=source, precision="fp32", accumulate=1
    )
    trained = train([], config, trunk, roots=[tmp_path], seed=1)
    assert trained.global_head("") is not None
    assert trained.info.attention == "head"
    figures = trained.info.figures
    assert {f"held-out classification accuracy, {one} pooling" for one in ("global", "attention")} <= set(figures)


def test_a_recipe_without_such_a_stage_fits_a_head_at_the_end(
    photos: list[str], pairs: Path, trunk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    stages = [stage for stage in shrunk("delf_contrast").stages if stage.name == "PCA"]
    plain = recipe("delf_contrast", stages=(stages[0].model_copy(update={"select": "norm"}),))
    plain = plain.model_copy(update={"codebook": plain.codebook.model_copy(update={"words": 4})})
    report = train_checkpoint(photos, plain, out=out, trunk=trunk, options=RunOptions(device="cpu", pairs=pairs))
    head = GlobalHead.load(report.files.global_head)
    assert head.model == report.info.identity
    assert report.files.global_head.name in report.files.names
    vector = Extractor.from_pretrained(out, device="cpu")(photos[0]).global_descriptor
    assert vector is not None
    assert vector.shape == (2,)
    # Of other weights, it is not left beside them.
    without = plain.model_copy(update={"global_head": None})
    train_checkpoint(photos, without, out=out, trunk=trunk, options=RunOptions(seed=1, device="cpu"))
    assert not report.files.global_head.exists()


def test_the_head_of_a_checkpoint_that_stays(photos: list[str], pairs: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path)
    before = model.read_bytes()
    text = (config_directory() / "train_global.toml").read_text()
    for old, new in (
        ("train_delf_contrast.toml", str(config_directory() / "train_delf_contrast.toml")),
        ("held_out_every = 10", "held_out_every = 3\n[views]\nsize = 96"),
        ("dim = 256", "dim = 2"),  # of few photographs
        ("steps = 400", "steps = 2"),
        ("batch = 48", "batch = 3"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "small.toml").write_text(text)
    given = ["model", "train-global", str(model), *photos, "--recipe", str(tmp_path / "small.toml")]
    result = CliRunner().invoke(app, [*given, "--pairs", str(pairs), "--device", "cpu"])
    assert result.exit_code == 0, result.exception
    assert "held-out global mAP" in result.output
    head = GlobalHead.load(tmp_path / "tiny.global.safetensors")
    assert head.model == read_checkpoint_info(model).identity
    assert model.read_bytes() == before
    assert load_checkpoint(model)[0].global_layer is None


def test_recipes_that_cannot_work(photos: list[str], trunk: Path, tmp_path: Path) -> None:
    values = json.loads(recipe().model_dump_json())
    for head in (None, {"dim": 2, "pooling": "mac"}):
        with raises(ConfigError, "global_head", "gem"):
            parse_training_config({**values, "global_head": head}, where="test")
    later = {**values["stages"][0], "name": "later", "train": ["layer3"]}
    with raises(ConfigError, "'later'"):
        parse_training_config({**values, "stages": [*values["stages"], later]}, where="test")
    with raises(ConfigError, "global_head.pooling", "'gem'"):
        parse_training_config({**values, "global_head": {"dim": 2, "pooling": "gam"}}, where="test")
    fits = recipe("delf_contrast")
    with raises(ConfigError, "--pairs", "FILE"):
        train(photos, fits, trunk)
    with raises(ConfigError, "pairs.jsonl"):  # nothing takes them
        train(photos, fits.model_copy(update={"global_head": GlobalHeadConfig(dim=2)}), trunk, pairs="pairs.jsonl")
    model = write_tiny_model(tmp_path)
    with raises(ConfigError, "global"):
        train_global_head(model, photos, recipe("delf_contrast"))
    with raises(ConfigError, "train-global"):
        train_checkpoint(photos, recipe(), out=tmp_path / "x.safetensors")
    with pytest.raises(DelfEngineError):  # no pairs
        train_global_head(model, photos, recipe())
    assert not (tmp_path / "tiny.global.safetensors").exists()
