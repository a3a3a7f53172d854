"""`examples/the_whole_thing.py`, plain NumPy and torch, holds the package to the method, on real photographs."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_sample_image

import delf_engine as de
from delf_engine.verification.order import goes_first

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "the_whole_thing.py"
CHECKPOINTS = Path(de.__file__).parent / "checkpoints"


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("the_whole_thing", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two photographs, and two further views of each, turned and squeezed."""
    folder = tmp_path_factory.mktemp("photos")
    out = {}
    for name in ("china", "flower"):
        image = load_sample_image(f"{name}.jpg")
        height, width = image.shape[:2]
        corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
        for view, shift in enumerate((0.0, 0.08, 0.15)):
            moved = corners + np.float32([[60, 20], [-20, 50], [-70, -10], [30, -60]]) * shift * 4
            H = cv2.getPerspectiveTransform(corners, moved)
            out[f"{name}{view}"] = folder / f"{name}{view}.png"
            shown = cv2.warpPerspective(image, H, (width, height), borderMode=cv2.BORDER_REFLECT)
            Image.fromarray(shown).save(out[f"{name}{view}"])
    return out


@pytest.fixture(scope="module")
def features(photos: dict[str, Path]) -> dict[str, de.LocalFeatures]:
    profile = de.load_profile("default")
    config = profile.extraction.model_copy(update={"precision": "fp32"})
    extractor = de.Extractor.from_pretrained("delf-r18", config=config)
    return {name: extractor(path) for name, path in photos.items()}


def test_features(plain: ModuleType, photos: dict[str, Path], features: dict[str, de.LocalFeatures]) -> None:
    network = plain.Network(CHECKPOINTS / "delf-r18.safetensors")
    for name in ("china0", "flower1"):
        ours, theirs = features[name], plain.extract(plain.read(photos[name]), network)
        assert theirs.image_size == ours.image_size
        assert len(theirs.scores) == len(ours)
        np.testing.assert_allclose(theirs.scores, ours.scores, rtol=1e-3)
        # Of nearly equal scores another cell may come first, so cells are named by where they lie.
        cells = [np.column_stack([f.keypoints, f.scales]).astype(np.float64) for f in (ours, theirs)]
        near = np.abs(cells[0][:, None] - cells[1]).max(axis=2) < 1e-3
        shared = np.argwhere(near)
        assert len(shared) >= 0.99 * len(ours)
        cosines = (ours.descriptors[shared[:, 0]] * theirs.descriptors[shared[:, 1]]).sum(axis=1)
        assert cosines.min() > 0.9999


@pytest.fixture(scope="module")
def words() -> npt.NDArray[np.float64]:
    """Every eighth of the checkpoint's: the plain way compares with each."""
    return load_file(CHECKPOINTS / "delf-r18.codebook.safetensors")["centroids"][::8].astype(np.float64)


def test_asmk(plain: ModuleType, features: dict[str, de.LocalFeatures], words: npt.NDArray[np.float64]) -> None:
    codebook = de.Codebook(words)
    config = de.load_profile("default").asmk.model_copy(update={"assignment": "exact"})
    index = de.AsmkIndex(codebook, config)
    index.add(list(features), list(features.values()))
    aggregates = {name: plain.aggregate(each, words, 1) for name, each in features.items()}
    for query in ("china1", "flower2"):
        asked = plain.aggregate(features[query], words, plain.QUERY_WORDS)
        scores = {name: plain.asmk(asked, each) for name, each in aggregates.items()}
        ids, found = index.search(features[query], len(features))
        np.testing.assert_allclose(found, [scores[name] for name in ids], rtol=1e-5, atol=1e-9)
        assert len(ids) == sum(score > 0 for score in scores.values())


def test_verification(plain: ModuleType, features: dict[str, de.LocalFeatures]) -> None:
    counts = []
    for a, b in (("china0", "china2"), ("china2", "china1"), ("flower0", "flower1"), ("china0", "flower2")):
        first, second = (b, a) if goes_first(features[b], features[a]) else (a, b)  # the plain way has one order
        ours = de.verify_features(features[first], features[second])
        pairs, model = plain.verify(features[first], features[second])
        assert len(plain.match(features[a], features[b])) == ours.putative
        np.testing.assert_array_equal(pairs, ours.matches)
        if ours.transform is not None:
            # These photographs are not above 1,024 pixels: nothing is shrunk.
            np.testing.assert_allclose(model, ours.transform, rtol=1e-6, atol=1e-6)
        counts.append(ours.inliers)
    assert min(counts[:3]) > 100 > 30 > counts[3]


def test_ranking(
    plain: ModuleType,
    photos: dict[str, Path],
    features: dict[str, de.LocalFeatures],
    words: npt.NDArray[np.float64],
    tmp_path: Path,
) -> None:
    found = plain.search(features["china0"], features, words)
    with de.Engine.create(tmp_path / "engine") as engine:
        engine.add_features(features.items())
        hits = {hit.id: hit for hit in engine.search(photos["china0"], top_k=len(photos))}
    same = [name for name, inliers, _ in found if inliers >= plain.MIN_INLIERS]
    assert set(same) == {"china0", "china1", "china2"} == {i for i, hit in hits.items() if hit.verification.same}
    assert found[0][0] == "china0" == next(iter(hits))


def test_the_script_runs(
    photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [SCRIPT, photos["china1"], photos["flower0"], photos["china0"]]
    monkeypatch.setattr(sys, "argv", list(map(str, given)))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(photos["china0"]), str(photos["flower0"])]
    assert "the same place" in lines[0]
    assert "another place" in lines[1]
    assert all(re.search(r"\d+ inliers, ASMK 0\.\d+", line) for line in lines)
    assert len(SCRIPT.read_text().splitlines()) <= 315
