"""`FisherIndex`: candidates by Fisher vectors.

A Gaussian mixture describes descriptors at large; an image is the direction in which its means and variances
would have to move to describe the image's descriptors better. For each Gaussian of weight w, mean m and
deviation s, with p its posterior probability given a descriptor x, and both sums over the image's descriptors::

    means:       sum p (x - m) / s  / sqrt(w)
    variances:   sum p ((x - m)^2 / s^2 - 1)  / sqrt(2 w)

All components are raised to a power with their sign, the whole is scaled to unit length, and two images are as
similar as the cosine of their vectors. The published formula also divides by the number of descriptors, which a
cosine does not see; gradients by the weights are left out, as there.

References
----------
Perronnin, Sánchez, Mensink: Improving the Fisher kernel for large-scale image classification. ECCV 2010.
Perronnin, Liu, Sánchez, Poirier: Large-scale image retrieval with compressed Fisher vectors. CVPR 2010.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delf_engine.config import FisherConfig
from delf_engine.features import LocalFeatures
from delf_engine.index.dense import DenseIndex, Vector, normalised
from delf_engine.index.mixture import Mixture
from delf_engine.support.threads import in_threads

__all__ = ["FisherIndex"]


class FisherIndex(DenseIndex[Mixture, FisherConfig]):
    """One vector of 2 K D components an image, of K Gaussians and D dimensions: means first, then variances.

    Searching reads all vectors: it costs time in proportion to images, components and dimensions.

    Parameters
    ----------
    mixture : Mixture
        Of tens or hundreds of Gaussians, best trained on other images than those indexed.
    config : FisherConfig, optional
        By default that of the ``default`` profile.

    Raises
    ------
    ConfigError
        If the mixture is so large that an image would have more than 262,144 components.
    """

    kind = "fisher"
    _source = "mixture"
    _options = FisherConfig
    _built_with = tuple(FisherConfig.model_fields)

    def __init__(self, mixture: Mixture, config: FisherConfig | None = None) -> None:
        self.mixture = mixture
        super().__init__(mixture, config)
        deviations = np.sqrt(mixture.variances.astype(np.float64)).T
        weights = mixture.weights.astype(np.float64) / mixture.weights.sum(dtype=np.float64)
        self._logs = np.log(weights) - np.log(deviations).sum(axis=0)
        self._means = np.ascontiguousarray(mixture.means.T, np.float64)
        self._inverse = np.ascontiguousarray(1 / deviations)
        self._scale = np.stack([1 / np.sqrt(weights), 1 / np.sqrt(2 * weights)])[:, :, None]  # (2, K, 1)

    @classmethod
    def _length(cls, vocabulary: Mixture) -> tuple[int, str]:
        what = f"means and variances of {vocabulary.components:,} Gaussians of {vocabulary.dim} dimensions"
        return 2 * vocabulary.means.size, what

    def _images(self, items: Sequence[LocalFeatures], threads: int) -> list[Vector]:
        return in_threads(lambda i: self._vector(items[i].descriptors), len(items), threads)

    def _vector(self, descriptors: npt.NDArray[np.float32]) -> Vector:
        from delf_engine.index import fisher_kernels

        sums = np.empty((2, *self._means.shape))
        fisher_kernels.gradients(descriptors, self._logs, self._means, self._inverse, sums)
        return normalised((sums.transpose(0, 2, 1) * self._scale).ravel(), self.config.power)
