"""Reliability diagrams and ROC curves: the drawn figures are the computed ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.calibration_figures import expected_calibration_error, roc_auc
from delf_engine.plotting import draw_reliability, draw_roc, figure_pixels


def all_texts(figure: Any) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[1].get_legend().get_texts()]


@pytest.fixture
def pairs(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    probabilities = rng.uniform(0, 1, 500) ** 3
    return probabilities, rng.uniform(0, 1, 500) < probabilities**0.5


def test_reliability_shows_its_bins(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    figure = draw_reliability(*pairs, bins=5, title="a_$b^")
    _, shares, counts = figure.axes
    bars = [bar for bar in shares.patches if bar.get_width() == pytest.approx(0.2)]
    assert len(bars) == 5
    inside = pairs[0] < 0.2
    assert bars[0].get_height() == pytest.approx(pairs[1][inside].mean())
    assert counts.patches[0].get_height() == inside.sum()
    said = all_texts(figure)
    assert f"calibration error {expected_calibration_error(*pairs, bins=5):.3f} over 500 pairs in 5 bins" in said
    assert str(inside.sum()) in said
    assert figure_pixels(figure).shape[2] == 3


@pytest.mark.parametrize(("values", "labels"), [([0.5], [1]), ([0.0, 0.0], [0, 1]), ([1.0] * 3, [1, 1, 1])])
def test_few_pairs_are_drawn(values: list[float], labels: list[int]) -> None:
    for bins in (1, 10, 40):
        figure_pixels(draw_reliability(values, labels, bins=bins))


def test_large_counts_stay_in_their_bins() -> None:
    said = all_texts(draw_reliability(np.repeat([0.05, 0.95], [23_456, 1_234_567]), np.zeros(1_258_023)))
    assert "23k" in said
    assert "1.2M" in said
    assert "1,258,023 pairs" in said


def test_roc_draws_one_curve_or_several(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    one = draw_roc(*pairs, title="ROC")
    assert legend(one) == [f"AUC {roc_auc(*pairs):.3f}"]
    scores = {"inliers $x_^": pairs[0], "chance": np.zeros(500), "n" * 60: -pairs[0]}
    several = draw_roc(scores, pairs[1])
    first, second, third = legend(several)
    assert first.startswith("inliers $x_^ (AUC")
    assert second == "chance (AUC 0.500)"
    assert "…" in third
    figure_pixels(several)
    own = draw_roc({"a": [1, 2], "b": [3, 4, 5]}, {"a": [0, 1], "b": [1, 0, 0]})
    assert legend(own) == ["a (AUC 1.000)", "b (AUC 0.000)"]
    figure_pixels(draw_roc({str(i): [i, 0] for i in range(1, 20)}, [1, 0]))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError):
        draw_roc({}, [1])
    with pytest.raises(DataError, match="'b'"):
        draw_roc({"b": [1, 2]}, {"a": [0, 1]})
    with pytest.raises(DataError, match="'b'"):
        draw_roc({"b": [1, 2]}, [1, 1])
    with pytest.raises(DataError, match="2"):
        draw_reliability([2.0], [1])
    with pytest.raises(ConfigError, match="bins"):
        draw_reliability([0.5], [1], bins=0)


def test_pyplot_and_torch_are_left_alone() -> None:
    code = (
        "import sys\nimport delf_engine.plotting as p\n"
        "p.figure_pixels(p.draw_roc([1, 2], [0, 1]))\np.figure_pixels(p.draw_reliability([0.5], [1]))\n"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
