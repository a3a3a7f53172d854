"""Rows are the recipes they say; a run trains once, measures each row once, and goes on from what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.training import ablation, ablation_run
from benchmarks.training.ablation_rows import FULL, AblationRow, ablation_rows, chosen_rows
from delf_engine.config import load_profile
from delf_engine.errors import ConfigError
from delf_engine.evaluation import SETUPS, GroundTruth
from delf_engine.model.backbones import build_trunk
from delf_engine.training import RunOptions, TrainingConfig, load_training_config
from delf_engine.training.batches import START
from delf_engine.training.config import GradientStage, PcaStage, parse_training_config
from delf_engine.training.losses.distillation import DistillationOptions
from helpers import raises, random_photo, write_image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXTRACTION = load_profile("default").extraction

TINY = """
name = "tiny"
architecture = "resnet18"
profile = "default"
dim = 8
held_out_every = 3
attention = { hidden = 8, norm_weighted = true }
codebook = { features = 40, words = 16, iterations = 2 }

[views]
count = 2
size = 96
crop = [0.5, 1.0]
rotation_deg = 5.0
corner_jitter = 0.05
aspect = 0.1
grey = 0.1

[[stages]]
kind = "pca"
name = "first"
cells = 20
scales = [1.0]

[[stages]]
kind = "gradient"
name = "conv4"
source = "views"
train = "layer3"
steps = 4
batch = 2
learning_rate = 1e-4
losses = [{ kind = "contrast", cells = 8 }, { kind = "distillation", weight = 5.0 }]

[[stages]]
kind = "pca"
name = "second"
cells = 20
scales = [1.0]

[[stages]]
kind = "gradient"
name = "attention"
source = "views"
train = "attention"
steps = 4
batch = 2
learning_rate = 1e-3
losses = [{ kind = "match", cells = 8 }]

[[stages]]
kind = "pca"
name = "last"
cells = 60
scales = [1.0]
select = "attention"
"""


RECIPE = parse_training_config(tomllib.loads(TINY), where="tiny")


def by_key(rows: list[AblationRow]) -> dict[str, AblationRow]:
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row for row in rows}


def names(recipe: TrainingConfig) -> list[str]:
    return [stage.name for stage in recipe.stages]


def terms(recipe: TrainingConfig, name: str) -> list[str]:
    stage = next(s for s in recipe.stages if s.name == name)
    assert isinstance(stage, GradientStage)
    return [
        f"{loss.teacher} {loss.target}" if isinstance(loss, DistillationOptions) else loss.kind
        for loss in stage.losses
    ]


# ---------------------------------------------------------------------------------------------- the rows


def test_trunk_and_head_leave_out_what_they_say() -> None:
    rows = by_key(ablation_rows(RECIPE, EXTRACTION))
    trunk = rows["trunk"].recipe
    assert [type(stage) for stage in trunk.stages] == [PcaStage]
    assert trunk.stages[0] == RECIPE.stages[-1].model_copy(update={"select": "norm"})
    assert not rows["trunk"].seeded
    assert names(rows["head"].recipe) == ["second", "attention", "last"]
    assert rows["head"].recipe.stages[-1] == RECIPE.stages[-1]
    assert rows["head"].seeded


def test_without_a_teacher_in_the_recipe_contrast_is_the_full_recipe() -> None:
    rows = by_key(ablation_rows(RECIPE, EXTRACTION))
    # The first PCA stays: tuning measures descriptors under it.
    assert rows["contrast"].recipe == RECIPE == rows[FULL].recipe


def test_teachers_take_the_place_of_contrast_or_come_beside_it() -> None:
    rows = by_key(ablation_rows(RECIPE, EXTRACTION, ["dir/strong.safetensors", "aliked:w.safetensors"]))
    strong = "dir/strong.safetensors descriptors"
    assert terms(rows["teacher-strong"].recipe, "conv4") == [strong, f"{START} features"]
    assert terms(rows["contrast-strong"].recipe, "conv4") == ["contrast", strong, f"{START} features"]
    assert terms(rows["teacher-aliked"].recipe, "conv4")[0] == "aliked:w.safetensors descriptors"
    assert terms(rows["free"].recipe, "conv4") == ["contrast"]
    for key in ("teacher-strong", "contrast-strong", "free"):
        assert names(rows[key].recipe) == names(RECIPE)


def test_rows_that_would_change_nothing_are_left_out() -> None:
    rows = by_key(ablation_rows(RECIPE, EXTRACTION))
    assert {key for key in rows if key.startswith("dim")} == {"dim-20", "dim-40", "dim-64", "dim-128"}
    wide = by_key(ablation_rows(RECIPE.model_copy(update={"dim": 64}), EXTRACTION))
    assert "dim-64" not in wide
    assert {key for key in rows if key.startswith("features")} == {"features-250", "features-500", "features-2000"}
    up_to_one = rows["scales-1"].extraction
    assert up_to_one["scales"] == (*EXTRACTION.scales, 1.0)
    assert set(up_to_one["fill_scales"]).isdisjoint(up_to_one["scales"])
    filled = EXTRACTION.model_copy(update={"fill_scales": ()})
    assert "no-fill" not in by_key(ablation_rows(RECIPE, filled))
    for row in rows.values():
        assert set(row.extraction) <= set(type(EXTRACTION).model_fields)


def test_rows_are_chosen_by_name_and_pattern() -> None:
    rows = ablation_rows(RECIPE, EXTRACTION)
    assert chosen_rows(rows, None) == rows
    assert [row.key for row in chosen_rows(rows, ["dim-2*", FULL])] == [FULL, "dim-20"]
    with raises(ConfigError):
        chosen_rows(rows, ["hed"])


def test_recipes_that_cannot_be_taken_apart_are_refused() -> None:
    with raises(ConfigError):
        ablation_rows(load_training_config("delf_published"), EXTRACTION)
    with raises(ConfigError, "conv4"):
        ablation_rows(RECIPE.with_stage("conv4", train=("layer3", "attention")), EXTRACTION)
    with raises(ConfigError):
        ablation_rows(RECIPE.model_copy(update={"stages": RECIPE.stages[:-1]}), EXTRACTION)


# ----------------------------------------------------------------------------------------------- a run


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Photographs to train on, a gallery with ground truth, a trunk; returns the command's arguments."""
    rng = np.random.default_rng(3)
    for i in range(6):
        write_image(tmp_path / "photos" / f"{i}.png", random_photo(rng, 130, 110))
    scenes = [random_photo(rng, 160, 128) for _ in range(2)]
    for i in range(6):
        view = np.clip(scenes[i % 2] + rng.normal(0, 25, scenes[0].shape), 0, 255).astype(np.uint8)
        write_image(tmp_path / "paris" / f"i{i}.jpg", view)
    lists = [np.array(v, np.int64) for v in ([2], [3], [4], [5], [0], [1])]
    truth = GroundTruth(
        tuple(f"i{i}" for i in range(6)),
        ("i0", "i1"),
        np.array([[0, 0, 150, 120], [10, 10, 159, 127]]),
        (lists[0], lists[1]),
        (lists[2], lists[3]),
        (lists[4], lists[5]),
    )
    monkeypatch.setattr(ablation, "sub_rparis", lambda data: truth)
    torch.manual_seed(0)
    weights = {name: value.contiguous() for name, value in build_trunk("resnet18").state_dict().items()}
    save_file(weights, tmp_path / "trunk.safetensors")
    (tmp_path / "tiny.toml").write_text(TINY)
    options = {
        "--recipe": tmp_path / "tiny.toml",
        "--trunk": tmp_path / "trunk.safetensors",
        "--data": tmp_path,
        "--out": tmp_path / "out",
        "--words": 16,
        "--codebook-photos": 3,
        "--ransac-seeds": 1,
        "--steps-factor": 0.5,
        "--device": "cpu",
    }
    return [str(part) for option in options.items() for part in option]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    calls: list[int] = []
    original = getattr(ablation_run, name)

    def call(*args: Any, **options: Any) -> Any:
        calls.append(next((given.seed for given in args if isinstance(given, RunOptions)), 0))
        return original(*args, **options)

    monkeypatch.setattr(ablation_run, name, call)
    return calls


def test_rows_are_measured_once_and_share_checkpoints(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, verified = counted(monkeypatch, "train_network"), counted(monkeypatch, "verify_all")
    rows = ["trunk", FULL, "contrast", "features-250", "smooth", "half-white"]
    ablation.main([*world, "--rows", *rows])
    assert len(trained) == 2  # the trunk only, and one checkpoint for all others
    assert len(verified) == 5  # contrast is the full recipe
    result = json.loads((tmp_path / "out" / "ablation.json").read_text())
    table = {row["row"]: row for row in result["rows"]}
    assert list(table) == [FULL, "trunk", "contrast", "features-250", "smooth", "half-white"]
    assert table[FULL]["minus_full"] is None
    assert table["contrast"]["columns"] == table[FULL]["columns"]
    for row in result["rows"]:
        assert row["seeds"] == [0]
        for column in ablation_run.COLUMNS:
            for setup in SETUPS:
                assert 0 <= row["columns"][column][setup]["mean_ap"] <= 100
                if row["row"] != FULL:
                    gap = row["minus_full"][column][setup]
                    full = table[FULL]["columns"][column][setup]["mean_ap"]
                    assert gap["difference"] == pytest.approx(row["columns"][column][setup]["mean_ap"] - full)
                    assert gap["low"] <= gap["difference"] + 1e-9
                    assert gap["difference"] - 1e-9 <= gap["high"]
    out = capsys.readouterr().out
    assert "full recipe" in out
    assert "half-whitened" in out

    ablation.main([*world, "--rows", *rows])
    assert (len(trained), len(verified)) == (2, 5)
    assert "half-whitened" in capsys.readouterr().out
    again = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert again["rows"] == result["rows"]


def test_an_interrupted_run_keeps_its_rows_and_goes_on(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        original = ablation_run.Bench._columns
        patched.setattr(
            ablation_run.Bench,
            "_columns",
            lambda self, label, *rest: stop() if label == "full recipe" else original(self, label, *rest),
        )
        patched.setattr(ablation, "chosen_rows", lambda rows, names: rows[1::-1])  # trunk, then full
        with pytest.raises(KeyboardInterrupt):
            ablation.main(world)
    assert "trunk only" in capsys.readouterr().out
    trained, verified = counted(monkeypatch, "train_network"), counted(monkeypatch, "verify_all")
    ablation.main([*world, "--rows", "trunk", FULL])
    assert (len(trained), len(verified)) == (0, 1)  # both checkpoints were there, and one result


def test_seeds_are_trained_apart_and_averaged(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = counted(monkeypatch, "train_network")
    ablation.main([*world, "--rows", "trunk", "head", "--seeds", "0", "1"])
    assert trained == [0, 0, 1]  # without training there is no second seed
    rows = {row["row"]: row for row in json.loads((tmp_path / "out" / "ablation.json").read_text())["rows"]}
    assert rows["trunk"]["seeds"] == [0]
    assert rows["head"]["seeds"] == [0, 1]
    assert rows["head"]["minus_full"] is None  # the full recipe was not asked for
    found = rows["head"]["columns"]["similarity"]["medium"]
    assert found["mean_ap"] == pytest.approx(np.mean(found["of_seeds"]))
    assert found["mean_ap"] == pytest.approx(np.mean(list(found["average_precision"].values())))
