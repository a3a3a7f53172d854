"""From a folder to a checkpoint: pairs are mined, and the recipe that learns from them is trained and resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from delf_engine.demo.scenes import Collection
from delf_engine.errors import ConfigError, DataError, ImageError
from delf_engine.mining.folder import MiningReport
from delf_engine.training import TrainingConfig, load_training_config, run
from delf_engine.training.config import GradientStage
from helpers import raises
from training_helpers import Trained, train


@pytest.fixture(scope="module")
def tiny() -> TrainingConfig:
    """The recipe with little of everything, from the packaged checkpoint all the same."""
    full = load_training_config("delf_self")
    config = full.model_copy(
        update={
            "held_out_every": 4,
            "dim": 8,
            "views": full.views.model_copy(update={"count": 2, "size": 96}),
            "attention": full.attention.model_copy(update={"hidden": 8}),
        }
    )
    for stage in full.stages:
        if isinstance(stage, GradientStage):
            losses = tuple(
                loss.model_copy(update={"cells": 8} if hasattr(loss, "cells") else {}) for loss in stage.losses
            )
            small = {"steps": 2, "batch": 4, "warmup": 0, "evaluate_every": 0, "losses": losses}
        else:
            small = {"cells": 20, "scales": (0.25,), "photographs": 3}
        config = config.with_stage(stage.name, **small)
    return config


def _fail(path: str, error: ImageError) -> None:
    raise AssertionError(f"{path}: {error}")


def test_the_recipe_learns_from_mined_pairs_and_goes_on_when_interrupted(
    collection: Collection,
    mined: MiningReport,
    tiny: TrainingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = [str(photo.path) for photo in collection.gallery]
    begun: list[str] = []
    prepare = run.Run.prepare

    def counted(self: run.Run, number: int, stage: GradientStage, path: Path | None) -> object:
        begun.append(stage.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return prepare(self, number, stage, path)

    def trained(work: Path) -> Trained:
        return train(photos, tiny, pairs=mined.out, work=work, error=_fail, workers=1)

    whole = trained(tmp_path / "whole")
    monkeypatch.setattr(run.Run, "prepare", counted)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "work")
    resumed = trained(tmp_path / "work")
    assert begun == ["conv4", "attention", "attention"]
    assert resumed.info == whole.info
    assert all(np.array_equal(resumed.state[key], whole.state[key]) for key in whole.state)
    assert resumed.info.attention == "head"
    assert "held-out retrieval mAP" in resumed.info.figures


def test_pairs_that_are_missing_or_held_out_are_said_to_be(
    collection: Collection, mined: MiningReport, tiny: TrainingConfig, tmp_path: Path
) -> None:
    photos = [str(photo.path) for photo in collection.gallery]
    with raises(ConfigError, "--pairs", "FILE"):
        train(photos, tiny, error=_fail, workers=1)
    one = tmp_path / "one.jsonl"
    first = mined.mined.pairs[0]
    values = {"a": first.a, "b": first.b, "homography": np.eye(3).tolist(), "points": [[1, 2, 1, 2]]}
    one.write_text(json.dumps(values))
    with raises(DataError):
        train(photos, tiny, pairs=one, error=_fail, workers=1)
