"""From a folder to a checkpoint: pairs are mined, and the recipe that learns from them is trained and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from delf_engine.mining.mine import Mined
from delf_engine.training import TrainingConfig, run
from delf_engine.training.config import GradientStage
from training_helpers import Trained, shrunk, train


@pytest.fixture(scope="module")
def tiny() -> TrainingConfig:
    """The recipe with little of everything, from the packaged checkpoint all the same."""
    return shrunk("delf_self", scales=(0.25,), steps=2, batch=4, warmup=0).model_copy(update={"held_out_every": 4})


def test_the_recipe_learns_from_mined_pairs_and_goes_on_when_interrupted(
    photos: Path, mined: Mined, tiny: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    prepare = run.Run.prepare

    def counted(self: run.Run, number: int, stage: GradientStage, path: Path | None) -> object:
        begun.append(stage.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return prepare(self, number, stage, path)

    def trained(work: Path) -> Trained:
        files = sorted(map(str, photos.iterdir()))
        return train(files, tiny, pairs=photos.parent / "pairs.jsonl", work=work, workers=1)

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
