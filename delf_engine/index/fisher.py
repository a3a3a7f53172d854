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

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from delf_engine.config import FisherConfig, load_profile
from delf_engine.features import LocalFeatures
from delf_engine.index.collection import IfDamaged
from delf_engine.index.dense import DenseIndex, normalised
from delf_engine.index.encoded import saved_options
from delf_engine.index.mixture import Mixture
from delf_engine.index.threads import in_threads

__all__ = ["FisherIndex"]


class FisherIndex(DenseIndex):
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

    def __init__(self, mixture: Mixture, config: FisherConfig | None = None) -> None:
        self.mixture = mixture
        self.config = load_profile().fisher if config is None else config
        what = f"means and variances of {mixture.components:,} Gaussians of {mixture.dim} dimensions"
        super().__init__(mixture.dim, 2 * mixture.means.size, self.config.precision, what)
        deviations = np.sqrt(mixture.variances.astype(np.float64)).T
        weights = mixture.weights.astype(np.float64) / mixture.weights.sum(dtype=np.float64)
        self._logs = np.log(weights) - np.log(deviations).sum(axis=0)
        self._means = np.ascontiguousarray(mixture.means.T, np.float64)
        self._inverse = np.ascontiguousarray(1 / deviations)
        self._scale = np.stack([1 / np.sqrt(weights), 1 / np.sqrt(2 * weights)])[:, :, None]  # (2, K, 1)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        mixture: Mixture,
        config: FisherConfig | None = None,
        *,
        check: bool | None = None,
        damaged: IfDamaged = "error",
    ) -> FisherIndex:
        """Open an index that was saved. Its arrays are memory-mapped.

        Parameters
        ----------
        directory : path
        mixture : Mixture
            The one it was built with.
        config : FisherConfig, optional
            By default that which it was saved with.
        check : bool, optional
            Whether to compare the checksums of all files, not their sizes only. By default where they are
            small (64 MiB).
        damaged : "error" or "skip"
            With "skip" a damaged segment is left out with a `DelfEngineWarning`; the next save deletes it.

        Raises
        ------
        MismatchError
            If it was built with another mixture, or with other options than `config`.
        FormatError
            If it is missing, damaged, cut short, or of another version.
        """

        def make(header: Mapping[str, Any]) -> FisherIndex:
            options = (mixture, config, FisherConfig, FisherConfig.model_fields, str(directory))
            return cls(mixture, saved_options(header, "mixture", *options))

        index: FisherIndex = cls._opened(directory, make, check, damaged)
        return index

    def __repr__(self) -> str:
        return f"FisherIndex({len(self)} images, {self.mixture!r})"

    def _header(self) -> dict[str, Any]:
        return {"mixture": self.mixture.hash, "config": self.config.model_dump(mode="json")}

    def _vectors(self, items: Sequence[LocalFeatures], threads: int) -> list[npt.NDArray[np.float32]]:
        return in_threads(lambda i: self._vector(items[i].descriptors), len(items), threads)

    def _vector(self, descriptors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        from delf_engine.index import fisher_kernels

        sums = np.empty((2, *self._means.shape))
        fisher_kernels.gradients(descriptors, self._logs, self._means, self._inverse, sums)
        return normalised((sums.transpose(0, 2, 1) * self._scale).ravel(), self.config.power)
