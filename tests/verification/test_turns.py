"""Photographs turned by quarters of a circle: points, transforms and verdicts are those of the pair as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError
from delf_engine.features import LocalFeatures
from delf_engine.images import turn
from delf_engine.verification import FineEvidence, exchanged, turned_back, turns_by_evidence
from helpers import raises
from verification.answers import answer

SIZE = (7, 5)


def features_at(points: np.ndarray) -> LocalFeatures:
    n = len(points)
    return LocalFeatures(points, np.ones(n), np.ones(n), np.eye(n, 40), SIZE)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, 360, -90, 450])
def test_points_and_boxes_go_where_their_pixels_go(rotation: int) -> None:
    pixels = np.arange(SIZE[0] * SIZE[1] * 3, dtype=np.uint8).reshape(SIZE[1], SIZE[0], 3)
    points = np.array([[0, 0], [6, 0], [6, 4], [2, 3]])
    turned, box = turn(pixels, rotation, (1, 2, 4, 5))
    features = features_at(points).turned(rotation)
    assert features.image_size == (turned.shape[1], turned.shape[0])
    for (x, y), (u, v) in zip(points, features.keypoints.astype(int), strict=True):
        assert (turned[v, u] == pixels[y, x]).all()
    assert box is not None
    x0, y0, x1, y1 = box
    assert set(map(bytes, turned[y0:y1, x0:x1].reshape(-1, 3))) == set(map(bytes, pixels[2:5, 1:4].reshape(-1, 3)))
    assert features.turned(-rotation) == features_at(points)


def test_only_quarters_of_a_circle() -> None:
    with raises(ConfigError, "45"):
        turn(np.zeros((4, 4, 3), np.uint8), 45)


@given(st.sampled_from([0, 90, 180, 270]), st.integers(0, 1 << 16))
def test_transforms_are_those_of_the_photograph_as_it_is(rotation: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.c_[rng.uniform(0, 6, 5), rng.uniform(0, 4, 5), np.ones(5)]
    turned = features_at(points[:, :2]).turned(rotation).keypoints
    H = np.eye(3) + rng.uniform(-0.02, 0.02, (3, 3))
    expected = np.c_[turned, np.ones(5)] @ H.T
    found = turned_back(answer(8, transform=H), SIZE, rotation)
    mapped = points @ found.transform.T  # type: ignore[union-attr]
    np.testing.assert_allclose(mapped / mapped[:, 2:], expected / expected[:, 2:], rtol=1e-5, atol=1e-5)
    assert found.rotation == rotation
    F = answer(8, transform=H / np.linalg.norm(H), model="fundamental")
    back = turned_back(F, SIZE, rotation).transform
    assert back is not None
    assert np.linalg.norm(back) == pytest.approx(1)
    lines = points @ back.T
    cosines = (
        np.einsum("nd,nd->n", lines, expected) / np.linalg.norm(lines, axis=1) / np.linalg.norm(expected, axis=1)
    )
    np.testing.assert_allclose(np.abs(cosines), 1, rtol=1e-5)
    assert turned_back(answer(0), SIZE, rotation).transform is None


def test_exchanged_twice_is_the_same() -> None:
    matches = np.array([[0, 3], [1, 1], [2, 2]])
    H = np.array([[1.0, 0.1, 5], [-0.1, 1, 3], [0, 0, 1]])
    fine = FineEvidence(40, 30, 20, tuple(map(tuple, H.tolist())))
    found = answer(3, matches=matches, transform=H, rotation=90, similarities=[0.9, 0.8, 0.7], fine=fine)
    other = exchanged(found)
    assert other.matches.tolist() == [[1, 1], [2, 2], [3, 0]]
    np.testing.assert_allclose(other.similarities, [0.8, 0.7, 0.9], rtol=1e-6)
    assert (other.rotation, other.verdict) == (270, found.verdict)
    np.testing.assert_allclose(other.transform @ H, np.eye(3) * (other.transform @ H)[2, 2], atol=1e-9)  # type: ignore[operator]
    back = exchanged(other)
    assert replace(back, transform=None, fine=None) == replace(found, transform=None, fine=None)
    np.testing.assert_allclose(back.transform, H, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_the_likeliest_turn_comes_first(rotation: int) -> None:
    H = turned_back(answer(8, transform=np.eye(3)), SIZE, rotation).transform
    assert H is not None
    evidence = FineEvidence(30, 20, 20, tuple(map(tuple, H.tolist())))
    assert turns_by_evidence(evidence) == (rotation,)
    assert turns_by_evidence(evidence, exchange=True) == (360 - rotation,)
    assert turns_by_evidence(None) == (90, 270, 180)
    for nothing in (
        replace(evidence, planar=2),
        FineEvidence(30, 20, 20, ((1.0, 0, 9), (0, 1.0, 3), (0, 0, 1.0))),
    ):
        assert turns_by_evidence(nothing) == ()
