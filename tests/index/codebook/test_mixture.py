from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from threadpoolctl import threadpool_limits

from delf_engine.errors import ConfigError, FeatureError, FormatError
from delf_engine.index import Codebook, Mixture
from helpers import raises

CENTRES = np.array([[-3.0, 0, 0], [2, 2, 0], [0, 0, 5]])
GOOD: Any = ([0.5, 0.5], np.eye(2), np.ones((2, 2)))


def clusters() -> np.ndarray:
    """A thousand descriptors around three centres."""
    rng = np.random.default_rng(0)
    sizes, spreads = (600, 300, 100), (0.5, 1, 0.2)
    parts = [c + rng.normal(size=(n, 3)) * s for c, n, s in zip(CENTRES, sizes, spreads, strict=True)]
    return np.concatenate(parts).astype(np.float32)


DATA = clusters()


def test_training_finds_the_gaussians() -> None:
    mixture = Mixture.train(DATA, 3)
    order = np.argsort(-mixture.weights)
    np.testing.assert_allclose(mixture.weights[order], [0.6, 0.3, 0.1], atol=0.01)
    np.testing.assert_allclose(mixture.means[order], CENTRES, atol=0.2)
    np.testing.assert_allclose(np.sqrt(mixture.variances[order]).mean(axis=1), [0.5, 1, 0.2], rtol=0.1)
    assert (mixture.components, mixture.dim) == (3, 3)
    assert repr(mixture) == f"Mixture(3 components x 3-D, {mixture.hash[:8]})"


def test_training_is_repeatable_with_any_number_of_threads() -> None:
    wanted = Mixture.train(DATA, 7, seed=3)
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            assert Mixture.train(DATA.astype(np.float64), 7, seed=3) == wanted
    assert hash(Mixture.train(DATA, 7, seed=3)) == hash(wanted)
    assert Mixture.train(DATA, 7, seed=4) != wanted
    assert Mixture.train(DATA, 7, seed=3, iterations=1) != wanted
    assert wanted != "mixture"


@pytest.mark.parametrize(
    ("data", "components"),
    [
        (np.ones((50, 3)), 10),
        (np.repeat(np.eye(3), 20, axis=0), 7),
        (np.ones((2, 1)), 1),
        (np.zeros((9, 2)), 9),
        (DATA[:40], 40),
    ],
)
def test_degenerate_training_data(data: np.ndarray, components: int) -> None:
    mixture = Mixture.train(data, components)
    assert mixture.means.shape == (components, data.shape[1])
    assert (mixture.variances > 0).all()


@pytest.mark.parametrize(
    ("data", "components"),
    [
        (DATA, 1001),
        (DATA[:1], 1),
        (np.zeros((5, 0)), 2),
        (np.full((9, 2), np.nan), 2),
        (np.full((9, 2), 1e30), 2),
        (np.zeros(9), 2),
    ],
)
def test_training_refuses_descriptors(data: np.ndarray, components: int) -> None:
    with raises(FeatureError, "descriptors"):
        Mixture.train(data, components)


@pytest.mark.parametrize("options", [{"components": 0}, {"components": 3, "iterations": 0}])
def test_training_refuses_options(options: dict[str, int]) -> None:
    with raises(ConfigError):
        Mixture.train(DATA, **options)


@pytest.mark.parametrize(
    ("weights", "means", "variances"),
    [
        ([0.5], *GOOD[1:]),
        (GOOD[0], np.eye(3), GOOD[2]),
        (GOOD[0], GOOD[1], np.ones((2, 3))),
        ([], np.zeros((0, 2)), np.zeros((0, 2))),
        ([[0.5, 0.5]], *GOOD[1:]),
        ([0.5, 0.0], *GOOD[1:]),
        (GOOD[0], GOOD[1], np.zeros((2, 2))),
        ([0.5, np.nan], *GOOD[1:]),
        (["a", "b"], *GOOD[1:]),
        (GOOD[0], GOOD[1], np.full((2, 2), 1e20)),
    ],
)
def test_what_is_no_mixture(weights: Any, means: Any, variances: Any) -> None:
    with pytest.raises(FeatureError):
        Mixture(weights, means, variances)


def test_save_and_load(tmp_path: Path) -> None:
    mixture = Mixture.train(DATA, 5)
    path = tmp_path / "mixture.safetensors"
    mixture.save(path)
    again = Mixture.load(path)
    assert again == mixture
    for name in ("weights", "means", "variances"):
        np.testing.assert_array_equal(getattr(again, name), getattr(mixture, name))
        assert not getattr(again, name).flags.writeable


def test_load_refuses(tmp_path: Path) -> None:
    path = tmp_path / "mixture.safetensors"

    def refused(fact: str) -> None:
        with pytest.raises(FormatError, match=fact) as caught:
            Mixture.load(path)
        assert str(path) in str(caught.value)

    refused("mixture")
    Mixture(*GOOD).save(path)
    good = path.read_bytes()
    for contents in (b"", good[:100], good[:-1]):
        path.write_bytes(contents)
        refused("mixture")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused("hash")
    arrays = {"weights": -np.ones(2), "means": np.eye(2), "variances": np.eye(2)}
    save_file(arrays, path, {"format": "delf-engine mixture", "version": "1"})
    refused("positive")
    save_file(arrays, path, {"format": "delf-engine mixture", "version": "2"})
    refused("version 2")
    Codebook(np.eye(2)).save(path)
    refused("mixture")
