"""Plain NumPy versions of the encodings: one descriptor, word or Gaussian at a time."""

from __future__ import annotations

import numpy as np

from delf_engine.config import BowConfig
from delf_engine.features import LocalFeatures
from delf_engine.index import Mixture
from index.oracles import Bags, nearest


def word_counts(features: LocalFeatures, centroids: np.ndarray, k: int) -> np.ndarray:
    """How often each word occurs, (W,)."""
    counts = np.zeros(len(centroids))
    for words in nearest(features.descriptors, centroids, min(k, len(centroids))):
        for word in words:
            counts[word] += 1
    return counts


def bow_scores(
    query: LocalFeatures, images: list[LocalFeatures], centroids: np.ndarray, config: BowConfig
) -> np.ndarray:
    """The cosines of tf-idf vectors."""
    counts = [word_counts(image, centroids, 1) for image in images]
    idf = np.ones(len(centroids))
    if config.idf:
        for word in range(len(centroids)):
            having = sum(count[word] > 0 for count in counts)
            idf[word] = np.log(len(images) / max(1, having))
    asked = word_counts(query, centroids, config.query_assignments) * idf
    return np.array([cosine(asked, count * idf) for count in counts])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / lengths) if lengths > 0 else 0.0


def vlad(sums: Bags, words: int, dim: int, *, intra: bool, power: float) -> np.ndarray:
    """The vector of an image, (W D,), from the summed residuals of its words."""
    blocks = []
    for word in range(words):
        block = np.array(sums.get(word, np.zeros(dim)), np.float64)
        length = np.linalg.norm(block)
        blocks.append(block / length if intra and length > 0 else block)
    return unit(powered(np.concatenate(blocks), power))


def powered(vector: np.ndarray, power: float) -> np.ndarray:
    return np.array([np.sign(x) * abs(x) ** power for x in vector])


def unit(vector: np.ndarray) -> np.ndarray:
    largest = np.abs(vector).max(initial=0.0)
    return vector if largest == 0 else vector / largest / np.linalg.norm(vector / largest)


def fisher(features: LocalFeatures, mixture: Mixture, power: float) -> np.ndarray:
    """The vector of an image, (2 K D,): gradients by the means, then by the variances."""
    weights = mixture.weights.astype(np.float64) / mixture.weights.astype(np.float64).sum()
    means, variances = mixture.means.astype(np.float64), mixture.variances.astype(np.float64)
    of_means, of_variances = np.zeros(means.shape), np.zeros(means.shape)
    for x in features.descriptors.astype(np.float64):
        logs = np.array(
            [
                np.log(w) - 0.5 * (np.log(v).sum() + ((x - m) ** 2 / v).sum())
                for w, m, v in zip(weights, means, variances, strict=True)
            ]
        )
        posterior = np.exp(logs - logs.max())
        posterior /= posterior.sum()
        for k in range(len(weights)):
            u = (x - means[k]) / np.sqrt(variances[k])
            of_means[k] += posterior[k] * u / np.sqrt(weights[k])
            of_variances[k] += posterior[k] * (u**2 - 1) / np.sqrt(2 * weights[k])
    return unit(powered(np.concatenate([of_means.ravel(), of_variances.ravel()]), power))
