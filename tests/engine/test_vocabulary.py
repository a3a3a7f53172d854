"""Codebooks trained on what an engine holds, and on photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import delf_engine as de
from delf_engine.cli import app
from delf_engine.engine.vocabulary import train_words
from delf_engine.errors import ConfigError, DataError, FeatureError
from delf_engine.extraction import Extractor
from delf_engine.index import Codebook, Mixture
from helpers import raises, random_features


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "e"
    rng = np.random.default_rng(0)
    with de.Engine.create(folder, model=tiny_model) as engine:
        engine.add_features((f"{i}.jpg", random_features(rng, n)) for i, n in enumerate([40, 0, 3, *[30] * 300]))
    return folder


def test_words_of_the_collection_itself(filled: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    book = train_words(filled, 50, per_image=20, iterations=3, seed=4, progress=lambda *s: steps.append(s))
    assert steps == [("codebook", i, 3) for i in (1, 2, 3)]
    with de.Engine.open(filled, readonly=True) as engine:
        best = [engine.get(i).top(20).descriptors for i in engine.ids()]
    assert book == Codebook.train(iter(best), 50, iterations=3, seed=4, half=True)


def test_words_of_photographs(photos: list[str], tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(photos[0]).parent
    steps: list[tuple[str, int, int]] = []
    book = train_words(folder, 30, per_image=9, model=tiny_model, progress=lambda *s: steps.append(s))
    extractor = Extractor.from_pretrained(tiny_model)
    extractor = Extractor.from_pretrained(tiny_model, config=extractor.config.for_codebook())
    best = [extractor(photo).top(9).descriptors for photo in sorted(photos)]
    assert book == Codebook.train(iter(best), 30, iterations=10, half=True)
    assert steps[:6] == [("features", i, 6) for i in range(1, 7)]


def test_refusals(filled: Path, tiny_model: Path, tmp_path: Path) -> None:
    de.Engine.create(tmp_path / "empty", model=tiny_model).close()
    for kind, fact, source, words, per_image in (
        (ConfigError, "per_image", filled, 5, 0),
        (ConfigError, "words", filled, 0, 300),
        (FeatureError, "1000000", filled, 10**6, 300),
        (DataError, "nowhere", tmp_path / "nowhere", 5, 300),
        (DataError, "empty", tmp_path / "empty", 5, 300),
    ):
        with raises(kind, fact):  # type: ignore[arg-type]
            train_words(source, words, per_image=per_image)


def test_the_command(filled: Path, photos: list[str], tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine [1].safetensors"
    result = CliRunner().invoke(app, ["codebook", str(filled), str(out), "--words", "40"])
    assert (result.exit_code, result.stdout) == (0, f"40 words of 40 dimensions written to {out}\n")
    assert Codebook.load(out) == train_words(filled, 40)
    again = CliRunner().invoke(app, ["codebook", str(filled), str(out), "--words", "40"])
    assert isinstance(again.exception, ConfigError)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(Path(photos[0]).read_bytes())
    (folder / "bad.png").write_bytes(b"nothing")
    options = ["--words", "20", "--model", str(tiny_model), "--replace", "--json"]
    result = CliRunner().invoke(app, ["codebook", str(folder), str(out), *options])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["words"] == 20
    assert "bad.png" in result.stderr


def test_a_mixture(filled: Path, tmp_path: Path, tiny_model: Path) -> None:
    with de.Engine.open(filled, readonly=True) as engine:
        best = np.concatenate([engine.get(i).top(20).descriptors for i in engine.ids()])
    mixture = train_words(filled, 3, mixture=True, per_image=20, iterations=4, seed=2)
    assert mixture == Mixture.train(best, 3, iterations=4, seed=2)
    out = tmp_path / "m.safetensors"
    command = ["codebook", str(filled), str(out), "--words", "3", "--mixture", "--per-image", "20"]
    result = CliRunner().invoke(app, [*command, "--iterations", "4", "--seed", "2"])
    assert (result.exit_code, result.stdout) == (0, f"3 Gaussians of 40 dimensions written to {out}\n")
    assert Mixture.load(out) == mixture
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "bad.png").write_bytes(b"nothing")
    with raises(FeatureError):
        train_words(tmp_path / "photos", 3, mixture=True, model=tiny_model, on_error=lambda image, error: None)
    nowhere = ["codebook", str(filled), str(tmp_path / "no" / "m.safetensors"), "--words", "3"]
    assert "make it first" in str(CliRunner().invoke(app, nowhere).exception)
    none = ["codebook", str(filled), str(out), "--words", "3", "--iterations", "0", "--replace"]
    assert "must be at least 1" in str(CliRunner().invoke(app, none).exception)
