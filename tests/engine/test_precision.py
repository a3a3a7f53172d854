"""An engine settles the arithmetic of its features with the first image it extracts, and keeps to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from delf_engine.engine.manifest import MANIFEST
from delf_engine.errors import DelfEngineWarning
from delf_engine.extraction import precision
from helpers import random_features


def hardware(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(precision, "_x86_flags", lambda: frozenset(flags))


def on_disk(directory: Path) -> str:
    return str(json.loads((directory / MANIFEST).read_text())["profile"]["extraction"]["precision"])


@pytest.mark.parametrize(
    ("flag", "kept", "other"), [("avx2", "fp32", "avx512_bf16"), ("amx_bf16", "bf16", "avx2")]
)
def test_first_add_settles_auto(
    tmp_path: Path,
    tiny_model: Path,
    photos: list[str],
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    flag: str,
    kept: str,
    other: str,
) -> None:
    directory = tmp_path / "e"
    hardware(monkeypatch, flag)
    with de.Engine.create(directory, model=tiny_model) as engine:
        engine.add_features([("elsewhere", random_features(rng, 30))])
        assert engine.info().precision == on_disk(directory) == "auto"
        engine.add(photos[:2])
        assert engine.info().precision == engine.extractor.precision == on_disk(directory) == kept
        assert f"precision          {kept}" in str(engine.info())
        before = engine.search(photos[1]).to_dict()
    hardware(monkeypatch, other)  # the directory moves to another machine
    with de.Engine.open(directory) as engine:
        if kept == "bf16":
            with pytest.warns(DelfEngineWarning, match="bfloat16"):
                assert engine.extractor.precision == kept
        assert engine.add(photos[2:3]).added == photos[2:3]
        assert engine.extractor.precision == on_disk(directory) == kept
        assert engine.search(photos[1])[0].id == photos[1]
        engine.remove(photos[2])
        if kept == "fp32":
            assert engine.search(photos[1]).to_dict() == before


def test_adding_nothing_new_settles_nothing(tmp_path: Path, tiny_model: Path, photos: list[str]) -> None:
    with de.Engine.create(tmp_path / "e", model=tiny_model) as engine:
        engine.add([])
        assert on_disk(tmp_path / "e") == "auto"
