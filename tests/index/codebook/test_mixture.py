from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from delf_engine.errors import ConfigError, FeatureError
from delf_engine.index import Mixture
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
    assert Mixture.train(DATA, 7, seed=4) != wanted
    assert Mixture.train(DATA, 7, seed=3, iterations=1) != wanted


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


def test_training_refuses() -> None:
    wrong, huge = np.full((9, 2), np.nan), np.full((9, 2), 1e30)
    for data, n in [(DATA, 1001), (DATA[:1], 1), (np.zeros((5, 0)), 2), (wrong, 2), (huge, 2), (huge[0], 2)]:
        with raises(FeatureError, "descriptors"):
            Mixture.train(data, n)
    for components, iterations in ((0, 5), (3, 0)):
        with raises(ConfigError, f"{components} and {iterations}"):
            Mixture.train(DATA, components, iterations=iterations)


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
