"""The command on the Google Landmarks v2 layout: the plan it prints, and what it refuses early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from delf_engine.cli import app
from delf_engine.errors import DataError
from delf_engine.model.backbones import build_trunk
from helpers import random_photo, write_image

RECIPE = """
extends = "{base}"
name = "tiny"
architecture = "resnet18"
dim = 8
held_out_every = 3
views = {{ size = 64, count = 2 }}

[[stages]]
kind = "gradient"
name = "attention"
train = ["attention"]
steps = 2
batch = 4
learning_rate = 0.1
precision = "fp32"
source = {{ kind = "classes", crop = {{ square = 80, window = 64, smallest = 0.5 }} }}
losses = [{{ kind = "arcface", pooling = "attention" }}]

[[stages]]
kind = "pca"
cells = 20
scales = [1.0]
select = "attention"
"""


@pytest.fixture
def landmarks(tmp_path: Path) -> Path:
    """Two landmarks of four photographs, and photographs that no list names."""
    rng = np.random.default_rng(0)
    rows = []
    for landmark in ("7", "12"):
        ids = [f"{landmark[0]}a{i}f" for i in range(4)]
        rows.append(f"{landmark},{' '.join(ids)}")
        for image_id in ids:
            pixels = random_photo(rng, 90, 80)
            write_image(tmp_path / "data" / "train" / "/".join(image_id[:3]) / f"{image_id}.jpg", pixels)
    write_image(tmp_path / "data" / "index" / "0" / "0" / "0" / "0000.jpg", random_photo(rng, 90, 80))
    (tmp_path / "data" / "train_clean.csv").write_text("landmark_id,images\n" + "\n".join(rows) + "\n")
    base = Path(__file__).parents[2] / "configs" / "train_delf_published.toml"
    (tmp_path / "tiny.toml").write_text(RECIPE.format(base=base))
    torch.manual_seed(0)
    state = {key: value.contiguous() for key, value in build_trunk("resnet18").state_dict().items()}
    save_file(state, tmp_path / "trunk.safetensors")
    return tmp_path


def _plan(folder: Path, photos: Path) -> Result:
    options = ["--recipe", str(folder / "tiny.toml"), "--trunk", str(folder / "trunk.safetensors"), "--dry-run"]
    return CliRunner().invoke(app, ["train", str(photos), *options])


def test_plan_counts_the_photographs_of_the_list_alone(landmarks: Path) -> None:
    for photos in (landmarks / "data", landmarks / "data" / "train_clean.csv"):
        result = _plan(landmarks, photos)
        assert result.exit_code == 0, result.output
        assert "photographs 8: 6 to train on, 2 to measure on" in result.output
        assert "1 x arcface; trains attention; labels from classes" in result.output


def test_a_list_that_cannot_work_is_refused_before_anything_is_written(landmarks: Path) -> None:
    table = landmarks / "data" / "train_clean.csv"
    table.write_text(table.read_text() + "13,ffff eeee\n")
    before = sorted(landmarks.rglob("*"))
    result = _plan(landmarks, landmarks / "data")
    assert isinstance(result.exception, DataError)
    assert "2 of 10 photographs are not there: ffff, eeee" in str(result.exception)
    table.write_text(table.read_text().split("\n12,")[0] + "\n")
    result = _plan(landmarks, landmarks / "data")
    assert isinstance(result.exception, DataError)
    assert "1 class to train on" in str(result.exception)
    assert sorted(landmarks.rglob("*")) == before
