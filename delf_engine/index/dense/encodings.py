"""One vector for an image: how often it has each visual word (BoW), summed residuals (VLAD), gradients (Fisher).

The cosine of two such vectors says how similar two images are. Vectors of VLAD and Fisher have unit length; those
of BoW are counts, which `DenseIndex` weighs by how rare each word is among the images that it holds.

References
----------
Sivic, Zisserman: Video Google: A text retrieval approach to object matching in videos. ICCV 2003 (BoW).
Jégou, Perronnin, Douze, Sánchez, Pérez, Schmid: Aggregating local image descriptors into compact codes. PAMI 2012.
Arandjelović, Zisserman: All about VLAD. CVPR 2013.
Teichmann, Araujo, Zhu, Sim: Detect-to-Retrieve: Efficient regional aggregation for image search. CVPR 2019.
Perronnin, Sánchez, Mensink: Improving the Fisher kernel for large-scale image classification. ECCV 2010.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from delf_engine.features import LocalFeatures
from delf_engine.grid import inside_regions
from delf_engine.index.codebook.codebook import Codebook
from delf_engine.index.codebook.mixture import Mixture

Vector = npt.NDArray[np.float32]


def bow_vector(features: LocalFeatures, codebook: Codebook, *, assignments: int = 1) -> Vector:
    """Return how often an image has each visual word, (W,) float32.

    Each descriptor has so many `assignments`, which all count as one (Philbin et al., CVPR 2008, weigh them).
    """
    words = codebook.assign(features.descriptors, min(assignments, codebook.words), mode="fast", threads=1)
    return np.bincount(words.ravel(), minlength=codebook.words).astype(np.float32)


def inverse_document_frequency(images: int, having: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return ln(N / N_w) of each word, (W,) float64: how rare it is among N `images` of which N_w have it.

    A word that no image has weighs as much as one that a single image has; a word that all have weighs nothing.
    """
    return np.log(max(1, images) / np.maximum(having, 1))


def vlad_vector(
    features: LocalFeatures,
    codebook: Codebook,
    *,
    intra: bool,
    power: float,
    regions: Literal["grid"] | None = None,
) -> Vector:
    """Return the sum of the residuals in each word of a small codebook, (W D,) float32 of unit length.

    Zeros for an image without features, or with all of them on their centroids. With `intra` the sum of each word
    is scaled to unit length first; after that sign(x) |x|^p is applied to each component, p being `power`. With
    `regions` the sums of each region of the grid are added to those of the image, all at unit length (R-VLAD); a
    query is encoded without.
    """
    words = codebook.assign(features.descriptors, threads=1)[:, 0]
    residuals = features.descriptors.astype(np.float64) - codebook.centroids[words]
    parts = [np.ones(len(features), bool), *(inside_regions(features) if regions else ())]
    total = np.zeros(codebook.centroids.shape)
    for inside in parts:
        sums = np.zeros_like(total)
        np.add.at(sums, words[inside], residuals[inside])
        total += _unit(sums)
    if intra:
        lengths = np.linalg.norm(total, axis=1, keepdims=True)
        total /= np.where(lengths > 0, lengths, 1)
    return _normalised(total.ravel(), power)


def fisher_vector(features: LocalFeatures, mixture: Mixture, *, power: float) -> Vector:
    """Return where the means and variances of a mixture would have to move to describe an image better.

    For each Gaussian of weight w, mean m and deviation s, with p its posterior probability given a descriptor x,
    these are the sums over all descriptors of ``p (x - m) / s / sqrt(w)`` and of
    ``p ((x - m)^2 / s^2 - 1) / sqrt(2 w)``. Gradients by the weights are left out, as published;
    ``sign(x) |x|^power`` is applied to each component. (2 K D,) float32 of unit length, means first, then
    variances; zeros for an image without features.
    """
    if not len(features):
        return np.zeros(2 * mixture.means.size, np.float32)
    x, model = features.descriptors.astype(np.float64), mixture.model
    posterior = model.predict_proba(x)  # (N, K)
    means, deviations, weights = model.means_, np.sqrt(model.covariances_), model.weights_[:, None]
    mass, first, second = posterior.sum(axis=0)[:, None], posterior.T @ x, posterior.T @ np.square(x)
    of_means = (first - mass * means) / deviations / np.sqrt(weights)
    spread = second - 2 * means * first + mass * np.square(means)  # sum p (x - m)^2
    of_variances = (spread / np.square(deviations) - mass) / np.sqrt(2 * weights)
    return _normalised(np.concatenate([of_means.ravel(), of_variances.ravel()]), power)


def _normalised(vector: npt.NDArray[np.float64], power: float) -> Vector:
    return _unit(np.sign(vector) * np.abs(vector) ** power).astype(np.float32)


def euclidean_length(array: npt.NDArray[np.float64]) -> float:
    """Return the length of an array over all components.

    Summed by NumPy: BLAS shares out more than 10,000 products among its threads, and the bits depend on their
    number.
    """
    return math.sqrt(np.square(array).sum())


def _unit(array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return an array scaled to unit length over all components; zeros stay zeros."""
    length = euclidean_length(array)
    return array / length if length > 0 else array
