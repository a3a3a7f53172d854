"""How far a probability can be trusted, and how well a score tells pairs apart: calibration error, ROC, AUC.

Pairs are labelled: true where the two photographs show the same place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError
from delf_engine.support.arrays import check_array

Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]


def expected_calibration_error(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10, prior: float | None = None
) -> float:
    """Return the expected calibration error of probabilities, 0 to 1; 0 is best.

    The mean over all pairs of the gap, within the pair's bin, between the mean probability and the share of true
    labels (Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017, with 15 bins there). It depends on the bins: few
    hide what cancels within them, many make noise of small samples look like error. They are of equal width; a bin
    holds its upper edge, and the first one its lower edge too. With a prior, pairs are weighted so that the true
    ones have this share: a calibration promises its probabilities at one prior, and pairs at hand have another.

    A `DataError` if there is no pair, the lengths disagree, a probability lies outside 0 to 1, a label is neither
    true nor false, or there is a prior and a label does not occur; a `ConfigError` if `bins` is below 1, or the
    prior is no share.
    """
    values, truth, of_bin = binned(probabilities, labels, bins)
    weights = np.full(len(truth), 1 / len(truth))
    if prior is not None:
        if not 0 < prior < 1:
            raise ConfigError(f"the prior is a share above 0 and below 1, got {prior}")
        positives = int(truth.sum())
        if positives in (0, len(truth)):
            raise DataError("pairs of both labels are needed to weight them to a prior")
        weights = np.where(truth, prior / positives, (1 - prior) / (len(truth) - positives))
    return float(np.abs(np.bincount(of_bin, weights * (values - truth), bins)).sum())


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the area under the ROC curve, 0 to 1: the chance that a true pair scores above a false one.

    Scores are finite, higher for pairs more likely to be true. Pairs of equal score count half (Fawcett 2006); 0.5
    is what chance gives. A `DataError` if the lengths disagree, a score is not finite, a label is neither true nor
    false, or all labels are the same.
    """
    from sklearn.metrics import roc_auc_score

    values, truth = _checked(scores, labels, "scores")
    if truth.all() or not truth.any():
        raise DataError(f"an ROC needs true and false labels, all {len(truth)} are {str(bool(truth[0])).lower()}")
    return float(roc_auc_score(truth, values))


def binned(
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
