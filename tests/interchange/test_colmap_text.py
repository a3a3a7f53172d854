from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from delf_engine.errors import DataError
from delf_engine.features import LocalFeatures
from delf_engine.interchange import export_features
from delf_engine.interchange.colmap_text import encode, serialise_colmap
from helpers import raises, random_features


def slowly_read(text: str) -> tuple[list[list[float]], list[list[int]]]:
    """Read as LoadSiftFeaturesFromTextFile of COLMAP does: line by line, items after blanks."""
    lines = iter(text.split("\n"))
    count, dim = (int(item) for item in next(lines).split())
    assert dim == 128
    places, descriptors = [], []
    for _ in range(count):
        items = next(lines).split(" ")
        assert len(items) == 4 + dim
        places.append([float(item) for item in items[:4]])
        values = [int(item) for item in items[4:]]
        assert all(0 <= value <= 255 for value in values)
        descriptors.append(values)
    assert list(lines) == [""]
    return places, descriptors


# ------------------------------------------------------------------------------------------------------- writing


def test_text_by_hand(tmp_path: Path) -> None:
    """D = 1: s = 512 / sqrt(2) = 362.04, c = s / sqrt(128) = 32, and the column of the matrix is +, -, +, -."""
    features = LocalFeatures(
        np.float32([[0, 0], [10.25, -0.5]]),
        np.float32([2, 1.4142135]),
        np.float32([2, 1]),
        np.float32([[1], [-1]]),
        (20, 10),
    )
    assert export_features("colmap", tmp_path / "out", [("sub/a.jpg", features)]) == 1
    text = (tmp_path / "out" / "sub" / "a.jpg.txt").read_text()
    assert text == (f"2 128\n0.5 0.5 2 0{' 64 0' * 64}\n10.75 0 1.41421354 0{' 0 64' * 64}\n")


@given(st.integers(0, 20), st.integers(1, 128), st.integers(0, 2**32))
def test_what_colmap_reads(n: int, dim: int, seed: int) -> None:
    features = random_features(np.random.default_rng(seed), n, dim)
    places, descriptors = slowly_read(serialise_colmap("a", features).decode())
    assert len(places) == n
    for i, (x, y, scale, orientation) in enumerate(places):
        np.testing.assert_allclose([x - 0.5, y - 0.5], features.keypoints[i], rtol=1e-7, atol=1e-6)
        assert (np.float32(scale), orientation) == (features.scales[i], 0)
    np.testing.assert_array_equal(np.array(descriptors).reshape(n, 128), encode(features.descriptors))


@pytest.mark.parametrize("dim", [1, 2, 40, 64, 127, 128])
def test_descriptors_keep_their_distances_and_their_length(dim: int, rng: np.random.Generator) -> None:
    x = random_features(rng, 60, dim).descriptors
    stored = encode(x).astype(np.float64)
    scale = 512 / np.sqrt(1 + dim)
    before, after = squareform(pdist(x)), squareform(pdist(stored)) / scale
    pairs = np.triu_indices(60, 1)
    rounding = (0 if dim == 1 else 128 / 6) / scale**2  # 1 / 12 for each value of either vector
    np.testing.assert_allclose(np.sqrt(np.maximum(after[pairs] ** 2 - rounding, 0)), before[pairs], atol=0.05)
    assert np.corrcoef(before[pairs], after[pairs])[0, 1] > 0.985
    if dim < 128:
        np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 512, rtol=0.006)
        # The angles of COLMAP's matcher on a GPU: of dot products of whole numbers, over 512 squared.
        angles = np.arccos(np.minimum(stored @ stored.T / 512**2, 1))
        assert np.corrcoef(before[pairs], angles[pairs])[0, 1] > 0.99


def test_nothing_is_clipped_at_the_worst(rng: np.random.Generator) -> None:
    for dim in (1, 5, 40, 127):
        signs = rng.choice([-1.0, 1.0], (500, dim)) / np.sqrt(dim)  # reaches the bound
        axes = np.concatenate([np.eye(dim), -np.eye(dim)])
        for x in (signs, axes):
            stored = encode(x.astype(np.float32)).astype(np.float64)
            np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 512, rtol=0.006)
            assert stored.max() <= 91
            np.testing.assert_allclose(encode((0.99 * x).astype(np.float32)), stored, atol=1)  # ties


def test_descriptors_like_sift_are_stored_as_colmap_does() -> None:
    x = np.zeros((2, 128), np.float32)
    x[0, 0], x[0, 1] = 0.8, 0.6  # beyond 255 / 512: cut off there, as COLMAP does
    x[1, :4] = 0.5 - 0.001, 0.5, 0.5, 0.5
    assert encode(x)[:, :5].tolist() == [[255, 255, 0, 0, 0], [255, 255, 255, 255, 0]]
    x[:] = np.float32(1 / np.sqrt(128))
    assert (encode(x) == 45).all()


def test_empty_and_huge(tmp_path: Path, rng: np.random.Generator) -> None:
    with raises(DataError, "b.jpg", "129"):
        export_features("colmap", tmp_path / "x", [("b.jpg", random_features(rng, 1, 129))])
    huge = LocalFeatures(np.float32([[3e38, -3e38]]), [3e38], [1], np.float32([[1]]), (1, 1))  # type: ignore[arg-type]
    target = tmp_path / "out"
    export_features("colmap", target, [("none", LocalFeatures.empty((4, 5))), ("huge", huge)])
    assert (target / "none.txt").read_bytes() == b"0 128\n"
    places, _ = slowly_read((target / "huge.txt").read_text())
    assert [np.float32(value) for value in places[0][:3]] == [*huge.keypoints[0], huge.scales[0]]
