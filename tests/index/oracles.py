"""Plain NumPy versions of what the index kernels do: dictionaries of words, one descriptor at a time."""

from __future__ import annotations

import numpy as np

from delf_engine.config import AsmkConfig
from delf_engine.features import LocalFeatures

Bags = dict[int, np.ndarray]


def nearest(descriptors: np.ndarray, centroids: np.ndarray, k: int) -> np.ndarray:
    """(N, k) nearest words; ties go to the lowest."""
    out = []
    for x in descriptors.astype(np.float64):
        squared = [sum((a - b) ** 2 for a, b in zip(x, c, strict=True)) for c in centroids.astype(np.float64)]
        out.append(np.argsort(squared, kind="stable")[:k])
    return np.array(out, np.int32).reshape(len(descriptors), k)


def bag(features: LocalFeatures, centroids: np.ndarray, k: int) -> Bags:
    """The signs of the summed residuals of each visual word."""
    sums: dict[int, np.ndarray] = {}
    assigned = nearest(features.descriptors, centroids, min(k, len(centroids)))
    for x, words in zip(features.descriptors.astype(np.float64), assigned, strict=True):
        for word in words:
            residual = x - centroids[word].astype(np.float64)
            sums[int(word)] = sums.get(int(word), 0) + residual
    return {word: total > 0 for word, total in sums.items()}


def asmk_score(query: Bags, image: Bags, collection: list[Bags], dim: int, config: AsmkConfig) -> float:
    """The similarity of two images as `delf_engine.index.asmk` defines it."""
    total = 0.0
    for word in sorted(query.keys() & image.keys()):
        s = 1 - 2 * int((query[word] != image[word]).sum()) / dim
        if s >= config.threshold:
            weight = np.log(len(collection) / sum(word in b for b in collection)) ** 2 if config.idf else 1.0
            total += weight * np.sign(s) * abs(s) ** config.alpha
    return total / (np.sqrt(len(query)) * np.sqrt(max(len(image), 1)))


def kdtree_score(query: LocalFeatures, images: list[LocalFeatures], neighbours: int) -> np.ndarray:
    """The votes of `delf_engine.index.kdtree` with exact neighbours."""
    rows = [(i, x) for i, image in enumerate(images) for x in image.descriptors.astype(np.float64)]
    pairs: dict[int, tuple[float, int, float]] = {}  # row: distance, image, vote of its nearest query descriptor
    for x in query.descriptors.astype(np.float64):
        squared = np.array([((x - y) ** 2).sum() for _, y in rows])
        nearest_of_image: dict[int, int] = {}
        found = np.argsort(squared, kind="stable")[:neighbours]
        background = 0.99 * max(0.0, 1 - squared[found[-1]] / 2) if len(found) else 0.0
        for row in found:
            nearest_of_image.setdefault(rows[row][0], int(row))
        for image, row in nearest_of_image.items():
            if row not in pairs or squared[row] < pairs[row][0]:
                pairs[row] = (squared[row], image, max(0.0, 1 - squared[row] / 2) - background)
    scores = np.zeros(len(images))
    for _, image, vote in pairs.values():
        scores[image] += vote
    return scores
