"""Rows are the recipes at hand; each is trained and measured once, and a run goes on from what is there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.revisited.quality import Row
from benchmarks.training import ablation
from benchmarks.training.how_loss import How, HowOptions
from benchmarks.verification.sameness_sets import part_of
from benchmarks.verification.searched_sets import SearchedSet
from delf_engine.errors import ConfigError
from delf_engine.evaluation import GroundTruth
from delf_engine.model.backbones import build_trunk
from delf_engine.training.batches import Batch
from delf_engine.training.config import load_training_config, teacher_names
from helpers import raises, random_photo, write_image, write_tiny_model

TINY = """
name = "{name}"
architecture = "resnet18"
profile = "default"
dim = 8
held_out_every = 3
attention = {{ hidden = 8, norm_weighted = true }}
codebook = {{ features = 40, words = 16, iterations = 2, photographs = 1 }}

[views]
count = 2
size = 64
crop = [0.5, 1.0]
rotation_deg = 5.0
corner_jitter = 0.05
aspect = 0.1
grey = 0.1

[[stages]]
kind = "gradient"
name = "conv4"
source = {source}
train = "layer3"
steps = 1
batch = 2
learning_rate = 1e-4
losses = [{{ kind = "{loss}" }}]

[[stages]]
kind = "pca"
name = "PCA"
cells = 20
scales = [1.0]
photographs = 2
"""
CLASSES = '{ kind = "classes", crop = { square = 64, window = 64 } }'


def chosen(**changes: Any) -> list[Any]:
    options = {"rows": None, "teacher": None, "architecture": None, "pairs": Path("pairs.jsonl")}
    return ablation.chosen_recipes(argparse.Namespace(**{**options, **changes}))


def test_rows_are_the_recipes_at_hand() -> None:
    names = [recipe.name for recipe in chosen()]
    assert names[0] == "views"
    assert sorted(names) == sorted(path.stem for path in ablation.RECIPES.glob("*.toml"))
    taught, views = chosen(rows=["taught", "views"], teacher="my", architecture="resnet50_v1")
    assert (taught.name, teacher_names(taught.stages)) == ("taught", ["my"])
    assert (views.architecture, views.profile) == ("resnet50_v1", "strong")
    (anew,) = chosen(rows=["anew"])
    assert anew.codebook == load_training_config("delf_r18").codebook
    assert chosen(rows=["views"], pairs=None)
    with raises(ConfigError, "head", "--pairs"):
        chosen(rows=["views", "head"], pairs=None)
    with raises(ConfigError, "views"):
        chosen(rows=["views", str(ablation.RECIPES / "views.toml")])


def test_hows_loss_draws_a_place_together_and_others_apart() -> None:
    axes = torch.eye(4)
    loss = How(HowOptions(kind="how", margin=1.0, hardest=3), None, None)  # type: ignore[arg-type]

    def of(rows: list[int], groups: list[int] | None) -> float:
        step = SimpleNamespace(
            features=axes[rows][:, :, None, None].expand(-1, -1, 2, 2),
            describe=lambda cells: torch.nn.functional.normalize(cells, dim=1),
            batch=Batch({}, 32, groups=None if groups is None else np.array(groups)),
        )
        return float(loss(step))

    assert of([0, 1, 0, 1], None) == pytest.approx(0)
    assert of([0, 1, 2, 3], None) == pytest.approx(2)  # the squared distance
    assert of([0, 1, 0, 0], None) == pytest.approx((0 + 2 + 1) / 2, abs=1e-5)  # and the margin of the first
    assert of([0, 1, 0, 0], [7, 7]) == pytest.approx((0 + 2) / 2)  # of one place


@pytest.fixture
def world(tmp_path: Path) -> list[str]:
    """Photographs, folders of landmarks for all parts, a trunk, two rows; returns the command's arguments."""
    rng = np.random.default_rng(3)
    files = [f"photos/{i}.png" for i in range(6)]
    files += [f"landmarks/place {n}/{i}.png" for n in range(12) for i in range(4)]
    for file in files:
        write_image(tmp_path / "data" / file, random_photo(rng, 96, 80))
    torch.manual_seed(0)
    weights = {name: value.contiguous() for name, value in build_trunk("resnet18").state_dict().items()}
    save_file(weights, tmp_path / "trunk.safetensors")
    (tmp_path / "how.toml").write_text(TINY.format(name="how", source='"views"', loss="how"))
    (tmp_path / "soft.toml").write_text(TINY.format(name="soft", source=CLASSES, loss="softmax"))
    options = {
        "--data": tmp_path / "data",
        "--trunk": tmp_path / "trunk.safetensors",
        "--labels": write_tiny_model(tmp_path),
        "--cache": tmp_path / "cache",
        "--out": tmp_path / "out" / "ablation.json",
    }
    return [*(str(part) for option in options.items() for part in option), "--seeds", "0", "1"]


def test_a_run_goes_on_from_what_is_there(
    world: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[Any] = []
    found: list[str] = []
    real_train = ablation.train

    def train(photos: Any, recipe: Any, **options: Any) -> Any:
        trained.append((recipe.name, options["options"].seed))
        return real_train(photos, recipe, **options)

    def measured(evidence: Any, searched: SearchedSet, top: int | None) -> list[Row]:
        if len(found) == 2 and "stopped" not in found:
            found.append("stopped")
            raise KeyboardInterrupt
        found.append(evidence.system.identity.split("@")[0])
        precision = {"similarity": [10.0, None, 20.0 + len(found)]}
        return [{"set": "x", "queries": 3, "images": 4, "verified": top, "average_precision": precision}]

    nothing = tuple(np.zeros(0, np.int64) for _ in range(3))
    truth = GroundTruth(("a",), ("q", "r", "s"), np.zeros((3, 4)), nothing, nothing, nothing)
    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "measured", measured)
    monkeypatch.setattr(ablation, "checked_sets", lambda *_: [])
    monkeypatch.setattr(ablation, "searched_sets", lambda *_: [SearchedSet("x", truth, {})])

    rows = ["--rows", *(str(tmp_path / f"{name}.toml") for name in ("how", "soft"))]
    with pytest.raises(KeyboardInterrupt):
        ablation.main([*world, *rows])
    ablation.main([*world, *rows])
    assert trained == [("how-0", 0), ("soft-0", 0), ("how-1", 1), ("soft-1", 1)]
    assert found == ["how-0", "soft-0", "stopped", "how-1", "soft-1"]
    linked = {path.name for path in (tmp_path / "out" / "ablation" / "classes").iterdir()}
    assert linked == {name for name in (f"place {n}" for n in range(12)) if part_of(name) == "fit"}

    file = tmp_path / "out" / "ablation.json"
    results = json.loads(file.read_text())["results"]
    assert [(result["system"], result["seeds"]) for result in results] == [("how", 2), ("soft", 2)]
    how, soft = (result["rows"][0] for result in results)
    assert how["average_precision"]["similarity"] == [10, None, (21 + 24) / 2]
    assert how["of_seeds"]["similarity"] == [(10 + 21) / 2, (10 + 24) / 2]
    assert soft["map"]["similarity"] == pytest.approx((10 + (22 + 25) / 2) / 2)
    assert soft["difference"]["similarity"]["difference"] == pytest.approx(0.5)
    assert how["difference"] == {}
    assert "| soft |" in capsys.readouterr().out

    # Nothing is done again, but measured beside another: as by quality, under its own name.
    ablation.main([*world, *rows, "--against", str(tmp_path / "tiny.safetensors")])
    assert (len(trained), found[5:]) == (4, ["tiny"])
    assert [len(result["rows"][0]["difference"]) for result in json.loads(file.read_text())["results"]] == [
        0,
        1,
        1,
    ]
