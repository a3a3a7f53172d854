"""The script itself on the real photographs: floors that a wrong change would break."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.extraction import confirmation
from benchmarks.peers import aliked
from benchmarks.verification.homography import homography_pairs, planar_figures


@pytest.fixture
def some(data: Path, tmp_path: Path) -> Path:
    """The data folder with five photographs of each of Strecha's scenes."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "homography").symlink_to(data / "homography")
    for cameras in (data / "strecha").glob("*/cameras.json"):
        scene = folder / "strecha" / cameras.parent.name
        scene.mkdir(parents=True)
        kept = dict(sorted(json.loads(cameras.read_text()).items())[:5])
        (scene / "cameras.json").write_text(json.dumps(kept))
        for name in kept:
            (scene / name).symlink_to(cameras.parent / name)
    return folder


@pytest.mark.timeout(900)
def test_confirmation_floors(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    options = ["--data", some, "--peers", "rootsift", "--seeds", "1", "--samples", "100", "--workers", "1"]
    options += ["--cache", tmp_path / "cache", "--out", out]
    monkeypatch.setattr(sys, "argv", ["confirmation", *map(str, options)])
    confirmation.main()
    result = json.loads(out.read_text())
    ours, sift = result["strecha"]["delf-r18"]["inliers"], result["strecha"]["RootSIFT"]["inliers"]
    assert ours["accepted"]["all"] > 0.95
    assert sift["accepted"]["0-15"] > 0.8
    low, high = ours["interval_95"]
    assert 0.8 < low <= high <= 1
    planes = result["homography"]
    assert planes["delf-r18"]["scenes"]["v_dogman"]["matching_score"] > 0.07
    assert planes["RootSIFT"]["scenes"]["v_dogman"]["matching_accuracy"] > 0.4
    assert 0.25 < planes["points at random"]["scenes"]["graf"]["repeatability"] < 0.5


def test_aliked_of_the_true_weights_matches_a_plane(shared: Path) -> None:
    """Weights that had not been loaded would match next to nothing."""
    weights = shared / "weights" / "aliked-n16.safetensors"
    if not weights.is_file():
        pytest.skip(f"no weights of ALIKED: {weights} is missing")
    pytest.importorskip("kornia.feature")
    folder = shared / "data" / "homography"
    pair = homography_pairs(folder)[0]
    extract = aliked(weights)
    features = {name: extract(folder / name) for name in (pair.first, pair.second)}
    (figures,) = planar_figures(features, [pair]).values()
    assert figures["features"] == 1000
    assert figures["matching_score"] > 0.4
    assert figures["matching_accuracy"] > 0.7
