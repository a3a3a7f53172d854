"""Every stage is measured, as the trainer runs it and bare; nothing is said of how fast it should be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.training import throughput as training_throughput
from delf_engine.model.backbones import build_trunk
from delf_engine.training import load_training_config
from delf_engine.training.config import parse_training_config
from helpers import random_photo, write_image

LOSSES = {"layer3": "contrast", "attention": "match"}
SHIPPED = load_training_config("delf_views")
STAGES = [
    {
        "kind": "gradient",
        "name": part,
        "source": "views",
        "train": (part,),
        "steps": 9,
        "batch": 2,
        "learning_rate": 1e-4,
        "losses": [{"kind": loss, "cells": 4}],
    }
    for part, loss in LOSSES.items()
]
#: The shipped recipe with stages that need nothing else.
RECIPE = parse_training_config({**SHIPPED.model_dump(exclude={"stages"}), "stages": STAGES}, where="test")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(8):
        write_image(tmp_path / "photos" / f"{i}.png", random_photo(rng, 130, 110))
    return tmp_path / "photos"


def test_all_stages_are_measured(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = RECIPE.model_copy(update={"held_out_every": 4})
    tiny = tiny.model_copy(update={"views": tiny.views.model_copy(update={"count": 2, "size": 64})})
    monkeypatch.setattr(training_throughput, "load_training_config", lambda name: tiny)
    monkeypatch.setattr(training_throughput, "_A_CLASS", 4)
    torch.manual_seed(0)
    state = {key: value.contiguous() for key, value in build_trunk("resnet18").state_dict().items()}
    save_file(state, tmp_path / "trunk.safetensors")
    options = {
        "--trunk": tmp_path / "trunk.safetensors",
        "--photos": photos,
        "--batch": 2,
        "--steps": 1,
        "--rounds": 2,
        "--device": "cpu",
        "--precision": "fp32",
        "--out": tmp_path / "out.json",
    }
    training_throughput.main([str(part) for option in options.items() for part in option])
    result = json.loads((tmp_path / "out.json").read_text())
    rows = {row["stage"]: row for row in result["rows"]}
    assert [row["images_a_step"] for row in rows.values()] == [2, 4, 4]  # images, then pairs
    trunk, layer3, attention = (row["parameters"] for row in rows.values())
    assert trunk > layer3 > attention == 256 * 512 + 512 + 512 + 1
    for row in rows.values():
        assert row["precision"] == "float32"
        assert len(row["rounds"]) == 2
        ratios = [entry["images_a_second"] / entry["bare_images_a_second"] for entry in row["rounds"]]
        assert row["ratio"] == pytest.approx(np.median(ratios))
        assert all(ratio > 0 for ratio in ratios)
    assert "attention, from cached conv4" in capsys.readouterr().out
