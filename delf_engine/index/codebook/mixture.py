"""`Mixture`: the Gaussian mixture that Fisher vectors are gradients of, trained by expectation maximisation."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.errors import ConfigError, FeatureError
from delf_engine.index.codebook.encoder import Encoder
from delf_engine.support.arrays import LARGEST, check_array

_SMALLEST_VARIANCE = 1e-6  # added to each, as scikit-learn does: a component of equal descriptors has none


class Mixture(Encoder):
    """Gaussians with diagonal covariances, and how much of all descriptors each stands for.

    Parameters
    ----------
    weights : (K,) float32
        Positive; they are divided by their sum wherever they are used.
    means : (K, D) float32
    variances : (K, D) float32
        Positive. All are copied, and read-only afterwards.

    Raises
    ------
    FeatureError
        If shapes disagree, or a value is not finite, huge, or not positive where it must be.
    """

    _what = "mixture"
    _names = ("weights", "means", "variances")

    def __init__(self, weights: npt.ArrayLike, means: npt.ArrayLike, variances: npt.ArrayLike) -> None:
        means = check_array("means", means, np.float32, (None, None), largest=LARGEST)
        if not means.size:
            raise FeatureError(f"a mixture needs at least one Gaussian of one dimension, got means {means.shape}")
        self.means: npt.NDArray[np.float32] = means.copy()
        self.weights = check_array("weights", weights, np.float32, (len(means),), largest=LARGEST).copy()
        self.variances = check_array("variances", variances, np.float32, means.shape, largest=LARGEST).copy()
        if not (self.weights > 0).all() or not (self.variances > 0).all():
            raise FeatureError("the weights and variances of a mixture must be positive")
        self._seal(self.weights, self.means, self.variances)

    @classmethod
    def train(
        cls, descriptors: npt.ArrayLike, components: int, *, iterations: int = 100, seed: int = 0
    ) -> Mixture:
        """Fit a mixture by expectation maximisation (scikit-learn), from the clusters of k-means on.

        The same descriptors, options and seed give the same mixture, with any number of threads.

        Parameters
        ----------
        descriptors : (N, D) float32
            Of as many photographs as there are, in memory: draw a sample beforehand where there are too many.
        components : int
            Gaussians K, at most N; N is at least 2.
        iterations : int
            Of expectation maximisation at most; it stops when the likelihood grows by less than 0.001 in one.
        seed : int
            Seed of k-means.

        Raises
        ------
        ConfigError
            If `components` or `iterations` is below 1.
        FeatureError
            If there are fewer descriptors than components, or NaN, infinite or huge values among them.
        """
        if components < 1 or iterations < 1:
            raise ConfigError(f"components and iterations must be at least 1, got {components} and {iterations}")
        data = check_array("descriptors", descriptors, np.float32, (None, None), largest=LARGEST)
        if len(data) < max(components, 2):
            raise FeatureError(
                f"{components} components need at least as many descriptors, and 2, got {len(data)}; give more "
                "photographs, or ask for fewer components"
            )
        if not data.shape[1]:
            raise FeatureError("descriptors of a mixture need at least one dimension")
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
        from threadpoolctl import threadpool_limits

        model = GaussianMixture(
            components,
            covariance_type="diag",
            reg_covar=_SMALLEST_VARIANCE,
            max_iter=iterations,
            random_state=seed,
        )
        # One thread: with several, BLAS adds in an order that depends on their number.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are a limit that the caller set
            model.fit(data.astype(np.float64))
        return cls(model.weights_, model.means_, model.covariances_)

    @cached_property
    def model(self) -> Any:
        """The same as a fitted `sklearn.mixture.GaussianMixture`, in float64."""
        from sklearn.mixture import GaussianMixture

        model = GaussianMixture(self.components, covariance_type="diag")
        weights = self.weights.astype(np.float64)
        model.weights_, model.means_ = weights / weights.sum(), self.means.astype(np.float64)
        model.covariances_ = self.variances.astype(np.float64)
        model.precisions_cholesky_ = 1 / np.sqrt(model.covariances_)
        return model

    @property
    def components(self) -> int:
        """Number of Gaussians K."""
        return len(self.weights)

    @property
    def dim(self) -> int:
        """Descriptor dimension D."""
        return int(self.means.shape[1])

    def _tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {"weights": self.weights, "means": self.means, "variances": self.variances}

    def __repr__(self) -> str:
        return f"Mixture({self.components} components x {self.dim}-D, {self.hash[:8]})"
