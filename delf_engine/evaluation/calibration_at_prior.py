"""Calibration errors at a prior: as if pairs of one place had this share, whatever share they have."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, DataError

__all__ = ["calibration_error_at_prior", "log_loss_at_prior"]

Float64 = npt.NDArray[np.float64]


def calibration_error_at_prior(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, prior: float, bins: int = 10
) -> float:
    """Return the expected calibration error with pairs of label 1 weighted to the share `prior`.

    A calibration promises its probabilities at one prior. Pairs at hand have another: among all pairs of a
    collection few show one place.

    Parameters
    ----------
    probabilities : (N,) float in [0, 1]
    labels : (N,) of 0 and 1
        Both occur.
    prior : float
        Above 0 and below 1.
    bins : int
        Of equal width.

    Raises
    ------
    DataError
        If numbers differ, a value is out of range, or a label does not occur.
    ConfigError
        If `prior` or `bins` is out of range.
    """
    p, y, weights = _weighted(probabilities, labels, prior)
    if bins < 1:
        raise ConfigError(f"needs one bin at least, got {bins}")
    numbers = np.minimum((p * bins).astype(np.int64), bins - 1)
    return float(np.abs(np.bincount(numbers, weights * (p - y), bins)).sum())


def log_loss_at_prior(probabilities: npt.ArrayLike, labels: npt.ArrayLike, *, prior: float) -> float:
    """Return the mean of -ln P(label), in nats, with pairs of label 1 weighted to the share `prior`.

    It is a proper score: nothing but the true probabilities has a lower expectation. 0 and 1 are infinitely wrong
    where they are wrong.

    Parameters and errors are those of `calibration_error_at_prior`.
    """
    p, y, weights = _weighted(probabilities, labels, prior)
    with np.errstate(divide="ignore"):
        return float((weights * -np.log(np.where(y == 1, p, 1 - p))).sum())


def _weighted(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, prior: float
) -> tuple[Float64, Float64, Float64]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if p.ndim != 1 or p.shape != y.shape:
        raise DataError(f"one probability and one label a pair are needed, got {p.shape} and {y.shape}")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise DataError("probabilities must be from 0 to 1 and labels 0 or 1")
    if not 0 < prior < 1:
        raise ConfigError(f"the prior is a share above 0 and below 1, got {prior}")
    positives = np.count_nonzero(y)
    if positives in (0, len(y)):
        raise DataError("pairs of both labels are needed to weight them to a prior")
    return p, y, np.where(y == 1, prior / positives, (1 - prior) / (len(y) - positives))
