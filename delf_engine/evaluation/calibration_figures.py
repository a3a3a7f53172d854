"""How good probabilities are: the expected calibration error, and the area under the ROC curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError

__all__ = ["expected_calibration_error", "roc_auc"]


def expected_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, bins: int = 10) -> float:
    """Return the mean gap between what was promised and what came true, over equal bins of probability.

    Each bin counts by its share of pairs (Guo, Pleiss, Sun and Weinberger, On calibration of modern neural
    networks, 2017).

    Parameters
    ----------
    probabilities : (N,) float in [0, 1]
    labels : (N,) of 0 and 1
    bins : int

    Raises
    ------
    DataError
        If there are none, numbers differ, or a value is out of range.
    ConfigError
        If there is no bin.
    """
    if bins < 1:
        raise ConfigError(f"needs one bin at least, got {bins}")
    p, y = _checked(probabilities, labels)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("probabilities must be from 0 to 1")
    numbers = np.minimum((p * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(numbers, p - y, bins)).sum() / len(p))


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the probability that a pair with label 1 scores above one with label 0, ties counting half.

    Parameters
    ----------
    scores : (N,) float
    labels : (N,) of 0 and 1

    Raises
    ------
    DataError
        If numbers differ, a score is NaN, or a label does not occur.
    """
    s, y = _checked(scores, labels)
    positives = int(y.sum())
    if positives in (0, len(y)):
        raise DataError("the ROC curve needs pairs of both labels")
    _, place, counts = np.unique(s, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[place]  # the mean rank of equal scores
    above = ranks[y == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(y) - positives)))


def _checked(
    values: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    v, y = np.asarray(values, np.float64), np.asarray(labels, np.float64)
    if v.ndim != 1 or v.shape != y.shape or not len(v):
        raise DataError(f"one value and one label a pair are needed, got {v.shape} and {y.shape}")
    if np.isnan(v).any() or not np.isin(y, (0, 1)).all():
        raise DataError("values must be numbers and labels 0 or 1")
    return v, y
