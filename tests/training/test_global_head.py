"""Global heads that are fitted: PCA whitening, whitening learned from pairs, the command, and what cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from delf_engine import Extractor
from delf_engine.cli import app
from delf_engine.errors import ConfigError, DataError, FormatError
from delf_engine.model import GlobalHead, load_checkpoint
from delf_engine.training import global_head
from delf_engine.training.global_head import fit_global_head
from delf_engine.vectors import learned_whitening, pca_whitening
from helpers import raises, random_photo, write_image, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two places, three photographs of each that differ by light and noise; and their pairs."""
    folder, rng = tmp_path_factory.mktemp("fit") / "photos", np.random.default_rng(0)
    lines = []
    for place in range(2):
        scene = random_photo(rng, 120, 100).astype(float)
        for i in range(3):
            seen = np.clip(scene * rng.uniform(0.7, 1.2) + rng.normal(0, 9, scene.shape), 0, 255)
            write_image(folder / f"{place}{i}.png", seen.astype(np.uint8))
        for i, j in ((0, 1), (1, 2)):
            told = {"homography": np.eye(3).tolist(), "points": [[1, 1, 1, 1]]}
            a, b = (str(folder / f"{place}{number}.png") for number in (i, j))
            lines.append(json.dumps({"a": a, "b": b, **told}))
    lines.append(json.dumps({"a": a, "b": "elsewhere.png", **told}))
    _pairs(folder).parent.mkdir()
    _pairs(folder).write_text("\n".join(lines))
    return folder


def _pairs(photos: Path) -> Path:
    return photos.with_name("mined") / "pairs.jsonl"


def _bare(model: Path, photos: Path, **changes: Any) -> np.ndarray:
    """The pooled vectors themselves, by an extractor whose head does not whiten."""
    extractor = Extractor.from_pretrained(model, device="cpu")
    values = {"pooling": "gem", "parameters": {"p": np.array(3.0, np.float32)}, "levels": None, **changes}
    extractor.global_head = GlobalHead(
        mean=np.zeros(256, np.float32), matrix=np.eye(256, dtype=np.float32), **values
    )
    return np.stack([extractor(path).global_descriptor for path in sorted(photos.glob("*.png"))])


def test_it_is_pca_whitening_of_pooled_vectors(model: Path, photos: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "x.global.safetensors", []
    head = fit_global_head(
        model,
        [photos],
        dim=5,
        pooling="gem",
        levels=1,
        out=out,
        device="cpu",
        progress=lambda *done: seen.append(done),
    )
    wanted = pca_whitening(_bare(model, photos, levels=1), 5)
    np.testing.assert_allclose(head.mean, wanted.mean, atol=1e-6)
    np.testing.assert_allclose(head.matrix, wanted.matrix, rtol=1e-5, atol=1e-5)
    assert (head.pooling, head.levels, head.dim) == ("gem", 1, 5)
    assert head.model == load_checkpoint(model)[1].identity
    assert GlobalHead.load(out).identity == head.identity
    assert seen[-1] == (6, 6)
    again = fit_global_head(model, [photos], dim=5, pooling="gem", levels=1, out=out, device="cpu")
    assert again.identity == head.identity


def test_pairs_teach_the_whitening_what_is_alike(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    head = fit_global_head(model, [photos], dim=1, pooling="gem", pairs=_pairs(photos), out=out, device="cpu")
    vectors = _bare(model, photos)
    # 6 photographs of 2 places: 4 directions, half of them behind PCA.
    pca = pca_whitening(vectors, 2, power=0)
    rows = [(0, 1), (1, 2), (3, 4), (4, 5)]
    reduced = (vectors - pca.mean) @ pca.matrix
    wanted = learned_whitening(reduced, np.array(rows), 1)
    found = (vectors - head.mean.astype(float)) @ head.matrix
    np.testing.assert_allclose(found, (reduced - wanted.mean) @ wanted.matrix, rtol=1e-3, atol=1e-3)


def test_many_pairs_need_no_pca() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 4)).astype(np.float32)
    names = [f"/{i}" for i in range(40)]
    pairs = [global_head.MinedPair(names[i], names[i + 1], np.eye(3), np.zeros((1, 4))) for i in range(0, 40, 2)]
    found = global_head._learned(vectors, names, pairs, 3)
    wanted = learned_whitening(vectors, np.arange(40).reshape(20, 2), 3)
    np.testing.assert_array_equal(found.matrix, wanted.matrix)
    np.testing.assert_array_equal(found.mean, wanted.mean)


@pytest.mark.parametrize("pooling", ["attention", "rmac", "scda"])
def test_other_poolings(model: Path, photos: Path, tmp_path: Path, pooling: str) -> None:
    out = tmp_path / "x"
    head = fit_global_head(model, [photos], dim=4, pooling=pooling, out=out, device="cpu")
    assert head.mean.shape == ({"scda": 512}.get(pooling, 256),)
    extractor = Extractor.from_pretrained(model, device="cpu")
    extractor.global_head = GlobalHead.load(out)
    vector = extractor(photos / "00.png").global_descriptor
    assert vector is not None
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_fitted(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"

    def fit(**options: Any) -> None:
        fit_global_head(model, [photos], **{"dim": 4, "out": out, "device": "cpu", **options})

    with raises(ConfigError, "pooling"):
        fit(pooling="netvlad")
    with raises(ConfigError, "257", "256"):
        fit(dim=257)
    with raises(ConfigError, "6"):  # vary in 5 directions
        fit(dim=6)
    with raises(DataError, "pairs.jsonl", "4 of 5", "2", "3"):
        fit(dim=3, pairs=_pairs(photos))
    with raises(FormatError, "none.jsonl"):
        fit(pairs=tmp_path / "none.jsonl")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with raises(DataError, "0 of 1"):
        fit_global_head(model, [tmp_path / "bad"], dim=4, out=out, device="cpu", on_error=lambda *_: None)
    assert not out.exists()


def test_the_command_writes_beside_the_checkpoint(photos: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    given = ["model", "fit-global", str(model), str(photos), str(bad), "--dim", "2", "--device", "cpu"]
    result = CliRunner().invoke(app, [*given, "--pairs", str(_pairs(photos))])
    assert result.exit_code == 1, result.exception  # for the damaged photograph
    assert "bad.png" in result.output
    beside = tmp_path / "tiny.global.safetensors"
    assert GlobalHead.load(beside).dim == 2
    vector = Extractor.from_pretrained(model, device="cpu")(photos / "00.png").global_descriptor
    assert vector is not None
    assert vector.shape == (2,)
