"""Pictures: they show what they should, refuse what does not fit, and leave pyplot alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc

from delf_engine.errors import ConfigError, DataError, ImageError, MismatchError
from delf_engine.evaluation.calibration_figures import expected_calibration_error, roc_auc
from delf_engine.features import LocalFeatures
from delf_engine.plotting import (
    draw_attention,
    draw_matches,
    draw_ranking,
    draw_reliability,
    draw_roc,
    figure_pixels,
    save_figure,
    save_matches,
)
from delf_engine.verification import Verification, verify_features
from helpers import raises, random_features, random_photo


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[Any, Any, LocalFeatures, LocalFeatures, Verification]:
    """Two grey photographs of different shape with 50 features in common."""
    a = random_features(rng, 50, image_size=(200, 150))
    b = LocalFeatures(a.keypoints * 0.8, a.scales, a.scores, a.descriptors, (160, 240))
    photos = np.full((150, 200, 3), 128, np.uint8), np.full((240, 160, 3), 128, np.uint8)
    return (*photos, a, b, verify_features(a, b))


def coloured(pixels: np.ndarray) -> np.ndarray:
    """Where a picture is neither white nor grey."""
    return np.ptp(pixels.astype(int), axis=2) > 60


def has_colour(pixels: np.ndarray, code: str) -> bool:
    return bool((pixels == [int(code[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2).any())


def test_matches_join_the_photographs(pair: Any) -> None:
    pixels = figure_pixels(draw_matches(*pair))
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    height, width = pixels.shape[:2]
    # Equal heights: A is 200 x 150, B is 160 x 240.
    expected = 560 * (200 / 150 + 160 / 240) + 3 * 16
    assert width == pytest.approx(expected, abs=3)
    gap = slice(round(16 + 560 * 4 / 3) + 2, round(16 + 560 * 4 / 3) + 14)
    assert coloured(pixels[: height - 70, gap]).any(axis=0).all()  # lines cross from one to the other
    assert has_colour(pixels, "#1a7f37")  # the badge: same place


def test_no_matches_draw_no_lines(pair: Any) -> None:
    a, b, features_a, features_b, _ = pair
    nothing = verify_features(features_a.top(0), features_b)
    pixels = figure_pixels(draw_matches(a, b, features_a, features_b, nothing))
    assert not coloured(pixels[: pixels.shape[0] - 70]).any()
    assert has_colour(pixels, "#b35900")
    assert not has_colour(pixels, "#1a7f37")


def test_height_and_caption_of_matches(pair: Any) -> None:
    plain = figure_pixels(draw_matches(*pair, height=100, caption=False))
    assert plain.shape[:2] == (16 + 100 + 16, 16 + 133 + 16 + 67 + 16)
    assert not has_colour(plain, "#1a7f37")
    assert has_colour(figure_pixels(draw_matches(*pair, height=100)), "#1a7f37")
    labelled = figure_pixels(draw_matches(*pair, height=100, caption=False, labels=("a", "b")))
    assert labelled.shape[0] == 16 + 100 + 28
    figure_pixels(draw_matches(*pair, labels=("a_$1.jpg", "b_$x^.jpg")))  # no formulas
    with raises(ConfigError, "height"):
        draw_matches(*pair, height=0)


def test_features_of_other_images_are_refused(pair: Any) -> None:
    a, b, features_a, features_b, found = pair
    with raises(MismatchError, "160 x 240"):
        draw_matches(b, a, features_a, features_b, found)
    with pytest.raises(MismatchError):
        draw_matches(a, b, features_a.top(10), features_b, found)
    with raises(ImageError, "none.jpg"):
        draw_matches("none.jpg", b, features_a, features_b, found)


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_odd_shapes(size: tuple[int, int]) -> None:
    photo = np.full((size[1], size[0], 3), 90, np.uint8)
    features = LocalFeatures.empty(size)
    figure_pixels(draw_matches(photo, photo, features, features, verify_features(features, features)))
    figure_pixels(draw_attention(photo, np.ones((1, 1))))
    figure_pixels(draw_ranking(photo, [photo], ["x"]))


@pytest.mark.parametrize("ending", [".png", ".jpg", ".pdf", ".svg", ".PNG"])
def test_files(ending: str, pair: Any, tmp_path: Path) -> None:
    path = tmp_path / f"matches{ending}"
    save_matches(path, *pair)
    start = path.read_bytes()[:400]
    magic = {".png": b"\x89PNG", ".jpg": b"\xff\xd8\xff", ".pdf": b"%PDF", ".svg": b"<?xml"}[ending.lower()]
    assert start.startswith(magic)
    if ending == ".png":
        with Image.open(path) as image:
            assert image.size == figure_pixels(draw_matches(*pair)).shape[1::-1]


def test_files_that_cannot_be_written(pair: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "x.docx", tmp_path / "x", tmp_path / "no" / "x.png"):
        with raises(ConfigError, str(path)):
            save_matches(path, *pair)


def test_attention_from_a_map_and_from_nothing() -> None:
    photo = np.full((90, 120, 3), 128, np.uint8)
    scores = np.zeros((6, 8))
    scores[:, 4:] = 1
    pixels = figure_pixels(draw_attention(photo, scores, title="a_$b^"))[36:]
    right, left = pixels[300, 16 + 700].astype(int), pixels[300, 16 + 50].astype(int)
    assert np.ptp(right) > 80
    assert np.ptp(left) < 40
    figure_pixels(draw_attention(photo, np.zeros((2, 2))))
    for bad in (np.ones(3), np.full((2, 2), np.nan), np.ones((0, 3))):
        with raises(ConfigError, "scores"):
            draw_attention(photo, bad)


def test_ranking_sheet(rng: np.random.Generator, tmp_path: Path) -> None:
    photos = [random_photo(rng, *size) for size in ((160, 120), (120, 160), (300, 100), (50, 50))]
    captions = ["1. a_b$c.jpg\n80 inliers", "2. " + "very_" * 20 + "long.jpg", "3.", ""]
    photos, captions = photos + photos, captions + captions
    figure = draw_ranking(photos[0], photos, captions, verdicts=["same", "different", None, "unsure"] * 2)
    pixels = figure_pixels(figure)
    assert pixels.shape[0] > 2 * 220
    assert has_colour(pixels, "#1a7f37")
    assert has_colour(pixels, "#afb8c1")
    assert has_colour(pixels, "#9a6700")
    save_figure(figure, tmp_path / "sheet.png")
    one_row = figure_pixels(draw_ranking(photos[0], photos[:4], captions[:4]))
    assert one_row.shape[0] < pixels.shape[0]
    assert not has_colour(one_row, "#1a7f37")
    figure_pixels(draw_ranking(photos[0], [], []))


def test_ranking_sheet_of_the_wrong_kind(rng: np.random.Generator) -> None:
    photo = random_photo(rng)
    with raises(DataError, "2 captions"):
        draw_ranking(photo, [photo], ["a", "b"])
    with raises(DataError, "0 decisions"):
        draw_ranking(photo, [photo], ["a"], verdicts=[])


def all_texts(figure: Any) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


@pytest.fixture
def labelled(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    probabilities = rng.uniform(0, 1, 500) ** 3
    return probabilities, rng.uniform(0, 1, 500) < probabilities**0.5


def test_reliability_shows_its_bins(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    figure = draw_reliability(*labelled)
    _, shares, counts = figure.axes
    bars = [bar for bar in shares.patches if bar.get_width() == pytest.approx(0.1)]
    assert len(bars) == 10
    inside = labelled[0] < 0.1
    assert bars[0].get_height() == pytest.approx(labelled[1][inside].mean())
    assert counts.patches[0].get_height() == inside.sum()
    said, error = all_texts(figure), expected_calibration_error(*labelled, bins=10)
    assert f"calibration error {error:.3f} over 500 pairs in 10 bins" in said
    assert str(inside.sum()) in said
    assert figure_pixels(figure).shape[2] == 3


def test_large_counts_stay_in_their_bins() -> None:
    said = all_texts(draw_reliability(np.repeat([0.05, 0.95], [23_456, 1_234_567]), np.zeros(1_258_023)))
    assert all(part in said for part in ("23k", "1.2M", "1,258,023 pairs"))


def test_roc(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    figure = draw_roc(*labelled)
    _, axes = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"AUC {roc_auc(*labelled):.3f}"]
    x, y = axes.lines[1].get_data()
    assert auc(x, y) == pytest.approx(roc_auc(*labelled))
    figure_pixels(figure)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError):
        draw_roc([1, 2], [1, 1])
    with raises(DataError, "2"):
        draw_reliability([2.0], [1])


def test_same_input_same_picture_in_any_thread(pair: Any) -> None:
    expected = figure_pixels(draw_matches(*pair))
    with ThreadPoolExecutor(3) as threads:
        for pixels in threads.map(lambda _: figure_pixels(draw_matches(*pair)), range(3)):
            assert np.array_equal(pixels, expected)


def test_importing_and_drawing_leave_pyplot_and_torch_alone() -> None:
    code = (
        "import sys, numpy as np\nimport delf_engine.plotting as p\n"
        "assert 'matplotlib' not in sys.modules\n"
        "p.figure_pixels(p.draw_attention(np.zeros((20, 20, 3), np.uint8), np.ones((2, 2))))\n"
        "p.figure_pixels(p.draw_roc([1, 2], [0, 1]))\np.figure_pixels(p.draw_reliability([0.5], [1]))\n"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
