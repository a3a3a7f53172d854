"""Numba kernel of Fisher vectors. Imported only by functions that run it: numba takes a while to load.

Sums are in float64 and in the order of the descriptors: an image has the same bits whatever else is encoded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["gradients"]


@njit(cache=True, nogil=True)
def gradients(descriptors: Any, logs: Any, means: Any, inverse: Any, out: Any) -> None:
    """Sum the gradients of the log-likelihood of descriptors, not yet scaled by the mixture's weights.

    Parameters
    ----------
    descriptors : (N, D) float32
    logs : (K,) float64
        Logarithm of the weight of each Gaussian, over the root of the determinant of its covariance.
    means, inverse : (D, K) float64
        Means, and the inverse of the standard deviations; dimension first, so that Gaussians lie side by side.
    out : (2, D, K) float64
        Overwritten: sums of ``posterior * u`` and of ``posterior * (u^2 - 1)``, u = (x - mean) / deviation.
    """
    dim, count = means.shape
    posterior = np.empty(count)
    u = np.empty((dim, count))
    out[:] = 0.0
    for n in range(len(descriptors)):
        for k in range(count):
            posterior[k] = 0.0
        for d in range(dim):
            x = np.float64(descriptors[n, d])
            for k in range(count):
                u[d, k] = (x - means[d, k]) * inverse[d, k]
                posterior[k] += u[d, k] * u[d, k]
        highest = -np.inf
        for k in range(count):
            posterior[k] = logs[k] - 0.5 * posterior[k]
            highest = max(highest, posterior[k])
        total = 0.0
        for k in range(count):
            posterior[k] = np.exp(posterior[k] - highest)
            total += posterior[k]
        for k in range(count):
            posterior[k] /= total
        for d in range(dim):
            for k in range(count):
                out[0, d, k] += posterior[k] * u[d, k]
                out[1, d, k] += posterior[k] * (u[d, k] * u[d, k] - 1.0)
