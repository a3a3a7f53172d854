"""How far a probability can be trusted, and how well a score tells pairs apart: calibration error, ROC, AUC.

Pairs are labelled: true where the two photographs show the same place. Every figure has the same bits for any
order of the pairs: sums are rounded once, areas are counted in whole numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError

__all__ = ["Reliability", "RocCurve", "expected_calibration_error", "reliability", "roc_auc", "roc_curve"]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Probabilities in bins of equal width, beside how often they came true.

    Attributes
    ----------
    edges : (B + 1,) float64
        From 0 to 1; a bin holds its lower edge, and the last one its upper edge too.
    counts, positives : (B,) int64
        Pairs in each bin, and those of them with a true label.
    mean_probability : (B,) float64
        Over the pairs of each bin; NaN for an empty one.
    share : (B,) float64
        `positives` over `counts`; NaN for an empty bin.
    """

    edges: Floats
    counts: Counts
    positives: Counts
    mean_probability: Floats
    share: Floats

    @property
    def error(self) -> float:
        """The expected calibration error, see `expected_calibration_error`."""
        filled = self.counts > 0
        gaps = np.abs(self.share - self.mean_probability)[filled]
        return math.fsum((self.counts[filled] / self.counts.sum() * gaps).tolist())


@dataclass(frozen=True, eq=False)
class RocCurve:
    """Corners of a receiver operating characteristic, from (0, 0) to (1, 1).

    Attributes
    ----------
    false_positive_rate, true_positive_rate : (K,) float64
        Shares of the false and of the true pairs whose score is at least the threshold.
    thresholds : (K,) float64
        Descending; the first is infinite, the others are the different scores.
    auc : float
        Area under the curve: the chance that a true pair scores above a false one, equal scores counting half.
    """

    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats
    auc: float


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> Reliability:
    """Sort probabilities into bins of equal width and count how many came true.

    Parameters
    ----------
    probabilities : (N,) float
        Of the label being true, 0 to 1.
    labels : (N,) bool, or 0 and 1
    bins : int
        At least 1.

    Raises
    ------
    DataError
        If there is no pair, the lengths disagree, a probability lies outside 0 to 1, or a label is neither true
        nor false.
    ConfigError
        If `bins` is below 1.
    """
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    values, truth = _checked(probabilities, labels, "probabilities")
    outside = (values < 0) | (values > 1)
    if outside.any():
        place = int(outside.argmax())
        raise DataError(f"probabilities must lie from 0 to 1, number {place} is {values[place]}")
    edges = np.arange(bins + 1) / bins  # rounded as the decimals i / bins are; linspace is not
    of_bin = np.minimum(np.searchsorted(edges, values, side="right") - 1, bins - 1)
    counts = np.bincount(of_bin, minlength=bins)
    positives = np.bincount(of_bin[truth], minlength=bins)
    sums = np.array([math.fsum(values[of_bin == i].tolist()) for i in range(bins)])
    with np.errstate(invalid="ignore"):
        return Reliability(edges, counts, positives, sums / counts, positives / counts)


def expected_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> float:
    """Return the expected calibration error of probabilities, 0 to 1; 0 is best.

    The mean over all pairs of the gap, within the pair's bin, between the mean probability and the share of true
    labels (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, with 15 bins there). It depends on the bins: few
    hide what cancels within them, many make noise of small samples look like error.

    Parameters
    ----------
    probabilities, labels, bins
        See `reliability`.

    Raises
    ------
    DataError, ConfigError
        As `reliability` does.
    """
    return reliability(probabilities, labels, bins=bins).error


def roc_curve(scores: npt.ArrayLike, labels: npt.ArrayLike) -> RocCurve:
    """Return the receiver operating characteristic of scores, higher ones for pairs more likely to be true.

    Pairs of equal score enter together, so that their order does not matter (Fawcett 2006).

    Parameters
    ----------
    scores : (N,) float
        Finite.
    labels : (N,) bool, or 0 and 1

    Raises
    ------
    DataError
        If the lengths disagree, a score is not finite, a label is neither true nor false, or all labels are the
        same.
    """
    values, truth = _checked(scores, labels, "scores")
    if truth.all() or not truth.any():
        raise DataError(f"an ROC needs true and false labels, all {len(truth)} are {str(bool(truth[0])).lower()}")
    thresholds, of_score = np.unique(values, return_inverse=True)
    false = np.bincount(of_score[~truth], minlength=len(thresholds))[::-1].cumsum()
    true = np.bincount(of_score[truth], minlength=len(thresholds))[::-1].cumsum()
    false, true = np.r_[0, false], np.r_[0, true]
    area = int((np.diff(false) * (true[1:] + true[:-1])).sum())  # twice the area, in pairs of pairs
    return RocCurve(
        false / false[-1],
        true / true[-1],
        np.r_[np.inf, thresholds[::-1]],
        area / (2 * int(false[-1]) * int(true[-1])),
    )


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, 0 to 1; 0.5 is what chance gives.

    Parameters
    ----------
    scores, labels
        See `roc_curve`.

    Raises
    ------
    DataError
        As `roc_curve` does.
    """
    return roc_curve(scores, labels).auc


def _checked(values: npt.ArrayLike, labels: npt.ArrayLike, name: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    try:
        numbers = np.asarray(values, np.float64)
        answers = np.asarray(labels, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} and labels must be arrays of numbers: {error}") from error
    if numbers.ndim != 1 or numbers.shape != answers.shape:
        raise DataError(f"{name} and labels must be (N,) arrays, got {numbers.shape} and {answers.shape}")
    if not len(numbers):
        raise DataError(f"{name} are empty: there is no pair to count")
    if not np.isfinite(numbers).all():
        place = int((~np.isfinite(numbers)).argmax())
        raise DataError(f"{name} must be finite, number {place} is {numbers[place]}")
    wrong = (answers != 0) & (answers != 1)
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(f"labels must be true or false (1 or 0), number {place} is {answers[place]:g}")
    return numbers, answers == 1
