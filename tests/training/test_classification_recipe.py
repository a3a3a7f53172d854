"""The published recipe from end to end on a tiny folder of classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delf_engine.images import find_images
from delf_engine.training import RunOptions, TrainingConfig, load_training_config
from delf_engine.training.photographs import Photographs
from delf_engine.training.plan import make_plan
from delf_engine.training.sources.classes import ClassesOptions
from helpers import random_photo, write_image
from training_helpers import Trained, shrunk, train


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    """The published stages at a size that a test can pay: small crops, few steps, a ResNet-18."""
    few = {"steps": 16, "batch": 8, "accumulate": 1, "warmup": 0, "precision": "fp32"}
    config = shrunk("delf_published", **few).model_copy(update={"architecture": "resnet18"})
    crops = {
        "trunk": {"square": 72, "window": 64},
        "attention": {"square": 96, "window": 80, "smallest": 0.6},
    }
    for name, crop in crops.items():
        source = ClassesOptions.model_validate({"kind": "classes", "crop": crop})
        rate = {"attention": 0.1, "trunk": 0.01}[name]
        config = config.with_stage(name, source=source, learning_rate=rate, evaluate_every=8)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of six photographs: one tinted texture each, under other light, noise and framing."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(0)
    for channel, name in enumerate("abc"):
        texture = random_photo(rng, 100, 90).astype(float)
        texture[..., channel] *= 0.4
        for i in range(6):
            photo = np.clip(texture * rng.uniform(0.7, 1.2) + rng.normal(0, 8, texture.shape), 0, 255)
            y, x = rng.integers(0, 12, 2)
            write_image(root / name / f"{i}.png", photo.astype(np.uint8)[y : y + 76, x : x + 84])
    return root


class _KilledError(Exception):
    pass


class _Run:
    """A run with what it reported."""

    def __init__(
        self, folder: Path, config: TrainingConfig, trunk: Path, stop_after: int | None = None, **options: Any
    ) -> None:
        self.losses: dict[str, list[float]] = defaultdict(list)
        self.figures: dict[str, list[Mapping[str, float]]] = defaultdict(list)

        def progress(stage: str, done: int, total: int, loss: float | None) -> None:
            if loss is not None:
                self.losses[stage].append(loss)
            if stage == "attention" and done == stop_after:
                raise _KilledError

        def figures(stage: str, step: int, found: Mapping[str, float]) -> None:
            self.figures[stage].append(found)

        self.trained: Trained = train(
            [], config, trunk, roots=[folder], device="cpu", progress=progress, figures=figures, **options
        )


@pytest.fixture(scope="module")
def run(folder: Path, config: TrainingConfig, trunk: Path) -> _Run:
    return _Run(folder, config, trunk, workers=1)


def test_both_stages_lower_the_loss_and_report_accuracy(run: _Run, trunk: Path) -> None:
    for stage, pooling in (("trunk", "mean"), ("attention", "attention")):
        losses = run.losses[stage]
        assert len(losses) == 16
        assert np.mean(losses[-4:]) < np.mean(losses[:4])
        assert len(run.figures[stage]) == 2  # every 8 steps
        name = f"held-out classification accuracy, {pooling} pooling"
        assert all(0 <= figures[name] <= 1 for figures in run.figures[stage])
        assert run.figures[stage][-1][name] > 1 / 3  # chance
        assert run.trained.info.figures[name] == run.figures[stage][-1][name]
    # The whole trunk moved, from its first convolution on.
    before, after = load_file(trunk), run.trained.network.trunk.state_dict()
    for key in ("conv1.weight", "layer3.1.conv2.weight"):
        assert not torch.equal(after[key], before[key].half().float())
    assert run.trained.info.attention_norm_weighted is False


def test_a_killed_run_goes_on_to_the_same_bits_with_any_number_of_workers(
    run: _Run, folder: Path, config: TrainingConfig, trunk: Path, tmp_path: Path
) -> None:
    with pytest.raises(_KilledError):
        _Run(folder, config, trunk, work=tmp_path, checkpoint_steps=3, stop_after=11, workers=3)
    again = _Run(folder, config, trunk, work=tmp_path, workers=2)
    assert again.losses["trunk"] == []  # taken from disk
    assert again.losses["attention"] == run.losses["attention"][9:]  # from the last state, of step 9
    assert all(np.array_equal(again.trained.state[key], run.trained.state[key]) for key in run.trained.state)


def test_photographs_are_those_of_the_labels(
    folder: Path, config: TrainingConfig, trunk: Path, tmp_path: Path
) -> None:
    found = Photographs.find([folder], config)
    assert found.labelled is not None
    assert found.labelled.paths() == find_images([folder])
    plan = make_plan(found, config, trunk, RunOptions(device="cpu", workers=1))
    assert plan.stages[1].what == "attention: 1 x softmax; trains attention; labels from classes"
    unlabelled = load_training_config("delf_views").model_copy(update={"held_out_every": 2})
    assert Photographs.find([folder], unlabelled).labelled is None
    # Another label makes another run, even where names and sizes of the photographs stay as they are.
    for source in find_images([folder]):
        path = tmp_path / Path(source).relative_to(folder)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(source)
    same = Photographs.find([tmp_path], config).labelled
    (tmp_path / "a").rename(tmp_path / "z")
    other = Photographs.find([tmp_path], config).labelled
    assert same is not None
    assert other is not None
    assert same.key == found.labelled.key != other.key
