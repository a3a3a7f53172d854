"""Matches for hloc and COLMAP, read again as these programs do it: h5py's groups, and the real pycolmap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delf_engine.errors import ConfigError, DataError, DelfEngineWarning, FormatError
from delf_engine.features import LocalFeatures
from delf_engine.interchange import export_matches, read_hloc
from delf_engine.verification import Verification
from helpers import raises, random_features

AFFINE = np.array([[1.1, 0.1, 5], [-0.2, 0.9, 3], [0, 0, 1]])
FUNDAMENTAL = np.array([[0, 0, 0.1], [0, 0, -0.7], [-0.1, 0.7, 0.2]]) / 2
NAMES = ["db/a.jpg", "db/b.jpg", "q/c.jpg"]


def pair(matches: Any, transform: npt.NDArray[np.float64] | None = AFFINE, model: str = "affine") -> Verification:
    matches = np.array(matches, np.int32).reshape(-1, 2)
    return Verification(
        model=model,
        transform=transform,
        matches=matches,
        similarities=np.linspace(1, 0.5, len(matches), dtype=np.float32),
        putative=len(matches),
        residual_px=10.0,
        reference_size=None,
        min_inliers=3,
        similarity=1.0,
        exponent=3.0,
    )


@pytest.fixture
def features(rng: np.random.Generator) -> dict[str, LocalFeatures]:
    return {name: random_features(rng, 20 + k, image_size=(640 + k, 480)) for k, name in enumerate(NAMES)}


@pytest.fixture
def pairs() -> list[tuple[str, str, Verification]]:
    return [
        (NAMES[2], NAMES[0], pair([(k, k + 2) for k in range(16)])),
        (NAMES[0], NAMES[1], pair([(3, 4), (5, 1)], FUNDAMENTAL, "fundamental")),
        (NAMES[2], NAMES[1], pair([], None)),
    ]


@pytest.mark.parametrize(("kind", "target"), [("hloc", "folder"), ("colmap", "a.db")])
def test_a_pair_whose_name_is_not_utf_8_is_left_out(
    kind: str, target: str, features: Any, pairs: Any, tmp_path: Path
) -> None:
    pytest.importorskip("h5py" if kind == "hloc" else "pycolmap")
    features["x\udc80"] = features[NAMES[1]]
    told = [(NAMES[0], "x\udc80", pair([])), *pairs]
    with pytest.warns(DelfEngineWarning, match=r"'x\\udc80'"):
        assert export_matches(kind, tmp_path / target, told, features.__getitem__) == 3


def test_hloc(features: Any, pairs: Any, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "hloc"
    assert export_matches("hloc", folder, pairs, features.__getitem__) == 3
    assert dict(read_hloc(folder / "features.h5")) == features
    assert (folder / "pairs.txt").read_text().split("\n") == [*(f"{a} {b}" for a, b, _ in pairs), ""]
    with h5py.File(folder / "matches.h5", "r") as file:
        for a, b, found in pairs:  # as hloc's get_matches
            group = file[a.replace("/", "-")][b.replace("/", "-")]
            matches, scores = group["matches0"][()], group["matching_scores0"][()]
            assert matches.shape == scores.shape == (len(features[a]),)
            index = np.where(matches != -1)[0]
            order = np.argsort(found.matches[:, 0])
            np.testing.assert_array_equal(np.stack([index, matches[index]], -1), found.matches[order])
            np.testing.assert_allclose(scores[index], found.similarities[order], atol=1e-3)
    with raises(FormatError, "hloc"):
        export_matches("hloc", folder, pairs, features.__getitem__)
    assert export_matches("hloc", folder, pairs[:1], features.__getitem__, replace=True) == 1
    for names, fact in ((("a b.jpg", "c.jpg"), "'a b.jpg'"),):
        with raises(DataError, fact):
            export_matches("hloc", tmp_path / "x", [(*names, pairs[0][2])], lambda _: features[NAMES[2]])
    alike = [("x/a", "y", pair([])), ("x-a", "y", pair([]))]
    with raises(DataError, "'x-a/y'"):
        export_matches("hloc", tmp_path / "y", alike, lambda _: features[NAMES[0]])


def test_colmap(features: Any, pairs: Any, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="needs delf-engine[colmap]")
    path = tmp_path / "colmap" / "database.db"
    assert export_matches("colmap", path, pairs, features.__getitem__) == 3
    assert list(path.parent.iterdir()) == [path]
    database = pycolmap.Database.open(path)
    try:
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        assert set(numbers) == set(NAMES)
        for name, number in numbers.items():
            camera = database.read_camera(database.read_image(number).camera_id)
            assert (camera.width, camera.height) == features[name].image_size
            assert not camera.has_prior_focal_length
            keypoints = database.read_keypoints(number)
            np.testing.assert_allclose(keypoints[:, :2], features[name].keypoints + 0.5, atol=1e-4)
            np.testing.assert_array_equal(keypoints[:, 2], features[name].scales)
        for a, b, found in pairs:
            read = database.read_matches(numbers[a], numbers[b])
            np.testing.assert_array_equal(read.reshape(-1, 2), found.matches)
            geometry = database.read_two_view_geometry(numbers[a], numbers[b])
            np.testing.assert_array_equal(geometry.inlier_matches.reshape(-1, 2), found.matches)
            check_geometry(geometry, found)
        options = pycolmap.DatabaseCacheOptions()
        options.min_num_matches = 15
        assert pycolmap.DatabaseCache.create(database, options).num_images() == 2  # as its mapper loads them
    finally:
        database.close()
    with raises(FormatError, str(path)):
        export_matches("colmap", path, pairs, features.__getitem__)
    assert export_matches("colmap", path, pairs[:1], features.__getitem__, replace=True) == 1


def check_geometry(geometry: Any, found: Verification) -> None:
    """Compare what is mapped, or the residuals, at points half a pixel further."""
    points = np.array([[0, 0, 1], [100, 50, 1], [30, 400, 1]], float).T
    others = np.array([[10, 7, 1], [90, 60, 1], [35, 390, 1]], float).T
    half = np.array([[0.5], [0.5], [0]])
    if found.transform is None:
        assert geometry.config == 1  # degenerate
    elif found.model == "affine":
        np.testing.assert_allclose(geometry.H @ (points + half), found.transform @ points + half)
    else:
        wanted = (others * (found.transform @ points)).sum(axis=0)
        np.testing.assert_allclose(((others + half) * (geometry.F @ (points + half))).sum(axis=0), wanted)


def test_what_cannot_be_written(features: Any, pairs: Any, tmp_path: Path) -> None:
    a, b, found = pairs[0]
    for wrong, facts in (
        ([(a, b, found), (b, a, found)], [a, b]),
        ([(a, "./" + a, found)], [a]),
        ([(a, b, replace(found, rotation=90))], [a, "90"]),
        ([(a, b, pair([(len(features[a]), 0)]))], ["22", "20"]),
    ):
        with raises(DataError, *facts):
            export_matches("colmap", tmp_path / "x.db", wrong, lambda name: features[name.removeprefix("./")])
    with raises(ConfigError, "'delf'"):
        export_matches("delf", tmp_path / "x", pairs, features.__getitem__)
    assert list(tmp_path.iterdir()) == []


def test_without_pycolmap(features: Any, pairs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    with raises(ConfigError, "delf-engine[colmap]"):
        export_matches("colmap", tmp_path / "x.db", pairs, features.__getitem__)
    assert list(tmp_path.iterdir()) == []
