"""The packaged checkpoint on real photographs: floors that a wrong change would break."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import delf_engine as de
from benchmarks.revisited import sub_rparis


@pytest.fixture(scope="module")
def extractor() -> de.Extractor:
    return de.Extractor.from_pretrained("delf-r18", device="cpu")


@pytest.mark.parametrize(
    ("first", "second", "truth"),
    [
        *(("v_dogman/1.jpg", f"v_dogman/{k}.jpg", f"v_dogman/H_1_{k}.txt") for k in range(2, 7)),
        ("graf/grafA.jpg", "graf/grafB.jpg", "graf/H_A_B.txt"),
    ],
)
def test_inliers_are_where_the_true_homography_puts_them(
    data: Path, extractor: de.Extractor, first: str, second: str, truth: str
) -> None:
    folder = data / "homography"
    a, b = extractor(folder / first), extractor(folder / second)
    result = de.verify_features(a, b)
    assert result.same
    points = np.c_[a.keypoints[result.matches[:, 0]], np.ones(result.inliers)] @ np.loadtxt(folder / truth).T
    errors = np.linalg.norm(points[:, :2] / points[:, 2:] - b.keypoints[result.matches[:, 1]], axis=1)
    assert np.median(errors) < 0.03 * max(b.image_size)


def test_same_castle_and_not(data: Path, extractor: de.Extractor) -> None:
    castle = [data / "strecha" / "castle" / f"{i:04}.jpg" for i in (0, 1)]
    fountain = data / "strecha" / "fountain" / "0004.jpg"
    assert de.verify(*castle, extractor=extractor).same
    assert not de.verify(castle[0], fountain, extractor=extractor).same


def test_features_do_not_depend_on_how_they_were_asked_for(data: Path, extractor: de.Extractor) -> None:
    photos = sorted((data / "distractors").glob("*.jpg"))[:6]
    alone = [extractor(p) for p in photos]
    for workers in (1, 2, 4):
        assert [f for _, f in extractor.extract_many(photos, workers=workers)] == alone


@pytest.mark.timeout(900)
def test_sub_rparis_floors(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark script itself, one seed: the figures of the README less what noise can take."""
    out = tmp_path / "out.json"
    options = ["--data", data, "--seeds", 1, "--peers", "--cache", tmp_path / "cache", "--out", out]
    monkeypatch.setattr(sys, "argv", ["sub_rparis", *map(str, options)])
    sub_rparis.main()
    rows = json.loads(out.read_text())["systems"]["delf-r18"]["rows"]
    assert rows["every image, by inliers"]["medium"]["mean_ap"] > 94
    assert rows["every image, by inliers"]["hard"]["mean_ap"] > 75
    assert rows["ASMK, first 100 by inliers"]["medium"]["mean_ap"] > 94
    assert rows["ASMK only"]["medium"]["mean_ap"] > 91.5
    assert rows["KD-tree only"]["medium"]["mean_ap"] > 87
