"""How far a probability can be trusted, and how well a score tells pairs apart: calibration error, ROC, AUC.

Pairs are labelled: true where the two photographs show the same place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.support.arrays import check_array

Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


class Reliability(NamedTuple):
    """Probabilities in bins of equal width, beside how often they came true.

    `edges`, (B + 1,), go from 0 to 1; a bin holds its upper edge, and the first one its lower edge too. `counts`,
    (B,) int64, are pairs; `mean_probability` is the mean over the pairs of each bin and `share` how many of them
    have a true label, (B,) float64, NaN for an empty bin. `error` is the `expected_calibration_error`.
    """

    edges: Float64
    counts: npt.NDArray[np.int64]
    mean_probability: Float64
    share: Float64
    error: float


class RocCurve(NamedTuple):
    """Corners of a receiver operating characteristic, from (0, 0) to (1, 1).

    The rates, (K,) float64, are the shares of the false and of the true pairs whose score is at least the
    threshold. Thresholds, (K,), descend: the first is infinite, the others are the different scores. `auc` is the
    area under the curve: the chance that a true pair scores above a false one, equal scores counting half.
    """

    false_positive_rate: Float64
    true_positive_rate: Float64
    thresholds: Float64
    auc: float


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> Reliability:
    """Sort probabilities into bins of equal width and count how many came true.

    Parameters
    ----------
    probabilities : (N,) float
        Of the label being true, 0 to 1.
    labels : (N,) bool, or 0 and 1
    bins : int
        At least 1, which else is a `ConfigError`.

    Raises
    ------
    DataError
        If there is no pair, the lengths disagree, a probability lies outside 0 to 1, or a label is neither true
        nor false.
    """
    values, truth, of_bin = _binned(probabilities, labels, bins)
    counts = np.bincount(of_bin, minlength=bins)
    with np.errstate(invalid="ignore"):  # an empty bin has NaN
        mean_probability, share = (np.bincount(of_bin, weights, bins) / counts for weights in (values, truth))
    error = expected_calibration_error(values, truth, bins=bins)
    return Reliability(np.linspace(0, 1, bins + 1), counts, mean_probability, share, error)


def expected_calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10, prior: float | None = None
) -> float:
    """Return the expected calibration error of probabilities, 0 to 1; 0 is best.

    The mean over all pairs of the gap, within the pair's bin, between the mean probability and the share of true
    labels (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, with 15 bins there). It depends on the bins: few
    hide what cancels within them, many make noise of small samples look like error.

    Parameters
    ----------
    probabilities, labels, bins
        See `reliability`.
    prior : float or None
        Pairs are weighted so that the true ones have this share: a calibration promises its probabilities at one
        prior, and pairs at hand have another. None: as they are.

    Raises
    ------
    DataError, ConfigError
        As `reliability` does, and if there is a prior that is no share, or a label does not occur.
    """
    values, truth, of_bin = _binned(probabilities, labels, bins)
    weights = np.full(len(truth), 1 / len(truth))
    if prior is not None:
        if not 0 < prior < 1:
            raise ConfigError(f"the prior is a share above 0 and below 1, got {prior}")
        positives = int(truth.sum())
        if positives in (0, len(truth)):
            raise DataError("pairs of both labels are needed to weight them to a prior")
        weights = np.where(truth, prior / positives, (1 - prior) / (len(truth) - positives))
    return float(np.abs(np.bincount(of_bin, weights * (values - truth), bins)).sum())


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
    from sklearn import metrics

    values, truth = _checked(scores, labels, "scores")
    if truth.all() or not truth.any():
        raise DataError(f"an ROC needs true and false labels, all {len(truth)} are {str(bool(truth[0])).lower()}")
    false, true, thresholds = metrics.roc_curve(truth, values, drop_intermediate=False)
    return RocCurve(false, true, thresholds, float(metrics.auc(false, true)))


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, 0 to 1; 0.5 is what chance gives. See `roc_curve`."""
    return roc_curve(scores, labels).auc


def _binned(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int
) -> tuple[Float64, Labels, npt.NDArray[np.int64]]:
    """Return probabilities, labels, and the bin of each pair as scikit-learn's calibration_curve has it."""
    if bins < 1:
        raise ConfigError(f"bins must be at least 1, got {bins}")
    values, truth = _checked(probabilities, labels, "probabilities")
    _refuse((values < 0) | (values > 1), values, "probabilities must lie from 0 to 1")
    return values, truth, np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], values)


def _checked(values: npt.ArrayLike, labels: npt.ArrayLike, name: str) -> tuple[Float64, Labels]:
    numbers = check_array(name, values, np.float64, (None,), error=DataError)
    answers = check_array("labels", labels, np.float64, (len(numbers),), error=DataError)
    if not len(numbers):
        raise DataError(f"{name} are empty: there is no pair to count")
    _refuse((answers != 0) & (answers != 1), answers, "labels must be true or false (1 or 0)")
    return numbers, answers == 1


def _refuse(wrong: Labels, values: Float64, rule: str) -> None:
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(f"{rule}, number {place} is {values[place]:g}")
