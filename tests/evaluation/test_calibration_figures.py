"""Figures of probabilities against their definitions: calibration error, log loss and area under the ROC curve."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delf_engine.errors import ConfigError, DataError
from delf_engine.evaluation.calibration_at_prior import calibration_error_at_prior, log_loss_at_prior
from delf_engine.evaluation.calibration_figures import expected_calibration_error, roc_auc

PAIRS = st.lists(
    st.tuples(st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(0, 1)), st.booleans()), min_size=1
)


def error_oracle(p: list[float], labels: list[bool], weights: list[float], bins: int) -> float:
    total = 0.0
    for k in range(bins):
        inside = [i for i, v in enumerate(p) if min(int(v * bins), bins - 1) == k]
        weight = sum(weights[i] for i in inside)
        if weight:
            promised = sum(weights[i] * p[i] for i in inside) / weight
            came = sum(weights[i] * labels[i] for i in inside) / weight
            total += weight / sum(weights) * abs(promised - came)
    return total


@given(pairs=PAIRS, bins=st.sampled_from([1, 2, 10, 15]))
def test_expected_calibration_error(pairs: list[tuple[float, bool]], bins: int) -> None:
    p, labels = [v for v, _ in pairs], [y for _, y in pairs]
    expected = error_oracle(p, labels, [1.0] * len(p), bins)
    assert expected_calibration_error(p, labels, bins=bins) == pytest.approx(expected, abs=1e-12)


@given(pairs=PAIRS, prior=st.floats(0.01, 0.99), bins=st.sampled_from([1, 10]))
def test_figures_at_a_prior(pairs: list[tuple[float, bool]], prior: float, bins: int) -> None:
    p, labels = [v for v, _ in pairs], [y for _, y in pairs]
    positives = sum(labels)
    if positives in (0, len(p)):
        with pytest.raises(DataError, match="both labels"):
            calibration_error_at_prior(p, labels, prior=prior)
        return
    weights = [prior / positives if y else (1 - prior) / (len(p) - positives) for y in labels]
    expected = error_oracle(p, labels, weights, bins)
    assert calibration_error_at_prior(p, labels, prior=prior, bins=bins) == pytest.approx(expected, abs=1e-12)
    own = positives / len(p)
    unweighted = expected_calibration_error(p, labels)
    assert calibration_error_at_prior(p, labels, prior=own) == pytest.approx(unweighted, abs=1e-12)
    right = [v if y else 1 - v for v, y in pairs]
    loss = sum(w * (-math.log(r) if r else math.inf) for w, r in zip(weights, right, strict=True))
    assert log_loss_at_prior(p, labels, prior=prior) == pytest.approx(loss)


@given(
    positives=st.lists(st.one_of(st.integers(0, 4), st.floats(allow_nan=False)), min_size=1, max_size=20),
    negatives=st.lists(st.one_of(st.integers(0, 4), st.floats(allow_nan=False)), min_size=1, max_size=20),
)
def test_area_counts_pairs_in_the_right_order(positives: list[float], negatives: list[float]) -> None:
    wins = sum((a > b) + 0.5 * (a == b) for a in positives for b in negatives)
    scores: npt.NDArray[np.float64] = np.array([*positives, *negatives], np.float64)
    labels = [1] * len(positives) + [0] * len(negatives)
    assert roc_auc(scores, labels) == pytest.approx(wins / (len(positives) * len(negatives)))


def test_refusals() -> None:
    for p, labels in (([], []), ([0.5], [1, 0]), ([[0.5]], [[1]]), ([math.nan], [1]), ([0.5], [2]), ([1.5], [1])):
        with pytest.raises(DataError):
            expected_calibration_error(p, labels)
        with pytest.raises(DataError):
            calibration_error_at_prior(p, labels, prior=0.5)
    with pytest.raises(DataError, match="both labels"):
        roc_auc([0.1, 0.2], [1, 1])
    for bins, prior in ((0, 0.5), (10, 0.0), (10, 1.0), (10, math.nan)):
        with pytest.raises(ConfigError):
            calibration_error_at_prior([0.1, 0.2], [1, 0], prior=prior, bins=bins)
    with pytest.raises(ConfigError):
        expected_calibration_error([0.1], [1], bins=0)
